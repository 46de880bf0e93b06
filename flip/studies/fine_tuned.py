"""The learner of a study that fine-tunes CLIP itself on a draw, with or without extra images."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from flip.arrays import Array
from flip.clip.model import load_model
from flip.clip.prompts import data_prompts
from flip.data.dataset import Dataset
from flip.device import resolve_device
from flip.embed.keys import Source
from flip.studies.augmentation import NONE, Condition
from flip.studies.few_shot import Draw
from flip.training.clip.run import train_clip
from flip.training.clip.validation import Split, embed_photos, zero_shot
from flip.training.settings import ClipSettings, Hardware

#: Description of this learner in a result.
FINE_TUNED = {
    "learner": "CLIP fine-tuned as flip finetune --shots does; zero-shot is scored",
    "share": "w m / (1 + w m) of each batch are extras, for m extras of weight w beside each photo",
}


@dataclass(frozen=True, kw_only=True)
class FineTuneLearner:
    """Fine-tunes a model anew for each draw and condition, and says which test photos it names rightly.

    Attributes
    ----------
    model : str
    train, test : Dataset
        All training photos, and what is scored.
    extras : mapping of arm to Dataset
        The images of each arm, as many of every photo, in the order of the photos.
    folder : Path
        For one model at a time.
    settings : ClipSettings
        Their seed and share of extras are the draw's and the condition's.
    hardware : Hardware
    """

    model: str
    train: Dataset
    test: Dataset
    extras: Mapping[str, Dataset]
    folder: Path
    settings: ClipSettings
    hardware: Hardware

    def __call__(self, draw: Draw, condition: Condition) -> Array:
        """Return whether each test photo is named rightly, bool (t,)."""
        model, photos = load_model(self.model), self.train.take(draw.rows)
        share, made = self._extras(draw, condition)
        settings = replace(self.settings, seed=draw.seed, augmented_weight=share)
        split = Split(photos, photos.take([]))
        train_clip(model, split, self.folder, settings, self.hardware, augmented=made, overwrite=True)
        shutil.rmtree(self.folder)
        placement, sources = resolve_device(self.hardware.device), [Source(f, None) for f in self.test.files]
        features, readable = embed_photos(model, sources, placement, settings.batch_size, self.hardware.workers)
        prompts = data_prompts(settings.prompts, self.test)
        right = np.zeros(len(sources), bool)
        right[readable] = zero_shot(model, features, self.test.labels[readable], prompts, placement).correct
        return right

    def _extras(self, draw: Draw, condition: Condition) -> tuple[float, Dataset | None]:
        """Return the share of the extras in a batch, and the extras of the photos drawn."""
        if condition.arm == NONE:
            return 0.0, None
        images = self.extras[condition.arm]
        each = len(images) // len(self.train)
        rows = (draw.rows[:, None] * each + np.arange(each)).ravel()
        weight = each * (1.0 if condition.weight is None else condition.weight)
        return weight / (1.0 + weight), images.take(rows)
