"""What teacher and student see, as plain data."""

from __future__ import annotations

import dataclasses

from tfcompress.errors import TfcompressError, nearest

MODES = ("fixed", "independent", "consistent", "function_matching")
CROPS = ("none", "mild", "random", "inception")
TEACHER_VIEWS = ("whole", "central", "ensemble")
MIXUPS = ("batch", "sample")
# Of losses and optimizers, here where no TensorFlow is imported.
LOSS_NAMES = ("kl", "reverse_kl", "js", "hard", "logits", "squared_error")
ALGORITHMS = ("adam", "soap")


class ViewError(TfcompressError, ValueError):
    """A view specification that does not exist, or does not fit the inputs."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ViewSpec:
    """How teacher and student see an image.

    Args:
        mode: "fixed": the teacher always sees the same of an image, the student a
            random crop; "independent": each sees its own random crop; "consistent":
            both see one random crop; "function_matching": one random crop, mixed with
            another image's (mixup, lambda ~ U[0, 1]).
        crop: "inception" (5 to 100 % of the area, ratio 3/4 to 4/3), "random" (7/8 of
            each side, random place: 224 of 256 pixels), "mild" (7/8 to all of each
            side, for models that are shown whole images later) or "none".
        flip: whether crops are mirrored half of the time; None leaves it to the data
            set in a recipe, and is no elsewhere.
        smallest_area: smallest share of the area in an inception crop, in (0, 1].
        colour: strength in [0, 1) of random brightness, contrast and (of three
            channels) saturation, each a factor in [1 - colour, 1 + colour].
        mixup: whether lambda is drawn once per "batch", as in the paper, or for each
            "sample".
        teacher: what the teacher sees in mode "fixed": the "whole" image, its
            "central" 7/8, or an "ensemble": the mean prediction over `teacher_crops`
            random crops, always the same ones. Compute those once: `cache_logits`.
        teacher_crops: crops in the ensemble.

    Raises:
        ViewError: an unknown name, or a number out of range.

    Example:
        >>> ViewSpec(crop="random", flip=True).consistent
        True
    """

    mode: str = "function_matching"
    crop: str = "inception"
    flip: bool | None = None
    smallest_area: float = 0.05
    colour: float = 0.0
    mixup: str = "batch"
    teacher: str = "whole"
    teacher_crops: int = 1000

    def __post_init__(self) -> None:
        for name, value, known in (
            ("view mode", self.mode, MODES),
            ("crop", self.crop, CROPS),
            ("mixup", self.mixup, MIXUPS),
            ("teacher view", self.teacher, TEACHER_VIEWS),
        ):
            if value not in known:
                raise ViewError(f"No {name} '{value}'; {nearest(value, known)}")
        if not 0.0 < self.smallest_area <= 1.0:
            raise ViewError(
                "smallest_area must lie in (0, 1]. "
                f"Received: smallest_area={self.smallest_area}"
            )
        if not 0.0 <= self.colour < 1.0:
            raise ViewError(f"colour must lie in [0, 1). Received: {self.colour}")
        if self.teacher_crops < 1:
            raise ViewError(
                f"teacher_crops must be at least 1. Received: {self.teacher_crops}"
            )
        if self.teacher != "whole" and self.mode != "fixed":
            raise ViewError(
                f"teacher='{self.teacher}' belongs to mode 'fixed'; in the others the "
                f"teacher sees random crops. Received: mode='{self.mode}'"
            )

    @property
    def consistent(self) -> bool:
        """Whether teacher and student see the same."""
        return self.mode in ("consistent", "function_matching")

    def for_data(self, mirror_symmetric: bool) -> ViewSpec:
        """This specification with `flip` decided by the data where it is open."""
        if self.flip is not None:
            return self
        return dataclasses.replace(self, flip=mirror_symmetric)

    @classmethod
    def named(cls, name: str, **changes: object) -> ViewSpec:
        """A mode by the name it has in the paper.

        Args:
            name: a key of `PAPER_VIEWS`: "fix/rs", "fix/cc", "fix/ic_ens", "ind/rc",
                "ind/ic", "same/rc", "same/ic" or "funmatch".
            **changes: fields that differ.

        Raises:
            ViewError: no such name.

        Reference: Beyer et al. 2021, section 3.1.1.

        Example:
            >>> ViewSpec.named("same/rc").crop
            'random'
        """
        if name not in PAPER_VIEWS:
            raise ViewError(f"No view '{name}'; {nearest(name, PAPER_VIEWS)}")
        return dataclasses.replace(PAPER_VIEWS[name], **changes)


# rs: resized, cc: central crop, rc: random crop, ic: inception crop, ens: ensemble.
PAPER_VIEWS: dict[str, ViewSpec] = {
    "fix/rs": ViewSpec(mode="fixed", crop="none"),
    "fix/cc": ViewSpec(mode="fixed", crop="random", teacher="central"),
    "fix/ic_ens": ViewSpec(mode="fixed", crop="inception", teacher="ensemble"),
    "ind/rc": ViewSpec(mode="independent", crop="random"),
    "ind/ic": ViewSpec(mode="independent", crop="inception"),
    "same/rc": ViewSpec(mode="consistent", crop="random"),
    "same/ic": ViewSpec(mode="consistent", crop="inception"),
    "funmatch": ViewSpec(mode="function_matching", crop="inception"),
}
