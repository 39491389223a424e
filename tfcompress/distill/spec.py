"""What teacher and student see, as plain data."""

from __future__ import annotations

import dataclasses

from tfcompress.errors import TfcompressError, nearest

MODES = ("fixed", "independent", "consistent", "function_matching")
CROPS = ("none", "mild", "inception")


class ViewError(TfcompressError, ValueError):
    """A view specification that does not exist."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ViewSpec:
    """How teacher and student see an image.

    Args:
        mode: "fixed": the teacher sees the whole image, the student a random crop;
            "independent": each sees its own random crop; "consistent": both see one
            random crop; "function_matching": one random crop, mixed with another
            image's (mixup, lambda ~ U[0, 1]).
        crop: "inception" (5 to 100 % of the area, ratio 3/4 to 4/3), "mild"
            (7/8 to all of each side, random place) or "none".
        flip: whether crops are mirrored half of the time; None leaves it to the data
            set in a recipe, and is no elsewhere.
        smallest_area: smallest share of the area in an inception crop, in (0, 1].

    Raises:
        ViewError: an unknown mode or crop, or an area outside (0, 1].
    """

    mode: str = "function_matching"
    crop: str = "inception"
    flip: bool | None = None
    smallest_area: float = 0.05

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ViewError(f"No view mode '{self.mode}'; {nearest(self.mode, MODES)}")
        if self.crop not in CROPS:
            raise ViewError(f"No crop '{self.crop}'; {nearest(self.crop, CROPS)}")
        if not 0.0 < self.smallest_area <= 1.0:
            raise ViewError(
                "smallest_area must lie in (0, 1]. "
                f"Received: smallest_area={self.smallest_area}"
            )

    def for_data(self, mirror_symmetric: bool) -> ViewSpec:
        """This specification with `flip` decided by the data where it is open."""
        if self.flip is not None:
            return self
        return dataclasses.replace(self, flip=mirror_symmetric)
