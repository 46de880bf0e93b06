"""Training sets: real photos, and generated images that join them with a weight of their own."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from flip.arrays import BoolArray, FloatArray, IntArray
from flip.errors import ConfigError, DataError
from flip.features import Features

#: From here on a number in ``TrainingSet.group`` belongs to an image that was made from no training photo.
NO_SOURCE = 1 << 40


@dataclass(frozen=True)
class TrainingSet:
    """Rows to train on: the real photos first, then generated images, which may weigh less and validate nothing.

    Attributes
    ----------
    features : Features
        Of n rows.
    weight : float32 array of shape (n,)
        How much each row counts in a fit; finite and at least 0.
    real : bool array of shape (n,)
        Rows that may be held out or scored for validation; False for generated images.
    group : int array of shape (n,) or None
        A photo and the images generated from it have one number and leave together; an image without a training
        photo has a number of its own, ``NO_SOURCE`` or more. None without generated images.

    Raises
    ------
    ConfigError
        If the arrays do not have n rows, a weight is not finite or negative, or a real row follows a generated one.
    """

    features: Features
    weight: FloatArray
    real: BoolArray
    group: IntArray | None = None

    def __post_init__(self) -> None:
        n = len(self.features)
        arrays = {"weight": self.weight, "real": self.real, "group": self.group}
        for what, array in arrays.items():
            if array is not None and array.shape != (n,):
                raise ConfigError(f"{what} has shape {array.shape} for {n} rows of features; pass one per row")
        if not (np.isfinite(self.weight).all() and (self.weight >= 0).all()):
            raise ConfigError("weights must be finite and not negative; leave a row out rather than weigh it below 0")
        if (self.real[1:] & ~self.real[:-1]).any():
            raise ConfigError("real photos come first in a training set; put generated images behind them")

    def __len__(self) -> int:
        return len(self.features)

    @classmethod
    def of(cls, train: Features | TrainingSet) -> TrainingSet:
        """Return a training set as it is, and features as one of real photos that all count 1."""
        if isinstance(train, TrainingSet):
            return train
        n = len(train)
        return cls(train, np.ones(n, np.float32), np.ones(n, bool))

    @property
    def labels(self) -> IntArray:
        """Labels of shape (n,)."""
        return self.features.labels

    @property
    def real_count(self) -> int:
        """Number of real photos; they are the first rows."""
        return int(self.real.sum())

    def take(self, rows: Iterable[int]) -> Self:
        """Return these rows, in that order; groups keep their numbers."""
        chosen = np.asarray(list(rows), dtype=np.int64)
        group = None if self.group is None else self.group[chosen]
        return replace(
            self, features=self.features.take(chosen), weight=self.weight[chosen], real=self.real[chosen], group=group
        )

    def only(self, real_rows: Iterable[int]) -> Self:
        """Return some of the real photos, and every generated image that was not made from another real photo.

        Parameters
        ----------
        real_rows : int array of shape (m,)
            Row numbers of real photos, as a few-shot draw gives them.
        """
        kept = np.asarray(list(real_rows), dtype=np.int64)
        if self.group is None:
            return self.take(kept)
        allowed = ~self.real & ((self.group >= NO_SOURCE) | np.isin(self.group, self.group[kept]))  # (n,)
        return self.take(np.concatenate([kept, np.flatnonzero(allowed)]))

    def readable(self) -> Self:
        """Return the rows whose photo could be read."""
        if not self.features.unreadable:
            return self
        return self.take(i for i, error in enumerate(self.features.errors) if error is None)

    def with_generated(self, generated: Features, sources: IntArray, weight: float = 1.0) -> Self:
        """Return this training set with generated images behind it.

        Parameters
        ----------
        generated : Features
            m images, of the same model and the same classes.
        sources : int array of shape (m,)
            The row of the real photo that each was made from; −1 for none. A photo of another class is no source.
        weight : float
            How much a generated image counts; a real photo counts 1.

        Raises
        ------
        FeatureMismatchError
            If another model made the features of the images.
        DataError
            If the images have other classes.
        ConfigError
            If the weight is negative, or a source is no row of a real photo.
        """
        if generated.classnames != self.features.classnames:
            raise DataError(
                f"the generated images have {len(generated.classnames)} classes and the photos "
                f"{len(self.features.classnames)}, or others; give both the same class names in the same order"
            )
        own = np.arange(len(self), dtype=np.int64) if self.group is None else self.group
        return replace(
            self,
            features=self.features.joined(generated),
            weight=np.concatenate([self.weight, np.full(len(generated), weight, np.float32)]),
            real=np.concatenate([self.real, np.zeros(len(generated), bool)]),
            group=np.concatenate([own, self._groups_of(generated, np.asarray(sources, dtype=np.int64), own)]),
        )

    def _groups_of(self, generated: Features, sources: IntArray, own: IntArray) -> IntArray:
        """Return the group (m,) of each generated image: its photo's, or a new number."""
        m, n = len(generated), self.real_count
        # Numbers from NO_SOURCE on mean no photo, as −1 does.
        known = (sources >= 0) & (sources < NO_SOURCE)
        if sources.shape != (m,) or (sources[known] >= n).any():
            raise ConfigError(
                f"sources of {m} generated images are {m} row numbers below {n}, the number of real photos, or -1"
            )
        photo = np.where(known, sources, 0)
        known &= self.labels[photo] == generated.labels
        return np.where(known, own[photo], NO_SOURCE + (len(self) - n) + np.arange(m))
