"""The head that does best on held-out rows of the training photos."""

from __future__ import annotations

from typing import Any, ClassVar, Self

import numpy as np

from flip.classify.heads import head_from_arrays
from flip.classify.heads.base import Array, Floats, Head, Inputs, Training
from flip.classify.heads.ensemble import EnsembleHead, arrays_under
from flip.classify.heads.folds import describe

#: Standard errors by which a single head has to beat the average of all.
DOUBT = 2.0


class AutoHead(Head):
    """Fits all heads and their ensemble, and keeps the ensemble unless a single head is better beyond doubt.

    Better is a higher held-out accuracy, by more than two standard errors of the paired difference: among many heads
    and few rows the best figure is often luck, and the average of all does not depend on it.
    """

    name: ClassVar[str] = "auto"
    chosen: Head

    def fit_checked(self, training: Training) -> None:
        """Fit the ensemble with its members, and choose among them."""
        ensemble = EnsembleHead(self.n_classes, self.seed).fit_training(training)
        self.chosen = _choose(ensemble, training)
        self.temperature, self.out_of_fold = self.chosen.temperature, self.chosen.out_of_fold
        how = f"accuracy in {describe(training.folds)}" if training.folds else "default: nothing to validate on"
        self.protocol = {"head": f"{self.chosen.name}, {how}", **self.chosen.protocol}

    def raw_logits(self, inputs: Inputs) -> Floats:
        """Return the chosen head's logits."""
        return self.chosen.raw_logits(inputs)

    def to_arrays(self) -> tuple[dict[str, Array], dict[str, Any]]:
        """Return the chosen head's arrays and values."""
        _, values = super().to_arrays()
        arrays, chosen = self.chosen.to_arrays()
        return {f"{self.chosen.name}.{key}": array for key, array in arrays.items()}, values | {"chosen": chosen}

    @classmethod
    def from_arrays(cls, arrays: dict[str, Array], values: dict[str, Any]) -> Self:
        """Return the head that ``to_arrays`` described."""
        head = super().from_arrays(arrays, values)
        head.chosen = head_from_arrays(arrays_under(arrays, values["chosen"]["head"]), values["chosen"])
        return head


def _choose(ensemble: EnsembleHead, training: Training) -> Head:
    held = ensemble.out_of_fold
    if held is None:
        return ensemble
    labels, common = training.labels[held.rows], len(held.rows)
    average = held.logits.argmax(axis=1) == labels
    chosen: Head = ensemble
    best = 0.0
    for head in ensemble.members:
        if head.out_of_fold is None:
            continue
        gain = (head.out_of_fold.logits[:common].argmax(axis=1) == labels).astype(np.float64) - average
        if gain.mean() > max(best, DOUBT * gain.std() / np.sqrt(common)):
            chosen, best = head, float(gain.mean())
    return chosen
