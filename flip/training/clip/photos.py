"""Training photos as pixels: decoded in threads ahead of the network, each in a view that its random numbers decide."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from flip.data.images import decode_image
from flip.errors import DataError
from flip.training.clip.examples import Examples

#: Smallest share of a photo's area that a view shows, and how far its shape may differ from a square.
MIN_AREA = 0.5
SHAPES = (3 / 4, 4 / 3)

#: Batches that are decoded, or being decoded, while the network works on one.
BATCHES_AHEAD = 2

Pixels = npt.NDArray[np.uint8]


class TrainingPhotos:
    """Reads the photos of ``Examples`` for one architecture.

    Parameters
    ----------
    examples : Examples
    preprocess_cfg : dict
        open_clip's: ``size``, ``mean``, ``std``, ``interpolation``.
    """

    def __init__(self, examples: Examples, preprocess_cfg: dict[str, Any]) -> None:
        size = preprocess_cfg["size"]
        height, width = (size, size) if isinstance(size, int) else size
        self._size = (int(width), int(height))
        bilinear = preprocess_cfg.get("interpolation") == "bilinear"
        self._resample = Image.Resampling.BILINEAR if bilinear else Image.Resampling.BICUBIC
        self._mean, self._std = (torch.tensor(preprocess_cfg[k]).view(1, -1, 1, 1) for k in ("mean", "std"))
        self._examples = examples
        #: Why a photo could not be read, by row; another of its class stood in for it.
        self.unreadable: dict[int, str] = {}

    def read(self, row: int, numbers: Sequence[float]) -> Pixels:
        """Return a view of a photo, uint8 (height, width, 3); of the next of its class where it cannot be read.

        Raises
        ------
        DataError
            If no photo of the class can be read.
        """
        kin = np.flatnonzero(self._examples.labels == self._examples.labels[row])
        start = int(np.searchsorted(kin, row))
        for candidate in np.roll(kin, -start):
            if int(candidate) in self.unreadable:
                continue
            source = self._examples.sources[candidate]
            try:
                image = decode_image(Path(source.file), source.box)
            except DataError as e:
                self.unreadable[int(candidate)] = f"{source.file}: {e}"
                continue
            return random_view(image, self._size, numbers, self._resample)
        raise DataError(f"no training photo of a class can be read ({self.unreadable[row]}); check the files")

    def batches(
        self, rows: Sequence[npt.NDArray[np.int64]], views: Sequence[npt.NDArray[np.float64]], workers: int
    ) -> Generator[torch.Tensor]:
        """Yield batches of pixels, uint8 (b, height, width, 3), decoding ahead of who takes them."""
        ahead: deque[list[Future[Pixels]]] = deque()
        todo = iter(zip(rows, views, strict=True))
        with ThreadPoolExecutor(workers) as pool:
            try:
                while True:
                    while len(ahead) <= BATCHES_AHEAD and (batch := next(todo, None)) is not None:
                        ahead.append([pool.submit(self.read, int(r), v) for r, v in zip(*batch, strict=True)])
                    if not ahead:
                        return
                    yield torch.from_numpy(np.stack([future.result() for future in ahead.popleft()]))
            finally:
                for futures in ahead:
                    for future in futures:
                        future.cancel()

    def to_network(self, pixels: torch.Tensor, device: torch.device) -> torch.Tensor:
        """Return what the network takes: float32 (b, 3, height, width), normalised, channels last in memory."""
        scaled = pixels.to(device, non_blocking=True).permute(0, 3, 1, 2).float().div_(255)
        return scaled.sub_(self._mean.to(device)).div_(self._std.to(device))


def random_view(
    image: Image.Image, size: tuple[int, int], numbers: Sequence[float], resample: Image.Resampling
) -> Pixels:
    """Return a part of a photo, resized and perhaps mirrored, uint8 (height, width, 3).

    Parameters
    ----------
    image : PIL image
    size : (width, height)
    numbers : 5 floats in [0, 1)
        Area from ``MIN_AREA`` to 1, shape (log-uniform in ``SHAPES``), left, top, mirrored or not.
    resample : PIL resampling filter
    """
    area, shape, left, top, mirror = numbers
    low, high = (math.log(bound) for bound in SHAPES)
    ratio = math.exp(low + shape * (high - low))
    target = (MIN_AREA + area * (1 - MIN_AREA)) * image.width * image.height
    width = min(image.width, max(1, round(math.sqrt(target * ratio))))
    height = min(image.height, max(1, round(math.sqrt(target / ratio))))
    x, y = left * (image.width - width), top * (image.height - height)
    view = image.resize(size, resample, box=(x, y, x + width, y + height), reducing_gap=None)
    return np.asarray(view.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirror < 0.5 else view)
