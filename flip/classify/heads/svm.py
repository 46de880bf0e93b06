"""Support vector machines, fitted by scikit-learn on a kernel matrix and kept as plain arrays."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import ClassVar, NamedTuple, Self

import numpy as np

from flip.arrays import Array, Float64Array, FloatArray, IntArray
from flip.classify.heads.base import SavedHead
from flip.classify.heads.checks import TrainingRows
from flip.classify.heads.columns import Columns, centre_and_scale
from flip.classify.heads.folds import weight_without
from flip.classify.heads.fused import Candidate, FusedHead, Setting
from flip.errors import ConfigError

#: C tried on held-out rows.
STRENGTHS = (1.0, 10.0)
#: The kernel matrix is n × n: with more rows it would take more than 3 GB.
MOST_ROWS = 20_000
#: Decisions between pairs of classes held at a time, as numbers.
PAIRS_AT_ONCE = 4_000_000


class Machine(NamedTuple):
    """Support vectors, dual coefficients and pairwise intercepts of a one-vs-one SVC.

    Attributes
    ----------
    support : int array of shape (s,)
        Row numbers of the support vectors, class after class.
    coefficients : float64 array of shape (s, c)
        Dual coefficients against each other class; 0 in the column of the row's own class.
    counts : int array of shape (c,)
        Support vectors of each class.
    biases : float64 array of shape (c, c)
        Intercepts of the pairs, symmetric.
    classes : int array of shape (c,)
        The classes that have training rows.
    """

    support: IntArray
    coefficients: Float64Array
    counts: IntArray
    biases: Float64Array
    classes: IntArray


def fit_machine(gram: Float64Array, labels: IntArray, weight: Array, strength: float) -> Machine:
    """Fit scikit-learn's SVC on a kernel matrix (n, n) and return its arrays, which need no pickle to be saved."""
    from sklearn.svm import SVC

    with warnings.catch_warnings():
        # One photo per class looks like a regression to scikit-learn, which warns.
        warnings.filterwarnings("ignore", message="The number of unique classes", category=UserWarning)
        svc = SVC(C=strength, kernel="precomputed").fit(gram, labels, sample_weight=weight)
    c, counts = len(svc.classes_), svc.n_support_.astype(np.int64)
    # With two classes scikit-learn has the opposite sign.
    sign = -1.0 if c == 2 else 1.0
    own = np.repeat(np.arange(c), counts)
    coefficients = np.zeros((len(svc.support_), c))
    coefficients[np.arange(c) != own[:, None]] = sign * svc.dual_coef_.T.ravel()
    biases = np.zeros((c, c))
    biases[np.triu_indices(c, 1)] = sign * svc.intercept_
    return Machine(
        svc.support_.astype(np.int64), coefficients, counts, biases + biases.T, svc.classes_.astype(np.int64)
    )


def one_vs_rest(machine: Machine, kernel: Float64Array) -> Float64Array:
    """Return a score for each class from the decisions between all pairs of classes, shape (n, c).

    The number of pairs won, plus the bounded sum of the margins to break ties, as scikit-learn's
    ``decision_function_shape="ovr"``; written out because scikit-learn offers it only as a method of a fitted SVC.

    Parameters
    ----------
    machine : Machine
    kernel : float64 array of shape (n, s)
        Kernel values between queries and supporting rows.
    """
    c = len(machine.classes)
    first = np.triu(np.ones((c, c), dtype=bool), 1)
    sign = np.where(first, 1.0, -1.0)
    np.fill_diagonal(sign, 0.0)
    ends = np.cumsum(machine.counts)
    scores = np.empty((len(kernel), c))
    step = max(1, PAIRS_AT_ONCE // c**2)
    for start in range(0, len(kernel), step):
        part = kernel[start : start + step]
        # Sum of each class's support vectors against every other class, (rows, c, c).
        sides = np.stack(
            [part[:, e - n : e] @ machine.coefficients[e - n : e] for n, e in zip(machine.counts, ends, strict=True)],
            axis=1,
        )
        decisions = sides + sides.transpose(0, 2, 1) + machine.biases
        votes = (((decisions >= 0) == first) & (sign != 0)).sum(axis=2)
        margins = (decisions * sign).sum(axis=2)
        scores[start : start + step] = votes + margins / (3 * (np.abs(margins) + 1))
    return scores


class SvmHead(FusedHead):
    """Scikit-learn's SVC on centred features, its one-vs-rest scores fused with the zero-shot logits."""

    most_rows: ClassVar[int | None] = 10_000
    arrays: ClassVar[tuple[str, ...]] = ("class_bias", "keys", "mean", "coefficients", "counts", "biases", "classes")
    values: ClassVar[tuple[str, ...]] = (*FusedHead.values, "scale")
    default_setting: ClassVar[Setting] = {"C": 1.0}

    keys: FloatArray
    mean: FloatArray
    scale: float
    machine: Machine
    _gram: Float64Array | None = None

    def kernel(self, left: Float64Array, right: Float64Array) -> Float64Array:
        """Return kernel values of shape (n, m)."""
        raise NotImplementedError

    def held_out_scores(self, columns: Columns, training: TrainingRows) -> Iterator[Candidate]:
        """Yield the scores of each fold's rows for each C."""
        self._gram = None
        gram = self._prepare(columns)
        for strength in STRENGTHS:
            scores = []
            for rows in training.folds:
                weight = weight_without(training.weight, training.labels, training.left_out(rows))
                rest = np.flatnonzero(weight)
                machine = fit_machine(gram[np.ix_(rest, rest)], training.labels[rest], weight[rest], strength)
                scores.append(self._spread_out(machine, gram[np.ix_(rows, rest[machine.support])]))
            yield Candidate({"C": strength}, np.concatenate(scores))

    def train(self, columns: Columns, training: TrainingRows, setting: Setting) -> None:
        """Fit to all rows of weight above zero."""
        gram = self._prepare(columns)
        used = np.flatnonzero(training.weight > 0)
        self.machine = fit_machine(gram[np.ix_(used, used)], training.labels[used], training.weight[used], setting["C"])
        self.keys = columns.take(used[self.machine.support])
        self._gram = None

    def scores(self, columns: Columns) -> FloatArray:
        """Return one-vs-rest scores; a class without training rows scores below every other."""
        keys = self._centre(self.keys)
        parts = [self._spread_out(self.machine, self.kernel(self._centre(b), keys)) for _, b in columns.chunks(1024)]
        return np.concatenate(parts) if parts else np.empty((0, self.n_classes), np.float32)

    def _prepare(self, columns: Columns) -> Float64Array:
        """Return the kernel matrix (n, n) of the training rows, kept from the search to the last fit."""
        if len(columns) > MOST_ROWS:
            raise ConfigError(
                f"{self.name} takes at most {MOST_ROWS:,} training photos and was given {len(columns):,}; "
                "pass --head linear or gda"
            )
        if self._gram is not None:
            return self._gram
        self.mean, self.scale = centre_and_scale(columns)
        centred = self._centre(columns.all())
        gram = self._gram = self.kernel(centred, centred)
        return gram

    def _centre(self, block: FloatArray) -> Float64Array:
        return np.asarray((block - self.mean).astype(np.float64) / self.scale)

    def _spread_out(self, machine: Machine, kernel: Float64Array) -> FloatArray:
        """Return scores of all classes (n, n_classes); those without training rows score −1, below any other."""
        scores = np.full((len(kernel), self.n_classes), -1.0, np.float32)
        scores[:, machine.classes] = one_vs_rest(machine, kernel)
        return scores

    def to_arrays(self) -> SavedHead:
        """Return the machine's arrays, and values for JSON."""
        for name in ("coefficients", "counts", "biases", "classes"):
            setattr(self, name, getattr(self.machine, name))
        return super().to_arrays()

    @classmethod
    def from_arrays(cls, saved: SavedHead) -> Self:
        """Return the head that ``to_arrays`` described."""
        head = super().from_arrays(saved)
        parts = (saved.arrays[name] for name in ("coefficients", "counts", "biases", "classes"))
        head.machine = Machine(np.arange(len(head.keys)), *parts)
        return head


class LinearSvmHead(SvmHead):
    """The support vector machine with a linear kernel."""

    name: ClassVar[str] = "svm-linear"

    def kernel(self, left: Float64Array, right: Float64Array) -> Float64Array:
        """Return inner products."""
        return np.asarray(left @ right.T)


class RbfSvmHead(SvmHead):
    """The support vector machine with a Gaussian kernel, its width the features' own (scikit-learn's ``scale``)."""

    name: ClassVar[str] = "svm-rbf"

    def kernel(self, left: Float64Array, right: Float64Array) -> Float64Array:
        """Return ``exp(−|x − y|²)`` of features whose mean squared length is 1."""
        squared = np.einsum("ij,ij->i", left, left)[:, None] + np.einsum("ij,ij->i", right, right) - 2 * left @ right.T
        return np.asarray(np.exp(-np.maximum(squared, 0.0)))
