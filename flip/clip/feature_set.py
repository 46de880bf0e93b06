"""Embedded photos with their labels, and what made them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from flip.data.dataset import Dataset
from flip.errors import DataError

FloatMatrix = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Features:
    """Embedded photos with their labels, and what made them.

    Attributes
    ----------
    image_features : float32 array of shape (n, d)
        Unit rows; the row of an unreadable photo is zero.
    labels : int array of shape (n,)
    paths, splits : tuples of n strings
    captions : tuple of n tuples of str
    errors : tuple of n
        Why a photo could not be read, or None.
    classnames, raw_names : tuples of c strings
    fingerprint : str
        The model's; features of two models are never compared.
    """

    image_features: FloatMatrix
    labels: npt.NDArray[np.int64]
    paths: tuple[str, ...]
    splits: tuple[str, ...]
    captions: tuple[tuple[str, ...], ...]
    errors: tuple[str | None, ...]
    classnames: tuple[str, ...]
    raw_names: tuple[str, ...]
    fingerprint: str

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def unreadable(self) -> int:
        """Number of photos that could not be read."""
        return sum(error is not None for error in self.errors)

    def take(self, rows: Iterable[int]) -> Features:
        """Return these rows, in that order."""
        chosen = list(rows)
        return replace(
            self,
            image_features=self.image_features[chosen],
            labels=self.labels[chosen],
            paths=tuple(self.paths[i] for i in chosen),
            splits=tuple(self.splits[i] for i in chosen),
            captions=tuple(self.captions[i] for i in chosen),
            errors=tuple(self.errors[i] for i in chosen),
        )

    def split(self, name: str) -> Features:
        """Return the rows of one split (``"all"`` for every row)."""
        return self if name == "all" else self.take(i for i, split in enumerate(self.splits) if split == name)

    def readable(self) -> Features:
        """Return the rows whose photo could be read."""
        return self if not self.unreadable else self.take(i for i, error in enumerate(self.errors) if error is None)


def make_features(
    dataset: Dataset, embeddings: FloatMatrix, errors: Sequence[str | None], fingerprint: str
) -> Features:
    """Join a dataset with its embeddings (n, d)."""
    return Features(
        image_features=embeddings,
        labels=dataset.labels,
        paths=tuple(r.path for r in dataset.records),
        splits=tuple(r.split for r in dataset.records),
        captions=tuple(r.captions for r in dataset.records),
        errors=tuple(errors),
        classnames=dataset.classnames,
        raw_names=dataset.raw_names,
        fingerprint=fingerprint,
    )


def require_readable(features: Features, what: str) -> Features:
    """Return the readable rows, or raise a DataError when there are none."""
    readable = features.readable()
    if len(readable) == 0:
        first = next((error for error in features.errors if error), "no photo")
        raise DataError(f"none of the {len(features)} {what} photos can be read ({first}); check the files")
    return readable
