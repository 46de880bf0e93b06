"""Resizing and cropping as open_clip's validation transform does it, of any region of an image."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from flip.files import JsonObject

if TYPE_CHECKING:
    from PIL.Image import Image, Resampling

    from flip.data.scaled import ScaledPhoto

#: A photo that is decoded at a smaller scale keeps this many pixels, along each side, for one that the network sees.
PIXELS_KEPT = 2


class Geometry(NamedTuple):
    """Resize and crop from a photo to the input of a network.

    Attributes
    ----------
    width, height : int
        Of what the network sees.
    mode : {"shortest", "longest", "squash"}
        ``resize_mode`` of open_clip: fill the frame and crop, fit into it and pad with black, or stretch.
    is_bilinear : bool
        Bicubic otherwise.
    """

    width: int
    height: int
    mode: str
    is_bilinear: bool

    @classmethod
    def of(cls, preprocess_cfg: JsonObject) -> Geometry | None:
        """Return the geometry of a whole ``preprocess_cfg``, or None where it does what is not known here."""
        size, mode = preprocess_cfg.get("size"), preprocess_cfg.get("resize_mode", "shortest")
        height, width = (size, size) if isinstance(size, int) else tuple(size or (0, 0))
        fill, interpolation = preprocess_cfg.get("fill_color", 0), preprocess_cfg.get("interpolation", "bicubic")
        known = mode in ("shortest", "longest", "squash") and interpolation in ("bicubic", "bilinear", "random")
        if not known or fill or not height or not width:
            return None
        # open_clip gives no interpolation to the transform of frames that are not square.
        bilinear = interpolation == "bilinear" and (mode != "shortest" or width == height)
        return cls(width, height, mode, bilinear)

    def resized(self, width: int, height: int) -> tuple[int, int]:
        """Return width and height to which a region of a photo is resized before it is cropped or padded."""
        if self.mode == "squash":
            return self.width, self.height
        if self.mode == "shortest" and self.width == self.height:
            # torchvision rounds the longer side down.
            short = min(width, height)
            return int(self.width * width / short), int(self.height * height / short)
        ratios = width / self.width, height / self.height
        ratio = max(ratios) if self.mode == "longest" else min(ratios)
        return max(1, round(width / ratio)), max(1, round(height / ratio))

    def least(self, width: int, height: int) -> tuple[int, int]:
        """Return the smallest (width, height) at which a region may be decoded."""
        resized = self.resized(width, height)
        return PIXELS_KEPT * resized[0], PIXELS_KEPT * resized[1]

    def view(self, photo: ScaledPhoto) -> Image:
        """Return the network's input image of a photo's region: resized, then cropped."""
        width, height = self.resized(*photo.size)
        seen = photo.image.resize((width, height), self._resample, box=photo.region)
        # Pillow fills what is cropped beyond the edge with black.
        left, top = _offset(width, self.width), _offset(height, self.height)
        return seen.crop((left, top, left + self.width, top + self.height))

    @property
    def _resample(self) -> Resampling:
        from PIL.Image import Resampling

        return Resampling.BILINEAR if self.is_bilinear else Resampling.BICUBIC


def _offset(resized: int, seen: int) -> int:
    """Return the offset of the centre crop along one side, rounded as open_clip does."""
    return round((resized - seen) / 2) if resized >= seen else -((seen - resized) // 2)
