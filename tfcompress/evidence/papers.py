"""The papers that tfcompress rests on, with their BibTeX."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable


@dataclasses.dataclass(frozen=True)
class Paper:
    """A source of claims.

    Attributes:
        short: how it is cited in a sentence.
        url: where to read it.
        bibtex: one entry.
    """

    short: str
    url: str
    bibtex: str

    @property
    def key(self) -> str:
        """The key of the BibTeX entry."""
        return re.match(r"@\w+\{([^,]+),", self.bibtex)[1]


BEYER = Paper(
    "Beyer et al. 2021",
    "https://arxiv.org/abs/2106.05237",
    """@inproceedings{beyer2022patient,
  title = {Knowledge Distillation: A Good Teacher Is Patient and Consistent},
  author = {Beyer, Lucas and Zhai, Xiaohua and Royer, Am{\\'e}lie and Markeeva, Larisa
            and Anil, Rohan and Kolesnikov, Alexander},
  booktitle = {Proceedings of the IEEE/CVF Conference on Computer Vision and Pattern
               Recognition},
  pages = {10925--10934},
  year = {2022},
  eprint = {2106.05237},
  archiveprefix = {arXiv},
}""",
)

MUSCO = Paper(
    "Gusak et al. 2019 (MUSCO)",
    "https://arxiv.org/abs/1903.09973",
    """@inproceedings{gusak2019musco,
  title = {Automated Multi-Stage Compression of Neural Networks},
  author = {Gusak, Julia and Kholiavchenko, Maksym and Ponomarev, Evgeny and
            Markeeva, Larisa and Blagoveschensky, Philip and Cichocki, Andrzej and
            Oseledets, Ivan},
  booktitle = {Proceedings of the IEEE/CVF International Conference on Computer Vision
               Workshops},
  year = {2019},
  eprint = {1903.09973},
  archiveprefix = {arXiv},
  note = {arXiv title: MUSCO: Multi-Stage Compression of neural networks},
}""",
)

MUSCO_CODE = Paper(
    "musco-pytorch (MUSCO's authors)",
    "https://github.com/musco-ai/musco-pytorch",
    """@misc{muscopytorch,
  title = {musco-pytorch},
  author = {{MUSCO's authors}},
  year = {2021},
  howpublished = {\\url{https://github.com/musco-ai/musco-pytorch}},
  note = {Version 1.0.6, commit 74b9f4a},
}""",
)

NAKAJIMA = Paper(
    "Nakajima et al. 2013",
    "https://jmlr.org/papers/v14/nakajima13a.html",
    """@article{nakajima2013global,
  title = {Global Analytic Solution of Fully-observed Variational {B}ayesian Matrix
           Factorization},
  author = {Nakajima, Shinichi and Sugiyama, Masashi and Babacan, S. Derin and
            Tomioka, Ryota},
  journal = {Journal of Machine Learning Research},
  volume = {14},
  pages = {1--37},
  year = {2013},
}""",
)

SCHUURMANS = Paper(
    "Schuurmans et al. 2023",
    "https://arxiv.org/abs/2305.05318",
    """@inproceedings{schuurmans2023informative,
  title = {How Informative is the Approximation Error from Tensor Decomposition for
           Neural Network Compression?},
  author = {Schuurmans, Jetze T. and Batselier, Kim and Kooij, Julian F. P.},
  booktitle = {International Conference on Learning Representations},
  year = {2023},
  eprint = {2305.05318},
  archiveprefix = {arXiv},
}""",
)

EAGLEEYE = Paper(
    "Li et al. 2020 (EagleEye)",
    "https://arxiv.org/abs/2007.02491",
    """@inproceedings{li2020eagleeye,
  title = {{EagleEye}: Fast Sub-net Evaluation for Efficient Neural Network Pruning},
  author = {Li, Bailin and Wu, Bowen and Su, Jiang and Wang, Guangrun and Lin, Liang},
  booktitle = {European Conference on Computer Vision},
  year = {2020},
  doi = {10.1007/978-3-030-58536-5_38},
  eprint = {2007.02491},
  archiveprefix = {arXiv},
}""",
)

HAJIMOLAHOSEINI = Paper(
    "Hajimolahoseini et al. 2024",
    "https://arxiv.org/abs/2407.20266",
    """@inproceedings{hajimolahoseini2024accelerating,
  title = {Accelerating the Low-Rank Decomposed Models},
  author = {Hajimolahoseini, Habib and Ahmed, Walid and Wen, Shuangyue and Liu, Yang},
  booktitle = {Proceedings of The 4th NeurIPS Efficient Natural Language and Speech
               Processing Workshop},
  series = {Proceedings of Machine Learning Research},
  volume = {262},
  pages = {222--231},
  year = {2024},
  eprint = {2407.20266},
  archiveprefix = {arXiv},
}""",
)

ALIGNMENT = Paper(
    "tensorflow issue 46002 (2020)",
    "https://github.com/tensorflow/tensorflow/issues/46002",
    """@misc{tensorflow46002,
  title = {{TFlite} Poor Performance on {Pixel} 3 {CPU} when channel not multiple of 4},
  author = {{Makkiy}},
  year = {2020},
  howpublished = {\\url{https://github.com/tensorflow/tensorflow/issues/46002}},
}""",
)

PAPERS = (
    MUSCO,
    MUSCO_CODE,
    BEYER,
    NAKAJIMA,
    SCHUURMANS,
    EAGLEEYE,
    HAJIMOLAHOSEINI,
    ALIGNMENT,
)


def bibtex(papers: Iterable[Paper] = PAPERS) -> str:
    """The entries of some papers, each once, in the order of `PAPERS`.

    Args:
        papers: which; all by default.

    Example:
        >>> bibtex([PAPERS[0]]).splitlines()[0]
        '@inproceedings{gusak2019musco,'
    """
    wanted = set(papers)
    return "\n\n".join(paper.bibtex for paper in PAPERS if paper in wanted) + "\n"
