"""A study on a dataset: generate extra images of every training photo, and fit heads with and without them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypedDict

from flip.arrays import FloatArray, IntArray
from flip.classify.heads import build_head
from flip.clip.learned import require_unlearned_by_model
from flip.data.dataset import Dataset
from flip.data.few_shot import warn_of_short_classes
from flip.data.same_photos import warn_of_copies
from flip.diffusion.augment_folder import resume_key
from flip.diffusion.checkpoint import Loaded
from flip.diffusion.generate import GeneratedImage, Planned, draw_planned, log_cut_prompts
from flip.diffusion.metadata import ImageMetadata
from flip.diffusion.painter import Painter
from flip.diffusion.settings import DEFAULT_STRENGTH, DrawSettings
from flip.diffusion.texts import photo_prompts
from flip.embed.extractor import FeatureExtractor
from flip.errors import DataError
from flip.features import Features
from flip.files import claim_folder, write_json
from flip.results import FORMAT
from flip.settings import Progress, parse_shots, settings_from
from flip.studies import extras
from flip.studies.augmentation import (
    CONTROL,
    IMAGE,
    PROTOCOL,
    SHUFFLED,
    GainRow,
    TrainingPool,
    compare,
    compare_learners,
    plan,
)
from flip.studies.fine_tuned import FINE_TUNED, FineTuneLearner
from flip.studies.settings import StudySettings, parse_arms, parse_weights
from flip.studies.training_data import read_features, take_splits
from flip.training.settings import ClipSettings, Hardware

log = logging.getLogger(__name__)

#: The result, and the mark of a study's folder.
RESULT_FILE = "study.json"
_COMMAND = "augment --study"

#: Opens a progress bar of a title and a total.
Bars = Callable[[str, int], AbstractContextManager[Progress | None]]


class StudyResult(TypedDict):
    """What ``study.json`` holds."""

    command: str
    format: int
    data: str
    model: str
    ckpt: str
    n: int
    classes: int
    protocol: dict[str, object]
    study: list[GainRow]
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Study:
    """A study of one dataset, one CLIP model and one diffusion model.

    Attributes
    ----------
    dataset : Dataset
        With a train and a test split.
    data : str
        The data as the result names it.
    extractor : FeatureExtractor
    loaded : Loaded
        The diffusion model.
    folder : Path
        Gets the images of every arm, and ``study.json``.
    settings : StudySettings
    drawing : DrawSettings
        Its ``strength`` is that of the image-to-image arm.
    prompts : str
        As ``flip.diffusion.texts.photo_prompts`` takes them.
    seed : int
    precision : str
        Of drawing: "fp32", "bf16" or "fp16".
    batch_size : int
        Images drawn together.
    overwrite : bool
    bars : callable
        (title, total) → context manager of a progress callback.
    """

    dataset: Dataset
    data: str
    extractor: FeatureExtractor
    loaded: Loaded
    folder: Path
    settings: StudySettings
    drawing: DrawSettings
    prompts: str
    seed: int
    precision: str
    batch_size: int
    overwrite: bool
    bars: Bars

    def run(self) -> StudyResult | None:
        """Run the study and write it; return ``study.json``'s content, None in a process that is not the first.

        Raises
        ------
        DataError
            If the data has no photos, no test split or a class without training photos.
        ConfigError
            If the folder holds other work.
        """
        start = time.perf_counter()
        _require_study_data(self.dataset, self.data)
        warn_of_copies(self.dataset)
        require_unlearned_by_model(self.extractor.model.name, self.dataset, "test")
        claim_folder(self.folder, RESULT_FILE, overwrite=self.overwrite)
        train, photos, test = self._features()
        placement = self.extractor.placement
        if placement.is_main and not (self.folder / RESULT_FILE).is_file():
            write_json(self.folder / RESULT_FILE, {"command": _COMMAND, "format": FORMAT})
        made = {arm: self._arm(arm, train) for arm in parse_arms(self.settings.arms)}
        if not placement.is_main:
            return None
        result: StudyResult = {
            "command": _COMMAND,
            "format": FORMAT,
            "data": self.data,
            "model": self.extractor.model.name,
            "ckpt": self.loaded.name,
            "n": len(test),
            "classes": len(self.dataset.classnames),
            "protocol": self._protocol(),
            "study": self._compare(photos, test, made)
            if self.settings.learner == "head"
            else self._fine_tune(train, photos.labels, made),
            "seconds": time.perf_counter() - start,
        }
        write_json(self.folder / RESULT_FILE, result)
        return result

    def _features(self) -> tuple[Dataset, Features, Features]:
        """Return the training photos that can be read, their features, and those of the test photos."""
        used = take_splits(self.dataset, ("train", "test"))
        with self.bars("photos", len(used)) as advance:
            features = read_features(used, self.extractor, advance)
        rows = [i for i, r in enumerate(used.records) if r.split == "train" and features.errors[i] is None]
        train = features.split("train").require_readable("train")
        return used.take(rows), train, features.split("test").require_readable("test")

    def _arm(self, arm: str, train: Dataset) -> Dataset:
        """Return an arm's images in the order of the photos, making those that are missing."""
        placement, own = self.extractor.placement, self.folder / arm
        prompts = photo_prompts(train, self.prompts)
        if arm == SHUFFLED:
            prompts = extras.shuffled_prompts(train, self.seed)
        drawing = self._drawing(arm)
        key = (
            extras.views_key(train, self.seed)
            if arm == CONTROL
            else resume_key(
                train, drawing, fingerprint=self.loaded.fingerprint, seed=self.seed, prompts=prompts, filter="none"
            )
        )
        if placement.is_main:
            extras.begin_arm(own, key, overwrite=self.overwrite)
        placement.wait_for_everyone()
        planned = extras.plan_extras(train, prompts, arm, self.settings.per_photo, own, seed=self.seed)
        self._make(arm, [planned[i] for i in placement.share(len(planned))], drawing)
        placement.wait_for_everyone()
        return extras.list_extras(train, planned, own)

    def _embed(self, arm: str, images: Dataset) -> FloatArray:
        """Return the features (photos, per photo, d) of an arm's images."""
        with self.bars(f"{arm}, embedded", len(images)) as advance:
            return extras.embed_extras(self.extractor, images, self.settings.per_photo, advance)

    def _drawing(self, arm: str) -> DrawSettings:
        strength = self.drawing.strength if self.drawing.strength is not None else DEFAULT_STRENGTH
        return replace(self.drawing, strength=strength if arm == IMAGE else None)

    def _make(self, arm: str, planned: list[Planned], drawing: DrawSettings) -> None:
        """Make the images of an arm that are missing."""
        missing = sum(not p.file.is_file() for p in planned)
        log.info("%s: %d of %d images are there, %d to make", arm, len(planned) - missing, len(planned), missing)
        if not missing:
            return
        with self.bars(arm, len(planned)) as advance:

            def done(image: GeneratedImage | None = None) -> None:
                if advance:
                    advance(1)

            if arm == CONTROL:
                extras.write_views(planned, done)
                return
            painter = Painter(
                self.loaded.pipeline,
                self.extractor.placement,
                drawing,
                precision=self.precision,
                batch_size=self.batch_size,
            )
            log_cut_prompts(painter, [p.picture.prompt for p in planned])
            origin = ImageMetadata(arm=arm, ckpt=self.loaded.name, fingerprint=self.loaded.fingerprint)
            draw_planned(painter, planned, origin, done)

    def _fine_tune(self, train: Dataset, labels: IntArray, made: dict[str, Dataset]) -> list[GainRow]:
        settings = self.settings
        shots, weights = parse_shots(settings.shots), parse_weights(settings.weights)
        warn_of_short_classes(labels, shots)
        learner = FineTuneLearner(
            model=self.extractor.model.name,
            train=train,
            test=self.dataset.select("test"),
            extras=made,
            folder=self.folder / "tuned",
            settings=ClipSettings(shots="all"),
            hardware=settings_from(self.extractor.settings, Hardware, precision="auto"),
        )
        planned = list(plan(labels, shots, settings.seeds, tuple(made), weights))
        log.info("fine-tuning %d models", len(planned))
        with self.bars("models", len(planned)) as advance:
            return compare_learners(planned, learner, advance)

    def _compare(self, photos: Features, test: Features, images: dict[str, Dataset]) -> list[GainRow]:
        settings = self.settings
        made = {arm: self._embed(arm, extra) for arm, extra in images.items()}
        shots, weights = parse_shots(settings.shots), parse_weights(settings.weights)
        warn_of_short_classes(photos.labels, shots)
        pool = TrainingPool(photos.image_features, photos.labels, made)
        fits = sum(1 for _ in plan(photos.labels, shots, settings.seeds, tuple(made), weights))
        log.info("fitting %d heads", fits)
        with self.bars("heads", fits) as advance:
            return compare(
                pool,
                test.image_features,
                test.labels,
                lambda seed: build_head(settings.head, len(photos.classnames), seed),
                shots=shots,
                seeds=settings.seeds,
                weights=weights,
                progress=advance,
            )

    def _protocol(self) -> dict[str, object]:
        learns = {"head": self.settings.head, "text": "none"} if self.settings.learner == "head" else FINE_TUNED
        own = {**learns, "per_photo": self.settings.per_photo, "filter": "none"}
        drawn = {"fingerprint": self.loaded.fingerprint, "prompts": self.prompts, "seed": self.seed}
        return {**own, "views": extras.VIEWS_ARE, **PROTOCOL, **drawn, **self._drawing(IMAGE).to_dict()}


def _require_study_data(dataset: Dataset, data: str) -> None:
    dataset.require_photos()
    dataset.require_training_photos()
    if "test" not in dataset.splits:
        raise DataError(f"{data} has no test photos to score; a study needs a train and a test split")
