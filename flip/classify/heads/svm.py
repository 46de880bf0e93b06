"""Support vector machines, fitted by scikit-learn on a kernel matrix and read back as plain arrays."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from flip.classify.heads.base import Array, Floats, Rows, Training
from flip.classify.heads.columns import Features, centre_and_scale
from flip.classify.heads.folds import weight_without
from flip.classify.heads.fused import FusedHead, Setting
from flip.errors import ConfigError

Doubles = npt.NDArray[np.float64]

#: C tried on held-out rows.
STRENGTHS = (1.0, 10.0)
#: The kernel matrix is n × n: with more rows it would not fit beside everything else.
MOST_ROWS = 20_000
#: Decisions between pairs of classes held at a time, as numbers.
PAIRS_AT_ONCE = 4_000_000


class Machine(NamedTuple):
    """A fitted machine: rows that support it, what each says against every class, and the bias of each pair.

    ``support`` (s,), ``coefficients`` (s, c) with 0 in the column of the row's own class, ``counts`` (c,) rows of each
    class, class after class, and symmetric ``biases`` (c, c). Classes are the c that were present.
    """

    support: Rows
    coefficients: Doubles
    counts: Rows
    biases: Doubles
    classes: Rows


def fit_machine(gram: Doubles, labels: Rows, weight: Array, strength: float) -> Machine:
    """Fit scikit-learn's SVC on a kernel matrix (n, n) and take it apart."""
    from sklearn.svm import SVC

    with warnings.catch_warnings():
        # One photo a class looks like a regression to scikit-learn, which warns.
        warnings.filterwarnings("ignore", message="The number of unique classes", category=UserWarning)
        svc = SVC(C=strength, kernel="precomputed").fit(gram, labels, sample_weight=weight)
    c, counts = len(svc.classes_), svc.n_support_.astype(np.int64)
    # scikit-learn turns the signs round when there are two classes.
    sign = -1.0 if c == 2 else 1.0
    own = np.repeat(np.arange(c), counts)
    coefficients = np.zeros((len(svc.support_), c))
    coefficients[np.arange(c) != own[:, None]] = sign * svc.dual_coef_.T.ravel()
    biases = np.zeros((c, c))
    biases[np.triu_indices(c, 1)] = sign * svc.intercept_
    return Machine(
        svc.support_.astype(np.int64), coefficients, counts, biases + biases.T, svc.classes_.astype(np.int64)
    )


def one_vs_rest(machine: Machine, kernel: Doubles) -> Doubles:
    """Return a score for each class from the decisions between all pairs of classes, shape (n, c).

    Votes, and the bounded sum of the margins to break ties, as scikit-learn's ``decision_function_shape="ovr"``.

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
        said = np.stack(
            [part[:, e - n : e] @ machine.coefficients[e - n : e] for n, e in zip(machine.counts, ends, strict=True)],
            axis=1,
        )
        decisions = said + said.transpose(0, 2, 1) + machine.biases
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

    keys: Floats
    mean: Floats
    scale: float
    machine: Machine
    _gram: Doubles | None = None

    def kernel(self, left: Doubles, right: Doubles) -> Doubles:
        """Return kernel values of shape (n, m)."""
        raise NotImplementedError

    def held_out_scores(self, features: Features, training: Training) -> Iterator[tuple[Setting, Floats]]:
        """Yield the scores of each fold's rows for each C."""
        self._gram = None
        gram = self._prepare(features)
        for strength in STRENGTHS:
            scores = []
            for rows in training.folds:
                weight = weight_without(training.weight, training.labels, training.left_out(rows))
                rest = np.flatnonzero(weight)
                machine = fit_machine(gram[np.ix_(rest, rest)], training.labels[rest], weight[rest], strength)
                scores.append(self._spread_out(machine, gram[np.ix_(rows, rest[machine.support])]))
            yield {"C": strength}, np.concatenate(scores)

    def train(self, features: Features, training: Training, setting: Setting) -> None:
        """Fit to all rows of weight above zero."""
        gram = self._prepare(features)
        used = np.flatnonzero(training.weight > 0)
        self.machine = fit_machine(gram[np.ix_(used, used)], training.labels[used], training.weight[used], setting["C"])
        self.keys = features.take(used[self.machine.support])
        self._gram = None

    def scores(self, features: Features) -> Floats:
        """Return one-vs-rest scores; a class without training rows scores below every other."""
        keys = self._centre(self.keys)
        parts = [self._spread_out(self.machine, self.kernel(self._centre(b), keys)) for _, b in features.chunks(1024)]
        return np.concatenate(parts) if parts else np.empty((0, self.n_classes), np.float32)

    def _prepare(self, features: Features) -> Doubles:
        if features.n > MOST_ROWS:
            raise ConfigError(
                f"{self.name} takes at most {MOST_ROWS:,} training photos and was given {features.n:,}; "
                "pass --head linear or gda"
            )
        if self._gram is not None:
            return self._gram
        self.mean, self.scale = centre_and_scale(features)
        centred = self._centre(features.all())
        gram = self._gram = self.kernel(centred, centred)
        return gram

    def _centre(self, block: Floats) -> Doubles:
        return np.asarray((block - self.mean).astype(np.float64) / self.scale)

    def _spread_out(self, machine: Machine, kernel: Doubles) -> Floats:
        scores = np.full((len(kernel), self.n_classes), -1.0, np.float32)
        scores[:, machine.classes] = one_vs_rest(machine, kernel)
        return scores

    def to_arrays(self) -> tuple[dict[str, Array], dict[str, Any]]:
        """Return the machine's arrays, and values for JSON."""
        for name in ("coefficients", "counts", "biases", "classes"):
            setattr(self, name, getattr(self.machine, name))
        return super().to_arrays()

    @classmethod
    def from_arrays(cls, arrays: dict[str, Array], values: dict[str, Any]) -> SvmHead:
        """Return the head that ``to_arrays`` described."""
        head = super().from_arrays(arrays, values)
        parts = (arrays[name] for name in ("coefficients", "counts", "biases", "classes"))
        head.machine = Machine(np.arange(len(head.keys)), *parts)
        return head


class LinearSvmHead(SvmHead):
    """The support vector machine with a linear kernel."""

    name: ClassVar[str] = "svm-linear"

    def kernel(self, left: Doubles, right: Doubles) -> Doubles:
        """Return inner products."""
        return np.asarray(left @ right.T)


class RbfSvmHead(SvmHead):
    """The support vector machine with a Gaussian kernel, its width the features' own (scikit-learn's ``scale``)."""

    name: ClassVar[str] = "svm-rbf"

    def kernel(self, left: Doubles, right: Doubles) -> Doubles:
        """Return ``exp(−|x − y|²)`` of features whose mean squared length is 1."""
        squared = np.einsum("ij,ij->i", left, left)[:, None] + np.einsum("ij,ij->i", right, right) - 2 * left @ right.T
        return np.asarray(np.exp(-np.maximum(squared, 0.0)))
