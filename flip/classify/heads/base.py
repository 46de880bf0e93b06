"""What every head shares: its inputs, the checks at the door, and the protocol it answers to."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from flip.classify.calibration import softmax
from flip.classify.heads.folds import held_out_folds
from flip.errors import ConfigError, DataError, FeatureMismatchError

#: Multiplications of features by class weights below which a head is fitted on one thread.
SMALL_PRODUCT = 2e8

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]


class Inputs(NamedTuple):
    """What a head sees of n photos.

    Attributes
    ----------
    image : float32 array of shape (n, d), unit rows
    text : float32 array of shape (n, e), unit rows, or None
        A text feature for each photo: its caption's, or the softmax-weighted class embedding.
    zero_shot : float32 array of shape (n, c), or None
        Zero-shot logits: ``logit_scale · image @ class_embeddings.T``.
    """

    image: Floats
    text: Floats | None = None
    zero_shot: Floats | None = None

    @property
    def n(self) -> int:
        """Number of photos (``len`` of a named tuple counts its fields)."""
        return len(self.image)

    def take(self, rows: Any) -> Inputs:
        """Return the inputs of some photos."""
        text = None if self.text is None else self.text[rows]
        zero_shot = None if self.zero_shot is None else self.zero_shot[rows]
        return Inputs(self.image[rows], text, zero_shot)


class OutOfFold(NamedTuple):
    """Calibrated logits (m, c) of training rows (m,), each from a fit that had not seen the row."""

    rows: Rows
    logits: Floats


class Training(NamedTuple):
    """Checked training data: labels, weights and groups of shape (n,), and the rows each fold holds out."""

    inputs: Inputs
    labels: Rows
    weight: npt.NDArray[np.float32]
    folds: tuple[Rows, ...]
    group: Rows | None = None

    @property
    def held_out(self) -> Rows:
        """Row numbers of the held-out rows, fold after fold."""
        return np.concatenate(self.folds) if self.folds else np.empty(0, dtype=np.int64)

    def left_out(self, fold: Rows) -> Rows:
        """Return the rows that are not fitted while a fold is held out: its own, and all of their groups."""
        return fold if self.group is None else np.flatnonzero(np.isin(self.group, self.group[fold]))


class Head(ABC):
    """A classifier over features, in scikit-learn's protocol.

    Whatever a head chooses or calibrates it chooses on held-out parts of the rows given to ``fit``; ``protocol`` says
    how. ``out_of_fold`` holds the calibrated logits of those held-out rows (None when there was nothing to hold out,
    which is so with one photo a class).

    Parameters
    ----------
    n_classes : int
        Number of classes; some may have no training row.
    seed : int
        Decides the folds, and whatever else is random.
    """

    name: ClassVar[str]
    #: Most training rows with which ``ensemble`` and ``auto`` take this head in; None for any number.
    most_rows: ClassVar[int | None] = None
    #: Attributes that are saved: arrays, and values that JSON can hold.
    arrays: ClassVar[tuple[str, ...]] = ()
    values: ClassVar[tuple[str, ...]] = ()

    def __init__(self, n_classes: int, seed: int = 0) -> None:
        self.n_classes = n_classes
        self.seed = seed
        self.temperature = 1.0
        self.widths: list[int] = []
        self.protocol: dict[str, str] = {}
        self.out_of_fold: OutOfFold | None = None

    def fit(
        self,
        inputs: Inputs,
        labels: Array,
        sample_weight: Array | None = None,
        real: Array | None = None,
        group: Array | None = None,
    ) -> Self:
        """Fit to training rows.

        Parameters
        ----------
        inputs : Inputs
        labels : int array of shape (n,)
            Between 0 and ``n_classes`` - 1.
        sample_weight : float array of shape (n,), optional
            How much a row counts in the fit; 1 by default.
        real : bool array of shape (n,), optional
            Rows that may be held out for validation; generated photos are False. All by default.
        group : int array of shape (n,), optional
            Rows with the same number, of one class, are left out together: a photo and what was made from it. Else a
            held-out photo would be named by its own copies.

        Raises
        ------
        DataError
            If the features have NaN or infinite values, or the labels name fewer than two classes or unknown ones.
        ConfigError
            If the numbers of rows or classes differ.
        """
        training = check_training(inputs, labels, sample_weight, real, self.n_classes, self.seed, group)
        with threadpool_limits(1 if _is_small(training, self.n_classes) else None):
            return self.fit_training(training)

    def fit_training(self, training: Training) -> Self:
        """Fit to rows that ``check_training`` has passed; heads that hold others share one with them."""
        self.widths = _widths(training.inputs)
        self.protocol = {}
        self.out_of_fold = None
        self.fit_checked(training)
        return self

    @abstractmethod
    def fit_checked(self, training: Training) -> None:
        """Fit to checked rows; sets ``temperature``, ``protocol`` and ``out_of_fold``."""

    @abstractmethod
    def raw_logits(self, inputs: Inputs) -> Floats:
        """Return logits of checked inputs."""

    def logits(self, inputs: Inputs) -> Floats:
        """Return logits of shape (n, c), float32, before the temperature.

        Raises
        ------
        FeatureMismatchError
            If the inputs are not of the widths the head was fitted on.
        DataError
            If the features have NaN or infinite values.
        """
        if not self.widths:
            raise ConfigError(f"this {self.name} head is not fitted; call fit first, or load a saved one")
        if _widths(inputs) != self.widths:
            raise FeatureMismatchError(
                f"inputs have widths (image, text, classes) {_widths(inputs)}, and the head was fitted on "
                f"{self.widths}; use the same model, classes and --text"
            )
        _check_finite(inputs)
        return np.asarray(self.raw_logits(inputs), dtype=np.float32)

    def predict_proba(self, inputs: Inputs) -> Floats:
        """Return calibrated probabilities of shape (n, c), float32; rows sum to one."""
        return softmax(self.logits(inputs), self.temperature)

    def predict(self, inputs: Inputs) -> Rows:
        """Return the likeliest class of each photo, shape (n,); a tie goes to the lower class."""
        return np.asarray(self.logits(inputs).argmax(axis=1), dtype=np.int64)

    def to_arrays(self) -> tuple[dict[str, Array], dict[str, Any]]:
        """Return what the fitted head is made of: arrays for safetensors, and values for JSON."""
        values = {"head": self.name, "n_classes": self.n_classes, "seed": self.seed, "temperature": self.temperature}
        values |= {"widths": self.widths, "protocol": self.protocol}
        arrays = {name: np.ascontiguousarray(getattr(self, name)) for name in self.arrays}
        return arrays, values | {name: getattr(self, name) for name in self.values}

    @classmethod
    def from_arrays(cls, arrays: dict[str, Array], values: dict[str, Any]) -> Self:
        """Return the head that ``to_arrays`` described; its predictions are identical."""
        head = cls(values["n_classes"], values["seed"])
        for name in ("temperature", "widths", "protocol", *cls.values):
            setattr(head, name, values[name])
        for name in cls.arrays:
            setattr(head, name, arrays[name])
        return head


def _is_small(training: Training, n_classes: int) -> bool:
    """Whether one thread is quicker: many small products on several wait for each other, worst on a busy machine."""
    width = sum(_widths(training.inputs)[:2])
    return training.inputs.n * width * n_classes < SMALL_PRODUCT


def check_training(
    inputs: Inputs,
    labels: Array,
    sample_weight: Array | None,
    real: Array | None,
    n_classes: int,
    seed: int,
    group: Array | None = None,
) -> Training:
    """Return training data that later code can trust, with its folds."""
    labels = np.asarray(labels)
    n = inputs.n
    weight = np.ones(n, np.float32) if sample_weight is None else np.asarray(sample_weight, dtype=np.float32)
    real = np.ones(n, dtype=bool) if real is None else np.asarray(real, dtype=bool)
    group = None if group is None else np.asarray(group, dtype=np.int64)
    arrays = {"labels": labels, "sample weights": weight, "real marks": real}
    for what, given in (arrays if group is None else {**arrays, "groups": group}).items():
        if given.shape != (n,):
            raise ConfigError(f"{what} have shape {given.shape} for {n} rows of features; pass one a row")
    _check_blocks(inputs, n_classes)
    _check_finite(inputs)
    if n and (labels.min() < 0 or labels.max() >= n_classes):
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
    labels = labels.astype(np.int64)
    return Training(inputs, labels, weight, held_out_folds(labels, real, seed, group=group), group)


def _check_blocks(inputs: Inputs, n_classes: int) -> None:
    for what, block in zip(("image features", "text features", "zero-shot logits"), inputs, strict=True):
        if block is not None and (block.ndim != 2 or len(block) != inputs.n):
            raise ConfigError(f"{what} have shape {block.shape}; pass 2-D arrays with {inputs.n} rows, one a photo")
    if inputs.zero_shot is not None and inputs.zero_shot.shape[1] != n_classes:
        raise ConfigError(
            f"zero-shot logits have {inputs.zero_shot.shape[1]} columns for {n_classes} classes; "
            "pass one a class, in the same order"
        )


def _check_finite(inputs: Inputs) -> None:
    for what, block in zip(("image features", "text features", "zero-shot logits"), inputs, strict=True):
        if block is None:
            continue
        # A row's sum is NaN or infinite when one of its values is: no mask as large as the features.
        bad = np.flatnonzero(~np.isfinite(block.sum(axis=1, dtype=np.float64)))
        if len(bad):
            raise DataError(
                f"{what} have NaN or infinite values in {len(bad)} of {len(block)} rows, first in row {bad[0]}; "
                "embed those photos again, or leave them out"
            )


def _widths(inputs: Inputs) -> list[int]:
    return [0 if part is None else int(part.shape[1]) for part in inputs]
