"""The ``auto`` head: a few quick heads that lose little to any other, and the best of them on held-out rows."""

from __future__ import annotations

from typing import ClassVar, Self

import numpy as np

from flip.arrays import FloatArray
from flip.classify.heads import build_head, head_class, head_from_arrays
from flip.classify.heads.base import Head, SavedHead
from flip.classify.heads.checks import TrainingRows
from flip.classify.heads.ensemble import EnsembleHead
from flip.classify.heads.folds import describe
from flip.classify.text_side import Inputs

#: The heads that are tried; the others gain nothing beside them (``docs/results.md``) and take minutes.
QUICK = ("ridge", "linear", "gda")
#: The head with one or two photos per class: it has nothing to choose.
FEW_PHOTOS = "ridge"
#: Standard errors by which a single head has to beat the average of all.
STANDARD_ERRORS = 3.0


class AutoHead(Head):
    """Quick heads and their ensemble are fitted; the ensemble is kept unless a single head is significantly better.

    Better is a higher held-out accuracy, by more than three standard errors of the paired difference: among heads
    and few rows the best figure is often luck, and the average of all does not depend on it. With one or two photos per
    class there is no fair validation, and the ridge head is taken, which has nothing to choose.
    """

    name: ClassVar[str] = "auto"
    chosen: Head

    @property
    def chosen_name(self) -> str:
        """The head that was chosen; before ``fit``, ``auto``."""
        return self.chosen.name if self.widths else self.name

    def _fit(self, training: TrainingRows) -> None:
        """Fit the quick heads, and choose among them and their ensemble."""
        if training.is_thin and head_class(FEW_PHOTOS).takes(training):
            self.chosen = build_head(FEW_PHOTOS, self.n_classes, self.seed).fit_checked(training)
            how = "default with one or two photos per class: nothing to validate on"
        else:
            members = [name for name in QUICK if head_class(name).takes(training)] or ["gda"]
            ensemble = EnsembleHead(self.n_classes, self.seed, members).fit_checked(training)
            self.chosen = choose_head(ensemble, training)
            how = f"accuracy in {describe(training.folds)}" if training.folds else "default: nothing to validate on"
        self.temperature, self.out_of_fold = self.chosen.temperature, self.chosen.out_of_fold
        self.protocol = {"head": f"{self.chosen.name}, {how}", **self.chosen.protocol}

    def _logits(self, inputs: Inputs) -> FloatArray:
        return self.chosen._logits(inputs)

    def to_arrays(self) -> SavedHead:
        """Return the chosen head's arrays and values."""
        own, chosen = super().to_arrays(), self.chosen.to_arrays()
        arrays = {f"{self.chosen.name}.{key}": array for key, array in chosen.arrays.items()}
        return SavedHead(own.arrays | arrays, own.values | {"chosen": chosen.values})

    @classmethod
    def from_arrays(cls, saved: SavedHead) -> Self:
        """Return the head that ``to_arrays`` described."""
        head = super().from_arrays(saved)
        head.chosen = head_from_arrays(saved.part(saved.values["chosen"]))
        return head


def choose_head(ensemble: EnsembleHead, training: TrainingRows) -> Head:
    """Return the member that is significantly better than the ensemble on held-out rows, else the ensemble."""
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
        if gain.mean() > max(best, STANDARD_ERRORS * gain.std() / np.sqrt(common)):
            chosen, best = head, float(gain.mean())
    return chosen
