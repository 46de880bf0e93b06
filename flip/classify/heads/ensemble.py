"""The ``ensemble`` head: the calibrated average of the other heads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Self

import numpy as np

from flip.arrays import FloatArray
from flip.classify.calibration import fit_mixture, fit_temperature, softmax
from flip.classify.heads import build_head, head_class, head_from_arrays
from flip.classify.heads.base import Head, OutOfFold, SavedHead
from flip.classify.heads.checks import TrainingRows
from flip.classify.heads.folds import describe
from flip.classify.text_side import Inputs

#: The heads that are averaged.
MEMBERS = ("ridge", "linear", "gda", "tip", "mlp", "svm-linear", "svm-rbf")
#: With nothing to validate on: the heads whose defaults need no validation.
ONE_SHOT_MEMBERS = ("ridge", "linear", "gda")


class EnsembleHead(Head):
    """Σ_m w_m · p_m(class | photo), each p_m calibrated, the weights w on held-out rows of train.

    Parameters
    ----------
    n_classes, seed : int
    members : sequence of str, optional
        Names of heads. By default all of those that are quick enough for the number of training rows.
    """

    name: ClassVar[str] = "ensemble"

    def __init__(self, n_classes: int, seed: int = 0, members: Sequence[str] | None = None) -> None:
        super().__init__(n_classes, seed)
        self.wanted = members
        self.members: list[Head] = []
        self.weights: list[float] = []

    def _fit(self, training: TrainingRows) -> None:
        """Fit every member, then the weights on the rows that all members held out."""
        self.members = [head.fit_checked(training) for head in self._unfitted(training)]
        self.weights = [1.0 / len(self.members)] * len(self.members)
        held = [head.out_of_fold for head in self.members if head.out_of_fold is not None]
        if len(held) == len(self.members):
            self._weigh(held, training)
        else:
            self.protocol["weights"] = "equal, default: nothing to validate on"
        self.protocol |= {
            f"weight of {head.name}": f"{weight:.3f}" for head, weight in zip(self.members, self.weights, strict=True)
        }

    def _logits(self, inputs: Inputs) -> FloatArray:
        return self._average([softmax(head._logits(inputs), head.temperature) for head in self.members])

    def _unfitted(self, training: TrainingRows) -> list[Head]:
        names = self.wanted or (MEMBERS if training.folds else ONE_SHOT_MEMBERS)
        if not self.wanted:
            names = [name for name in names if head_class(name).takes(training)]
        return [build_head(name, self.n_classes, self.seed) for name in names]

    def _weigh(self, held: Sequence[OutOfFold], training: TrainingRows) -> None:
        # A head that held out fewer folds than the others held out the first of them.
        common = min(len(out.rows) for out in held)
        rows = held[0].rows[:common]
        labels = training.labels[rows]
        probabilities = [softmax(out.logits[:common]) for out in held]
        self.weights = [float(w) for w in fit_mixture(probabilities, labels)]
        logits = self._average(probabilities)
        self.temperature = fit_temperature(logits, labels)
        self.out_of_fold = OutOfFold(rows, logits / np.float32(self.temperature))
        self.protocol["weights"] = f"least log-loss in {describe(training.folds)}"

    def _average(self, probabilities: Sequence[FloatArray]) -> FloatArray:
        """Return the logarithm of the members' weighted mean probability, (n, c)."""
        mean = sum(np.float32(w) * p for w, p in zip(self.weights, probabilities, strict=True))
        return np.asarray(np.log(mean + np.float32(1e-12)), dtype=np.float32)

    def to_arrays(self) -> SavedHead:
        """Return the members' arrays, each under its name, and their values."""
        own, parts = super().to_arrays(), [head.to_arrays() for head in self.members]
        arrays = {f"{part.values['head']}.{key}": array for part in parts for key, array in part.arrays.items()}
        return SavedHead(
            own.arrays | arrays, own.values | {"weights": self.weights, "members": [part.values for part in parts]}
        )

    @classmethod
    def from_arrays(cls, saved: SavedHead) -> Self:
        """Return the head that ``to_arrays`` described."""
        head = super().from_arrays(saved)
        head.weights = saved.values["weights"]
        head.members = [head_from_arrays(saved.part(values)) for values in saved.values["members"]]
        return head
