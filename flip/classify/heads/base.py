"""The interface of every head: a classifier over arrays that chooses and calibrates on held-out training rows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import ClassVar, NamedTuple, Self

import numpy as np
from threadpoolctl import threadpool_limits

from flip.arrays import Array, FloatArray, IntArray
from flip.classify.calibration import softmax
from flip.classify.heads.checks import TrainingRows, check_finite, check_training
from flip.classify.heads.trust import TextTrust, trusted_logits
from flip.classify.text_side import Inputs
from flip.errors import ConfigError, FeatureMismatchError
from flip.files import JsonObject

#: Multiplications of features by class weights below which a head is fitted on one thread.
SMALL_PRODUCT = 2e8


class OutOfFold(NamedTuple):
    """Calibrated logits (m, c) of training rows (m,), each from a fit that had not seen the row."""

    rows: IntArray
    logits: FloatArray


class SavedHead(NamedTuple):
    """A fitted head as arrays, for safetensors, and values, for JSON."""

    arrays: dict[str, Array]
    values: JsonObject

    def part(self, values: JsonObject) -> SavedHead:
        """Return a head that was saved inside this one: its values, and its arrays, which are named ``head.array``."""
        start = f"{values['head']}."
        own = {key.removeprefix(start): array for key, array in self.arrays.items() if key.startswith(start)}
        return SavedHead(own, values)


class Head(ABC):
    """A classifier over :class:`Inputs`, with ``predict_proba`` as in scikit-learn.

    A new head is a class with a ``name``, in a module of this package. Most heads give one set of scores that is added
    to the zero-shot logits: derive from :class:`~flip.classify.heads.fused.FusedHead`, which searches settings, weighs
    the two sides and calibrates. A head of another kind derives from this class and writes two methods: ``_fit``,
    which receives checked rows, and ``_logits``. What it learned goes into attributes that ``arrays`` and ``values``
    name; they are what is saved.

    Zero-shot logits reach a head as far as the class names deserve trust on the training photos (``trust.py``), in the
    fit and in predictions alike.

    Whatever a head chooses or calibrates it chooses on held-out parts of the rows given to ``fit``; ``protocol`` says
    how. ``out_of_fold`` holds the calibrated logits of those held-out rows; None when there was nothing to hold out,
    which is so with one photo per class.

    Parameters
    ----------
    n_classes : int
        Number of classes; some may have no training row.
    seed : int
        Decides the folds, and whatever else is random.
    """

    name: ClassVar[str]
    #: Most training rows, and most products of rows, features and classes, with which ``ensemble`` and ``auto`` take
    #: this head in; None for any number.
    most_rows: ClassVar[int | None] = None
    most_work: ClassVar[float | None] = None
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
        self.trust: TextTrust | None = None

    @property
    def weighs_text(self) -> bool:
        """Whether the trust in the class names is estimated; else zero-shot logits are taken as they are."""
        return True

    @classmethod
    def takes(cls, training: TrainingRows) -> bool:
        """Whether ``ensemble`` and ``auto`` take this head in with so many rows, features and classes."""
        rows, inputs = len(training.labels), training.inputs
        classes = int(training.labels.max()) + 1
        work = float(rows) * sum(inputs.widths[:2]) * classes
        return (cls.most_rows is None or rows <= cls.most_rows) and (cls.most_work is None or work <= cls.most_work)

    @property
    def chosen_name(self) -> str:
        """The head that predicts: this one, or for ``auto`` the one it chose."""
        return self.name

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
            Of n rows.
        labels : int array of shape (n,)
            Between 0 and ``n_classes`` - 1.
        sample_weight : float array of shape (n,), optional
            How much a row counts in the fit; 1 by default.
        real : bool array of shape (n,), optional
            Rows that may be held out for validation; generated images are False. All by default.
        group : int array of shape (n,), optional
            Rows with the same number, of one class, are left out together: a photo and the images made from it. Else a
            held-out photo would be named by its own copies.

        Raises
        ------
        DataError
            If the features have NaN or infinite values, or the labels name fewer than two classes or unknown ones.
        ConfigError
            If the numbers of rows or classes differ.
        """
        training = check_training(
            inputs, labels, sample_weight, real, self.n_classes, self.seed, group, weigh_text=self.weighs_text
        )
        with threadpool_limits(1 if _is_small(inputs, self.n_classes) else None):
            return self.fit_checked(training)

    def fit_checked(self, training: TrainingRows) -> Self:
        """Fit to rows that ``check_training`` has passed; an ensemble shares them with its members."""
        image, text, zero_shot = training.inputs.widths
        self.widths = [image, text, zero_shot if training.trust is None else self.n_classes]
        self.trust = training.trust
        self.protocol = {} if self.trust is None else {"class names": _trust_line(self.trust)}
        self.out_of_fold = None
        self._fit(training)
        return self

    @abstractmethod
    def _fit(self, training: TrainingRows) -> None:
        """Fit to checked rows; set ``temperature``, ``protocol`` and ``out_of_fold``."""

    @abstractmethod
    def _logits(self, inputs: Inputs) -> FloatArray:
        """Return logits (n, c) of checked inputs with trusted zero-shot logits, before the temperature."""

    def logits(self, inputs: Inputs) -> FloatArray:
        """Return logits of shape (n, c), float32, before the temperature.

        Raises
        ------
        ConfigError
            If the head is not fitted.
        FeatureMismatchError
            If the inputs are not of the widths the head was fitted on.
        DataError
            If the features have NaN or infinite values.
        """
        if not self.widths:
            raise ConfigError(f"this {self.name} head is not fitted; call fit first, or load a saved one")
        if inputs.widths != self.widths:
            raise FeatureMismatchError(
                f"inputs have widths (image, text, classes) {inputs.widths}, and the head was fitted on "
                f"{self.widths}; use the same model, classes and --text"
            )
        check_finite(inputs)
        return np.asarray(self._logits(self._trusted(inputs)), dtype=np.float32)

    def predict_proba(self, inputs: Inputs) -> FloatArray:
        """Return calibrated probabilities of shape (n, c), float32; rows sum to one. Raises as ``logits``."""
        return softmax(self.logits(inputs), self.temperature)

    def _trusted(self, inputs: Inputs) -> Inputs:
        if inputs.zero_shot is None or self.trust is None:
            return inputs
        return replace(inputs, zero_shot=trusted_logits(inputs.zero_shot, self.trust) if self.trust.counts else None)

    def predict(self, inputs: Inputs) -> IntArray:
        """Return the likeliest class of each photo, int array of shape (n,); a tie goes to the lower class."""
        return np.asarray(self.logits(inputs).argmax(axis=1), dtype=np.int64)

    def to_arrays(self) -> SavedHead:
        """Return the fitted head as arrays and values that ``from_arrays`` reads."""
        values = {"head": self.name, "n_classes": self.n_classes, "seed": self.seed, "temperature": self.temperature}
        values |= {"widths": self.widths, "protocol": self.protocol}
        arrays = {name: np.ascontiguousarray(getattr(self, name)) for name in self.arrays}
        if self.trust is not None:
            arrays["trust"] = self.trust.names
            values["trust"] = {key: value for key, value in self.trust._asdict().items() if key != "names"}
        return SavedHead(arrays, values | {name: getattr(self, name) for name in self.values})

    @classmethod
    def from_arrays(cls, saved: SavedHead) -> Self:
        """Return the head that ``to_arrays`` described; its predictions are identical."""
        head = cls(saved.values["n_classes"], saved.values["seed"])
        for name in ("temperature", "widths", "protocol", *cls.values):
            setattr(head, name, saved.values[name])
        for name in cls.arrays:
            setattr(head, name, saved.arrays[name])
        if "trust" in saved.values:
            head.trust = TextTrust(**saved.values["trust"], names=saved.arrays["trust"])
        return head


def _trust_line(trust: TextTrust) -> str:
    if not trust.counts:
        return "left out: zero-shot is at chance on the training photos"
    low = int((trust.names < 0.5).sum())
    return (
        f"weight {trust.weight:.3g}, scale {trust.scale:.3g}, {low} of {len(trust.names)} not trusted, "
        "by the likelihood of the training photos, which they were not fitted on"
    )


def _is_small(inputs: Inputs, n_classes: int) -> bool:
    """Whether one thread is quicker: many small products on several wait for each other, worst on a busy machine."""
    width = sum(inputs.widths[:2])
    return len(inputs) * width * n_classes < SMALL_PRODUCT
