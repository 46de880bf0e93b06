"""The checks at a head's door: training rows and inputs that later code can trust."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from flip.arrays import Array, FloatArray, IntArray
from flip.classify.heads.folds import held_out_folds, most_held_out
from flip.classify.heads.trust import TextTrust, trust_names
from flip.classify.text_side import Inputs
from flip.errors import ConfigError, DataError


class TrainingRows(NamedTuple):
    """Checked training rows.

    Attributes
    ----------
    inputs : Inputs
        Of n rows; the zero-shot logits are those that ``trust`` leaves, None where it leaves none.
    labels : int array of shape (n,)
    weight : float32 array of shape (n,)
    folds : tuple of int arrays
        Row numbers that are held out together while the others are fitted; empty when there is nothing to hold out.
    group : int array of shape (n,) or None
    trust : TextTrust or None
        Fitted trust in the class names; None where zero-shot logits are used unchanged.
    """

    inputs: Inputs
    labels: IntArray
    weight: FloatArray
    folds: tuple[IntArray, ...]
    group: IntArray | None = None
    trust: TextTrust | None = None

    @property
    def is_thin(self) -> bool:
        """Whether half of the classes have no more than two photos, so that fits on the other folds have only one."""
        counts = np.bincount(self.labels[self.held_out] if self.folds else self.labels)
        return not self.folds or float(np.median(counts[counts > 0])) <= 2

    @property
    def held_out(self) -> IntArray:
        """Row numbers of the held-out rows, fold after fold."""
        return np.concatenate(self.folds) if self.folds else np.empty(0, dtype=np.int64)

    def left_out(self, fold: IntArray) -> IntArray:
        """Return the rows that are not fitted while a fold is held out: its own, and all of their groups."""
        return fold if self.group is None else np.flatnonzero(np.isin(self.group, self.group[fold]))


def check_training(
    inputs: Inputs,
    labels: Array,
    sample_weight: Array | None,
    real: Array | None,
    n_classes: int,
    seed: int,
    group: Array | None = None,
    *,
    weigh_text: bool = True,
) -> TrainingRows:
    """Check what ``Head.fit`` was given, deal the rows out to folds, and estimate how far class names are trusted.

    Raises
    ------
    DataError
        If the features have NaN or infinite values, or the labels name fewer than two classes or unknown ones.
    ConfigError
        If the numbers of rows or classes differ, or a weight is negative.
    """
    labels, n = np.asarray(labels), len(inputs)
    weight = np.ones(n, np.float32) if sample_weight is None else np.asarray(sample_weight, dtype=np.float32)
    real = np.ones(n, dtype=bool) if real is None else np.asarray(real, dtype=bool)
    group = None if group is None else np.asarray(group, dtype=np.int64)
    _check_rows(n, {"labels": labels, "sample weights": weight, "real marks": real, "groups": group})
    _check_blocks(inputs, n_classes)
    check_finite(inputs)
    _check_labels(labels, weight, n_classes)
    labels = labels.astype(np.int64)
    folds = held_out_folds(labels, real, seed, most=most_held_out(n_classes), group=group)
    training = TrainingRows(inputs, labels, weight, folds, group)
    if inputs.zero_shot is None or not weigh_text:
        return training
    # With rows to hold out, a row says nothing about its own name.
    groups = np.arange(n) if folds and group is None else group if folds else None
    trusted = trust_names(inputs.zero_shot, labels, real & (weight > 0), groups)
    return training._replace(inputs=replace(inputs, zero_shot=trusted.logits), trust=trusted.trust)


def check_finite(inputs: Inputs) -> None:
    """Raise a DataError if some feature or logit is NaN or infinite."""
    for what, block in inputs.blocks():
        # A row's sum is NaN or infinite when one of its values is: no mask as large as the features.
        bad = np.flatnonzero(~np.isfinite(block.sum(axis=1, dtype=np.float64)))
        if len(bad):
            raise DataError(
                f"{what} have NaN or infinite values in {len(bad)} of {len(block)} rows, first in row {bad[0]}; "
                "embed those photos again, or leave them out"
            )


def _check_rows(n: int, arrays: dict[str, Array | None]) -> None:
    for what, array in arrays.items():
        if array is not None and array.shape != (n,):
            raise ConfigError(f"{what} have shape {array.shape} for {n} rows of features; pass one per row")


def _check_blocks(inputs: Inputs, n_classes: int) -> None:
    for what, block in inputs.blocks():
        if block.ndim != 2 or len(block) != len(inputs):
            raise ConfigError(
                f"{what} have shape {block.shape}; pass 2-D arrays with {len(inputs)} rows, one per photo"
            )
    if inputs.zero_shot is not None and inputs.zero_shot.shape[1] != n_classes:
        raise ConfigError(
            f"zero-shot logits have {inputs.zero_shot.shape[1]} columns for {n_classes} classes; "
            "pass one per class, in the same order"
        )


def _check_labels(labels: Array, weight: FloatArray, n_classes: int) -> None:
    if len(labels) and (labels.min() < 0 or labels.max() >= n_classes):
        raise DataError(
            f"labels run from {labels.min()} to {labels.max()}; with {n_classes} classes pass 0 to {n_classes - 1}"
        )
    if not (np.isfinite(weight).all() and (weight >= 0).all()):
        raise ConfigError(
            "sample weights must be finite and not negative; leave a row out rather than weigh it below 0"
        )
    present = np.unique(labels[weight > 0])
    if len(present) < 2:
        raise DataError(
            f"the training rows name {len(present)} of {n_classes} classes; a head needs photos of two or more"
        )
