"""Training photos as pixels: decoded and randomly cropped in threads ahead of the network."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from flip.arrays import Float64Array, IntArray, PixelArray
from flip.data.images import decode_image
from flip.errors import DataError
from flip.training.clip.examples import Examples
from flip.training.crops import random_crop
from flip.training.prefetch import prefetch


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

    def read(self, row: int, numbers: Sequence[float]) -> PixelArray:
        """Return a random crop of a photo, uint8 (height, width, 3); of the next of its class where it cannot be read.

        Parameters
        ----------
        row : int
            Of the examples.
        numbers : 5 floats in [0, 1)
            As :func:`flip.training.crops.random_crop` takes them.

        Raises
        ------
        DataError
            If no photo of the class can be read.
        """
        of_class = np.flatnonzero(self._examples.labels == self._examples.labels[row])
        start = int(np.searchsorted(of_class, row))
        for candidate in np.roll(of_class, -start):
            if int(candidate) in self.unreadable:
                continue
            source = self._examples.sources[candidate]
            try:
                image = decode_image(Path(source.file), source.box)
            except DataError as e:
                self.unreadable[int(candidate)] = f"{source.file}: {e}"
                continue
            return random_crop(image, self._size, numbers, self._resample)
        raise DataError(f"no training photo of a class can be read ({self.unreadable[row]}); check the files")

    def batches(
        self, rows: Sequence[IntArray], crops: Sequence[Float64Array], workers: int | None
    ) -> Generator[torch.Tensor]:
        """Yield batches of pixels, uint8 (b, height, width, 3), decoded ahead.

        Parameters
        ----------
        rows : sequence of int arrays of shape (b,)
        crops : sequence of arrays of shape (b, 5)
            The random numbers of each photo's crop.
        workers : int or None
            Threads.
        """
        places = (zip(*batch, strict=True) for batch in zip(rows, crops, strict=True))
        with closing(prefetch(lambda place: self.read(int(place[0]), place[1]), places, workers)) as decoded:
            for futures in decoded:
                yield torch.from_numpy(np.stack([future.result() for future in futures]))

    def to_network(self, pixels: torch.Tensor, device: torch.device) -> torch.Tensor:
        """Return the network's input: float32 (b, 3, height, width), normalised, channels last in memory."""
        scaled = pixels.to(device, non_blocking=True).permute(0, 3, 1, 2).float().div_(255)  # (b, 3, height, width)
        return scaled.sub_(self._mean.to(device)).div_(self._std.to(device))
