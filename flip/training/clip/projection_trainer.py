"""Few-shot training of an image tower's projection: one pass through the trunk, then a fit that takes seconds."""

from __future__ import annotations

import logging
import time

import numpy as np
import torch

from flip.arrays import Float64Array, IntArray
from flip.clip.encoder import OpenClipEncoder
from flip.device import Placement
from flip.errors import DataError
from flip.training.clip.averaging import Scorer
from flip.training.clip.examples import Examples
from flip.training.clip.projection import STRENGTH, Problem, find_projection, fit_projection
from flip.training.clip.state import TrainingState
from flip.training.clip.validation import Validation, class_embeddings, embed_photos

log = logging.getLogger(__name__)


class ProjectionTrainer:
    """One fit of the projection; it has the attributes of a :class:`~flip.training.clip.trainer.ClipTrainer`.

    An interrupted fit leaves no checkpoint: the same command begins it again.

    Parameters
    ----------
    scorer : Scorer
        Holds the model, whose projection is trained in place, the class prompts, and how photos are read.
    examples : Examples
        Each photo is compared with the prompts of all classes; captions are not read.
    validation : Validation
        Without photos.
    shots : int or None
        λ is in inverse proportion to it; None stands for the mean number of photos per class.
    """

    #: A fit to convergence is one step, and has no learning rate.
    steps, rates = 1, None

    def __init__(self, scorer: Scorer, examples: Examples, validation: Validation, shots: int | None) -> None:
        self.model: OpenClipEncoder = scorer.model
        self.validation = validation
        self.batch, self.state = examples.real, TrainingState()
        self.unreadable: dict[int, str] = {}
        self._scorer, self._examples = scorer, examples
        classes = len(set(examples.labels[~examples.generated].tolist()))
        self.strength = STRENGTH / (shots or examples.real / classes)
        if any(examples.captions):
            log.info("captions are not read: the projection learns from class prompts")

    @property
    def is_main(self) -> bool:
        """Whether this process writes results."""
        return self._placement.is_main

    @property
    def _placement(self) -> Placement:
        return self._scorer.placement

    def how(self) -> str:
        """Return a description of the training for the user."""
        return f"the projection alone, fitted to convergence with λ {self.strength:g}"

    def wait_for_everyone(self) -> None:
        """Return when every process has come here."""
        self._placement.wait_for_everyone()

    def resume(self) -> bool:
        """There is nothing to resume from."""
        return False

    def train(self) -> None:
        """Compute the features that enter the projection, and fit it."""
        start = time.perf_counter()
        network, device = self.model.network.to(self._placement.device), self._placement.device
        projection = find_projection(network.visual, self.model.name)
        entering, rows = self._features()
        texts = class_embeddings(self.model, self._scorer.prompts, self._placement)
        problem = Problem(
            projection.weight,
            projection.bias,
            entering.to(device),
            torch.from_numpy(self._examples.labels[rows]).to(device),
            torch.from_numpy(self._shares(rows)).float().to(device),
            torch.from_numpy(texts).to(device),
            self.model.logit_scale,
            self.strength,
        )
        weight, loss = fit_projection(problem)
        projection.put(weight)
        network.eval()
        self.state.step = self.state.best_epoch = 1
        self.state.seconds = time.perf_counter() - start
        self.state.history = [
            {
                "epoch": 1,
                "step": 1,
                "loss": loss,
                "val_loss": None,
                "val_top1": None,
                "logit_scale": self.model.logit_scale,
                "seconds": self.state.seconds,
            }
        ]

    def take_best(self) -> bool:
        """Return whether the fit is done; its weights are in the network."""
        return bool(self.state.best_epoch)

    def finish(self) -> None:
        """There is nothing to remove."""

    def _features(self) -> tuple[torch.Tensor, IntArray]:
        """Return the features before the projection, (m, p), of the photos that can be read, and their rows (m,)."""
        settings, sources = self._scorer.settings, list(self._examples.sources)
        projection = find_projection(self.model.network.visual, self.model.name)
        with projection.left_out():
            features, readable = embed_photos(
                self.model.unnormalized(), sources, self._placement, settings.batch_size, self._scorer.workers
            )
        rows = readable.nonzero()[0]
        lost = (~readable).nonzero()[0]
        self.unreadable = {int(row): f"{sources[row].file} cannot be read" for row in lost}
        missing = set(self._examples.labels.tolist()) - set(self._examples.labels[rows].tolist())
        if missing:
            raise DataError(
                f"no training photo of a class can be read ({next(iter(self.unreadable.values()))}); check the files"
            )
        return torch.from_numpy(features), rows

    def _shares(self, rows: IntArray) -> Float64Array:
        """Return the weight of each photo in the mean, (m,): generated images share ``--augmented-weight``."""
        generated = self._examples.generated[rows]
        made = self._scorer.settings.augmented_weight if generated.any() else 0.0
        real, images = (1.0 - made) / max(1, int((~generated).sum())), made / max(1, int(generated.sum()))
        return np.where(generated, images, real)
