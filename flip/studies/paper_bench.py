"""What the rows of the paper's table work with: features of the stock and the fine-tuned models, made once each."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from flip.classify.zeroshot import ZeroShotClassifier
from flip.clip.model import load_model
from flip.clip.prompts import data_prompts
from flip.data.dataset import Dataset
from flip.diffusion.checkpoint import Loaded
from flip.embed.extractor import FeatureExtractor
from flip.embed.raw import raw_image_features, raw_text_features
from flip.embed.texts import build_zero_shot_classifier
from flip.errors import DataError
from flip.features import Features
from flip.names import SAMPLE
from flip.settings import Progress, settings_from
from flip.studies.protocol import Description
from flip.studies.settings import ReproduceSettings
from flip.studies.training_data import Generated, read_features, read_generated, take_splits
from flip.training.settings import ClipSettings, Hardware

#: The protocols: the paper's own, and one that takes nothing from the test photos.
PAPER, CLEAN = "paper", "clean"

#: Folders of the fine-tuned models and of the drawn images.
TUNED, AUGMENTED = "tuned", "augmented"

#: The clean fine-tuning of the sample's small model, which learns nothing at the rates of a large one.
SAMPLE_EPOCHS, SAMPLE_LR = 15, 1e-3

#: The prompts of which the clean rows take those that name the training photos best.
PROMPTS_TRIED = ("plain", "bird", "clip")

#: Opens a progress bar of a title and a total.
Bars = Callable[[str, int], AbstractContextManager[Progress | None]]

Made = TypeVar("Made")


def once(what: str) -> Callable[[Callable[..., Made]], Callable[..., Made]]:
    """Keep what a method of a :class:`Bench` returned, by its arguments, and the seconds that it took under a name."""

    def decorate(make: Callable[..., Made]) -> Callable[..., Made]:
        @functools.wraps(make)
        def kept(self: Bench, *arguments: Any) -> Made:
            key = (make.__name__, *arguments)
            if key not in self.made:
                with self.timed(", ".join([what, *(a for a in arguments if isinstance(a, str))])):
                    self.made[key] = make(self, *arguments)
            found: Made = self.made[key]
            return found

        return kept

    return decorate


@dataclass
class Bench:
    """Data, models and features of one reproduction; each is made when a row first asks for it, and kept.

    A model is named by how it was fine-tuned: None for the stock model, else the protocol of its fine-tuning.

    Attributes
    ----------
    dataset : Dataset
        With a train and a test split.
    data : str
        The data as results name it.
    extractor : FeatureExtractor
        Of the stock model.
    folder : Path
        Gets the fine-tuned models and the drawn images.
    settings : ReproduceSettings
    open_checkpoint : callable or None
        Returns the diffusion model that draws images for the row augmentation.
    seed : int
    bars : callable
        (title, total) → context manager of a progress callback.
    """

    dataset: Dataset
    data: str
    extractor: FeatureExtractor
    folder: Path
    settings: ReproduceSettings
    open_checkpoint: Callable[[], Loaded] | None
    seed: int
    bars: Bars
    made: dict[tuple[Any, ...], Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    _nested: float = 0.0

    @contextmanager
    def timed(self, what: str) -> Iterator[None]:
        """Add the seconds of a block to ``seconds``, without those of blocks inside it."""
        began, outer, self._nested = time.perf_counter(), self._nested, 0.0
        try:
            yield
        finally:
            whole = time.perf_counter() - began
            self.seconds[what] = self.seconds.get(what, 0.0) + whole - self._nested
            self._nested = outer + whole

    def about(self, protocol: str, tuned: bool = False, **details: object) -> Description:
        """Return what a row's result says of its origin."""
        name = self.model(protocol if tuned else None).model.name
        own: dict[str, object] = {"protocol": protocol, **details}
        if tuned and protocol == PAPER:
            own["fine_tuning"] = "the paper's: on all photos with a caption, the test photos among them"
        elif tuned:
            own["fine_tuning"] = "on the training photos"
        return Description(command="reproduce", data=self.data, model=name, split="test", protocol=own)

    @property
    def used(self) -> Dataset:
        """The photos that train and are scored."""
        return take_splits(self.dataset, ("train", "test"))

    @property
    def captioned(self) -> int:
        """Number of photos with a caption, of all splits."""
        return sum(bool(record.captions) for record in self.dataset.records)

    def needs(self, tuned: bool, protocol: str, *, raw: bool, drawn: bool) -> dict[str, float]:
        """Return what a row needs to be made first, each with its cost in encoded photos.

        A training step on a photo costs as much as three encodings; the cost of drawing is not known.
        """
        photos, model = len(self.used), f" of the {protocol} model" if tuned else ""
        found: dict[str, float] = {}
        if tuned:
            epochs, each = (
                (self.settings.epochs, self.captioned)
                if protocol == PAPER
                else (self.tuning.epochs, self.used.splits.get("train", 0))
            )
            found[f"fine-tuning{model}, {epochs} × {each:,} photos"] = 3.0 * epochs * each
        known = 0 if tuned else self.extractor.count_known(self.used)
        if known < photos:
            found[f"embedding{model}, {photos - known:,} photos"] = photos - known
        if raw and protocol == PAPER:
            found[f"unnormalised embedding{model}, {photos:,} photos"] = photos
        if drawn and self.settings.augmented is None:
            found[f"drawing {self.settings.per_class * len(self.dataset.classnames):,} images"] = 0.0
        return found

    @once("fine-tuning")
    def model(self, tuned: str | None = None) -> FeatureExtractor:
        """Return the extractor of a model, fine-tuning it first where that was not done before."""
        if tuned is None:
            return self.extractor
        folder = self.folder / TUNED / tuned
        self._tune_as_paper(folder) if tuned == PAPER else self._tune(folder)
        stock = self.extractor
        return FeatureExtractor(load_model(str(folder), cache=stock.cache), stock.settings, stock.cache)

    @once("embedding")
    def features(self, tuned: str | None = None) -> Features:
        """Return unit features of the training and test photos."""
        with self.bars("photos", len(self.used)) as advance:
            return read_features(self.used, self.model(tuned), advance)

    @once("embedding, unnormalised")
    def raw(self, tuned: str | None, captions: bool) -> Features:
        """Return unnormalised features of the photos, with those of the first caption beside them if asked.

        Their ``image_features`` are not of unit length, and wider with captions; what was fitted on unit features does
        not take them, since their fingerprint is another.

        Raises
        ------
        DataError
            If captions are asked for and a photo has none.
        """
        features, extractor = self.features(tuned), self.model(tuned)
        with self.bars("photos, unnormalised", len(features)) as advance:
            image = raw_image_features(self.used, features, extractor, advance)
        if not captions:
            return replace(features, image_features=image, fingerprint=f"{features.fingerprint}-raw")
        texts = np.zeros_like(image)
        readable = [error is None for error in features.errors]
        texts[readable] = raw_text_features(_first_captions(features.readable()), extractor)
        both = np.concatenate([image, texts], axis=1)  # (n, 2d)
        return replace(features, image_features=both, fingerprint=f"{features.fingerprint}-raw-captions")

    @once("prompts")
    def best_prompts(self, tuned: str | None = None) -> str:
        """Return the prompts that name the training photos best by zero-shot, the first of equals."""
        train = self.features(tuned).split("train")
        return max(PROMPTS_TRIED, key=lambda prompts: self.zero_shot(prompts, tuned).score(train))

    @once("prompts")
    def zero_shot(self, prompts: str, tuned: str | None = None) -> ZeroShotClassifier:
        """Return the zero-shot classifier of these prompts."""
        extractor = self.model(tuned)
        texts = data_prompts(prompts, self.dataset)
        return build_zero_shot_classifier(texts, extractor.model, settings=extractor.settings, cache=extractor.cache)

    @once("drawing images")
    def generated(self) -> Generated:
        """Return the generated images of the row augmentation, drawing them first where there are none."""
        folder = self.settings.augmented or self._draw(self.folder / AUGMENTED)
        return read_generated(folder, self.features().split("train").require_readable("train"), self.extractor)

    @once("embedding images, unnormalised")
    def raw_generated(self) -> Features:
        """Return the unnormalised features of the generated images, labelled as the photos are."""
        from flip.data.open import open_dataset

        found = self.generated().features
        folder = self.settings.augmented or self.folder / AUGMENTED
        images = open_dataset(folder)
        row = {record.path: i for i, record in enumerate(images.records)}
        image = raw_image_features(images.take(row[path] for path in found.paths), found, self.extractor)
        return replace(found, image_features=image, fingerprint=f"{found.fingerprint}-raw")

    def _tune_as_paper(self, folder: Path) -> None:
        from flip.studies.paper_finetune import finetune_as_paper

        stock, epochs = self.extractor, self.settings.epochs
        with self.bars("the paper's fine-tuning", epochs * self.captioned) as advance:
            finetune_as_paper(
                self.dataset,
                load_model(stock.model.name, cache=stock.cache),
                folder,
                epochs=epochs,
                hardware=settings_from(stock.settings, Hardware),
                progress=advance,
            )

    @property
    def tuning(self) -> ClipSettings:
        """Settings of the clean fine-tuning."""
        settings, small = self.settings, self.extractor.model.name == SAMPLE
        return ClipSettings(
            epochs=settings.tune_epochs or (SAMPLE_EPOCHS if small else ClipSettings().epochs),
            batch_size=min(64, max(2, self.used.splits.get("train", 0) // 4)),
            lr=settings.tune_lr or (SAMPLE_LR if small else None),
            seed=self.seed,
            no_scores=True,
        )

    def _tune(self, folder: Path) -> None:
        from flip.training.clip.finetune import finetune

        if (folder / "result.json").is_file():
            return
        stock = self.extractor
        finetune(
            self.dataset,
            stock.model.name,
            folder,
            self.tuning,
            hardware=settings_from(stock.settings, Hardware),
            crop=stock.settings.crop,
            cache=stock.cache,
        )

    def _draw(self, folder: Path) -> Path:
        """Draw images from the training captions, or class names where there are none; nothing is filtered."""
        from flip.diffusion.augment import augment
        from flip.diffusion.settings import AugmentSettings

        if self.open_checkpoint is None:
            raise DataError("no diffusion model and no generated images; pass --ckpt, or --augmented with a folder")
        settings = self.settings
        drawing = AugmentSettings(
            steps=settings.steps, guidance=5.0, draws=1, per_class=settings.per_class, filter="none"
        )
        with self.bars("images", settings.per_class * len(self.dataset.classnames)) as advance:
            augment(
                self.dataset,
                self.open_checkpoint(),
                folder,
                drawing,
                seed=self.seed,
                device=self.extractor.settings.device,
                batch_size=24,
                workers=self.extractor.settings.workers,
                progress=advance,
            )
        return folder


def _first_captions(features: Features) -> list[str]:
    """Return the first caption of each photo, the one that the notebooks read."""
    without = [path for path, own in zip(features.paths, features.captions, strict=True) if not own]
    if without:
        raise DataError(f"{len(without):,} of {len(features):,} photos have no caption, the first {without[0]}")
    return [own[0] for own in features.captions]
