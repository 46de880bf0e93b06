"""Embedded photos with their labels, and which model made them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from flip.arrays import FloatArray, IntArray
from flip.errors import DataError, FeatureMismatchError


@dataclass(frozen=True)
class Features:
    """Embedded photos with their labels, and which model made them.

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
    caption_features : float32 array of shape (n, d) or None
        The unit mean of each photo's caption embeddings, where captions were embedded.
    """

    image_features: FloatArray
    labels: IntArray
    paths: tuple[str, ...]
    splits: tuple[str, ...]
    captions: tuple[tuple[str, ...], ...]
    errors: tuple[str | None, ...]
    classnames: tuple[str, ...]
    raw_names: tuple[str, ...]
    fingerprint: str
    caption_features: FloatArray | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        # A notebook shows what a line ends with, and of all rows that is megabytes.
        n, d = self.image_features.shape
        splits = "".join(f", {split} {count:,}" for split, count in Counter(self.splits).items())
        unreadable = f", {self.unreadable:,} unreadable" if self.unreadable else ""
        return f"<Features of {n:,} photos, {d} wide, {len(self.classnames)} classes{splits}{unreadable}>"

    @property
    def unreadable(self) -> int:
        """Number of photos that could not be read."""
        return sum(error is not None for error in self.errors)

    def take(self, rows: Iterable[int]) -> Self:
        """Return these rows, in that order; a run of neighbouring rows shares the arrays."""
        chosen = np.asarray(rows if isinstance(rows, np.ndarray) else list(rows), dtype=np.int64)
        if len(chosen) and chosen[-1] - chosen[0] == len(chosen) - 1 and (np.diff(chosen) == 1).all():
            return self._run(slice(int(chosen[0]), int(chosen[-1]) + 1))
        return replace(
            self,
            image_features=self.image_features[chosen],
            labels=self.labels[chosen],
            paths=tuple(self.paths[i] for i in chosen),
            splits=tuple(self.splits[i] for i in chosen),
            captions=tuple(self.captions[i] for i in chosen),
            errors=tuple(self.errors[i] for i in chosen),
            caption_features=None if self.caption_features is None else self.caption_features[chosen],
        )

    def _run(self, rows: slice) -> Self:
        return replace(
            self,
            image_features=self.image_features[rows],
            labels=self.labels[rows],
            paths=self.paths[rows],
            splits=self.splits[rows],
            captions=self.captions[rows],
            errors=self.errors[rows],
            caption_features=None if self.caption_features is None else self.caption_features[rows],
        )

    def split(self, name: str) -> Self:
        """Return the rows of one split (``"all"`` for every row)."""
        return self if name == "all" else self.take(i for i, split in enumerate(self.splits) if split == name)

    def readable(self) -> Self:
        """Return the rows whose photo could be read."""
        return self if not self.unreadable else self.take(i for i, error in enumerate(self.errors) if error is None)

    def require_readable(self, what: str) -> Self:
        """Return the readable rows.

        Raises
        ------
        DataError
            If there are none; ``what`` names the photos in the message.
        """
        readable = self.readable()
        if len(readable) == 0:
            first = next((error for error in self.errors if error), "no photo")
            raise DataError(f"none of the {len(self)} {what} photos can be read ({first}); check the files")
        return readable

    def joined(self, other: Features) -> Self:
        """Return these rows and then the other's, which must be of the same model and the same classes.

        Raises
        ------
        FeatureMismatchError
            If another model made the other's.
        """
        if self.fingerprint != other.fingerprint:
            raise FeatureMismatchError(
                f"features of two models ({self.fingerprint}, {other.fingerprint}) cannot be joined; use one"
            )
        captioned = None
        if self.caption_features is not None and other.caption_features is not None:
            captioned = np.concatenate([self.caption_features, other.caption_features])
        return replace(
            self,
            image_features=np.concatenate([self.image_features, other.image_features]),
            labels=np.concatenate([self.labels, other.labels]),
            paths=self.paths + other.paths,
            splits=self.splits + other.splits,
            captions=self.captions + other.captions,
            errors=self.errors + other.errors,
            caption_features=captioned,
        )
