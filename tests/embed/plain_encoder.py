"""An encoder without a network: the embedding of a photo is its mean colour."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from flip.embed.extractor import FeatureExtractor
from flip.embed.keys import FileKey
from flip.embed.settings import DEFAULTS

DIM = 4


class PlainEncoder:
    """Counts the photos it is given, and may be slow."""

    name, fingerprint, dim, logit_scale = "plain", "plain-encoder", DIM, 1.0

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds, self.encoded = seconds, 0

    def prepare(self, image):
        return np.asarray(image.resize((8, 8)), np.float32)

    def encode_images(self, prepared):
        self.encoded += len(prepared)
        time.sleep(self.seconds)
        rows = np.stack([[*pixels.mean((0, 1)) + 1.0, 1.0] for pixels in prepared]).astype(np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def encode_texts(self, texts, progress=None):
        rows = np.array([[len(text) + 1.0, 1.0, 2.0, 3.0] for text in texts], np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def extractor(cache: Path, encoder: PlainEncoder | None = None, **settings: object) -> FeatureExtractor:
    """Return a new extractor, as another run would have it."""
    return FeatureExtractor(encoder or PlainEncoder(), replace(DEFAULTS, **{"batch_size": 4, **settings}), cache)


def embed(cache: Path, files, **settings: object):
    """Return the embeddings of photo files, their errors, and how many of them had to be read and embedded."""
    run = extractor(cache, **settings)
    batches = list(run.stream([str(file) for file in files]))
    rows = np.concatenate([batch.embeddings for batch in batches])
    return rows, [error for batch in batches for error in batch.errors], run.photos_read


def write_photo(file: Path, colour: int, *, size: int = 24) -> Path:
    """Write an uncompressed photo of one colour: all colours have files of the same size."""
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (size, size), (colour % 256, colour * 7 % 256, colour * 31 % 256)).save(file, "BMP")
    return file


def write_photos(folder: Path, n: int = 10) -> list[Path]:
    """Write photos of different colours."""
    return [write_photo(folder / f"{i}.bmp", 20 * i) for i in range(n)]


def images_folder(cache: Path) -> Path:
    """Return the folder of the cached photos' parts."""
    return next(cache.glob("*/images"))


def key(name: str, size: int = 10, mtime: int = 5, ctime: int | None = None) -> FileKey:
    return FileKey(f"/photos/{name}", size, mtime, ctime)


def unit(*values: float):
    row = np.asarray(values, np.float32)
    return row / np.linalg.norm(row)
