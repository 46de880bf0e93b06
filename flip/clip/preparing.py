"""The first half of an encoder: photos as the network takes them, without the network."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING

from flip.arrays import Array
from flip.clip.geometry import Geometry
from flip.clip.tower import split_preprocess
from flip.files import JsonObject

if TYPE_CHECKING:
    from PIL.Image import Image


class Preparer:
    """Makes photos ready for an open_clip model, in a process that holds none.

    Parameters
    ----------
    preprocess_cfg : dict
        open_clip's, whole.
    """

    def __init__(self, preprocess_cfg: JsonObject) -> None:
        self._cfg = preprocess_cfg

    @cached_property
    def geometry(self) -> Geometry | None:
        """Resize and crop, for scaled decoding; None if scaled decoding does not support it."""
        return Geometry.of(self._cfg)

    @cached_property
    def _prepare(self) -> Callable[[Image], Array]:
        from open_clip.transform import PreprocessCfg, image_transform_v2

        return split_preprocess(image_transform_v2(PreprocessCfg(**self._cfg), is_train=False))[0]

    def prepare(self, image: Image) -> Array:
        """Return an RGB image resized and cropped, as the encoder's own method does."""
        return self._prepare(image)
