"""Every method once on the embedded field guide, with the sample's models: offline, on a laptop."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypedDict

from flip.arrays import BoolArray
from flip.classify.base import Classifier
from flip.classify.classifier import make_head
from flip.classify.knn import KnnClassifier
from flip.classify.training_set import TrainingSet
from flip.classify.zeroshot import ZeroShotClassifier
from flip.clip.model import load_model
from flip.clip.prompts import data_prompts
from flip.data.dataset import Dataset, few_shot_indices
from flip.embed.captions import with_caption_features
from flip.embed.extractor import FeatureExtractor
from flip.embed.settings import EmbedSettings
from flip.embed.texts import build_zero_shot_classifier
from flip.features import Features
from flip.files import write_json
from flip.metrics import paired_interval
from flip.names import SAMPLE
from flip.results import FORMAT
from flip.settings import settings_from
from flip.studies import demo_drawing
from flip.studies.few_shot import ShotRow
from flip.studies.protocol import Outcome, run_protocol, score
from flip.studies.training_data import make_training_set

log = logging.getLogger(__name__)

#: Steps and their shares of the time, as measured; the time left is estimated from them.
STEPS = (
    ("looking at the photos", 8.0),
    ("zero-shot: names alone", 2.0),
    ("kNN: the nearest labelled photos", 1.0),
    ("few-shot heads", 30.0),
    ("fine-tuning CLIP on captions", 45.0),
    ("the hybrid: photo and text", 10.0),
    ("fine-tuning the diffusion model on 5 photos per species", 45.0),
    ("drawing photos", 50.0),
    ("the effect of the drawn photos at 5 shots", 5.0),
)

PROMPTS = {"paper": "the paper's prompts", "plain": "clean names", "bird": "clean names, “a type of bird”"}
SHOTS = (1, 2, 5, None)
HEADS = ("linear", "gda", "auto")
FEW = 5
SEEDS = 3
GENERATED_WEIGHT = 0.3


class Row(TypedDict):
    """A method's top-1 on the test photos in percent, with its 95 % Wilson interval, and what it had seen."""

    method: str
    sees: str
    top1: float
    ci95: tuple[float, float]
    n: int


class Difference(TypedDict):
    """A difference of accuracies in points, and its 95 % interval."""

    difference: float
    ci95: list[float]


class DemoResult(TypedDict):
    """What ``demo.json`` holds."""

    command: str
    format: int
    data: str
    species: int
    rows: list[Row]
    few_shot: dict[str, list[ShotRow]]
    drawn_photos: Difference
    seconds: float


@dataclass
class Demo:
    """One run.

    Attributes
    ----------
    dataset : Dataset
    folder : Path
        Gets models, pictures and results.
    settings : EmbedSettings
    cache : Path or None
    seed : int
    overwrite : bool
        Replace what an earlier run left in the folder.
    """

    dataset: Dataset
    folder: Path
    settings: EmbedSettings
    cache: Path | None = None
    seed: int = 0
    overwrite: bool = False
    rows: list[Row] = field(default_factory=list)
    details: dict[str, Difference] = field(default_factory=dict)
    _began: float = field(default_factory=time.perf_counter)
    _step: int = 0

    def run(self) -> DemoResult:
        """Run all steps and return what ``demo.json`` holds."""
        with self._next():
            extractor = self._extractor(SAMPLE)
            train, test = self._features(extractor)
        with self._next():
            for prompts, wording in PROMPTS.items():
                self._add("zero-shot, CLIP of the sample", wording, score(self._names(extractor, prompts), test))
        with self._next():
            self._knn("kNN", train, test)
        with self._next():
            curves = self._few_shot(self._names(extractor, "plain"), train, test)
        with self._next():
            tuned = self._finetune()
            tuned_train, tuned_test = self._features(tuned)
            names = self._names(tuned, "plain")
            self._add("zero-shot, fine-tuned on captions", PROMPTS["plain"], score(names, tuned_test))
            self._knn("kNN, fine-tuned on captions", tuned_train, tuned_test)
        with self._next():
            self._hybrid(tuned, tuned_train, tuned_test)
        few = self._few()
        drawing = demo_drawing.Drawing(few, self.folder, self.settings, self.cache, self.seed, self.overwrite)
        with self._next():
            drawing.finetune()
        with self._next():
            drawing.draw(extractor)
        with self._next():
            self._generated(extractor, train, test)
        return self._write(curves)

    @contextmanager
    def _next(self) -> Iterator[None]:
        name, _ = STEPS[self._step]
        passed, done = time.perf_counter() - self._began, sum(share for _, share in STEPS[: self._step])
        left = sum(share for _, share in STEPS[self._step :])
        # Before anything is measured, the shares are taken for seconds.
        seconds = left * (passed / done if done else 1.0)
        log.info("step %d of %d: %s (about %.0f s left)", self._step + 1, len(STEPS), name, seconds)
        yield
        self._step += 1

    def _extractor(self, model: str) -> FeatureExtractor:
        return FeatureExtractor(load_model(model, cache=self.cache), self.settings, self.cache)

    def _features(self, extractor: FeatureExtractor) -> tuple[Features, Features]:
        features = extractor.features(self.dataset)
        return features.split("train"), features.split("test")

    def _names(self, extractor: FeatureExtractor, prompts: str) -> ZeroShotClassifier:
        texts = data_prompts(prompts, self.dataset)
        return build_zero_shot_classifier(texts, extractor.model, settings=self.settings, cache=self.cache)

    def _add(self, method: str, sees: str, outcome: Outcome) -> BoolArray:
        """Add a row to the table, and return whether each test photo was named right, shape (n,)."""
        e = outcome.evaluation
        self.rows.append({"method": method, "sees": sees, "top1": e.top1, "ci95": e.ci95, "n": e.n})
        right: BoolArray = outcome.probabilities.argmax(axis=1) == outcome.features.labels
        return right

    def _knn(self, method: str, train: Features, test: Features) -> None:
        knn = KnnClassifier().fit(train)
        self._add(method, f"10 photos per species, k = {knn.k}", score(knn, test))

    def _few_shot(self, names: ZeroShotClassifier, train: Features, test: Features) -> dict[str, list[ShotRow]]:
        """Fit heads at every number of shots; those on all photos enter the table."""
        curves: dict[str, list[ShotRow]] = {}
        for kind in HEADS:

            def fit(training: TrainingSet, seed: int, kind: str = kind) -> Classifier:
                return make_head(kind, text="prompts", zero_shot=names, seed=seed).fit(training)

            outcome = run_protocol(fit, train, test, shots=SHOTS, seeds=SEEDS)
            self._add(f"head {kind}", "10 photos per species, class names", outcome)
            curves[kind] = outcome.evaluation.details["shots"]
        return curves

    def _finetune(self) -> FeatureExtractor:
        from flip.training.clip.finetune import finetune
        from flip.training.settings import ClipSettings, Hardware

        settings = ClipSettings(epochs=15, batch_size=48, lr=1e-3, seed=self.seed)
        folder = self.folder / "tuned"
        finetune(
            self.dataset,
            SAMPLE,
            folder,
            settings,
            hardware=settings_from(self.settings, Hardware),
            cache=self.cache,
            overwrite=self.overwrite,
        )
        return self._extractor(str(folder))

    def _hybrid(self, extractor: FeatureExtractor, train: Features, test: Features) -> None:
        """Fit the paper's head on photo and text: with class prompts, and with the test photos' own captions."""
        names = self._names(extractor, "plain")
        for text, sees in (("prompts", "class names"), ("captions", "each test photo's own captions")):
            parts = [train, test]
            if text == "captions":
                parts = [with_caption_features(features, extractor) for features in parts]
            head = make_head("mlp", text=text, zero_shot=names, seed=self.seed).fit(parts[0])
            self._add("hybrid (MLP), fine-tuned on captions", f"10 photos per species, {sees}", score(head, parts[1]))

    def _few(self) -> Dataset:
        """Return the dataset with five training photos per species: what is drawn from them has seen no others."""
        train, test = self.dataset.select("train"), self.dataset.select("test")
        kept = train.take(few_shot_indices(train.labels, FEW, self.seed))
        return replace(kept, records=(*kept.records, *test.records))

    def _generated(self, extractor: FeatureExtractor, train: Features, test: Features) -> None:
        """Fit a linear head on five photos per species without and with the drawn ones."""
        few = train.take(few_shot_indices(train.labels, FEW, self.seed))
        folder = self.folder / demo_drawing.GENERATED
        both = make_training_set(few, extractor, generated=folder, generated_weight=GENERATED_WEIGHT)
        drawn = int((~both.real).sum())
        right = []
        for training, what, sees in (
            (TrainingSet.of(few), "", ""),
            (both, " and drawn photos", f", {drawn} drawn ones"),
        ):
            head = make_head("linear", seed=self.seed).fit(training)
            outcome = score(head, test)
            right.append(self._add(f"head linear at {FEW} shots{what}", f"{FEW} photos per species{sees}", outcome))
        difference, low, high = paired_interval(right[1], right[0])
        self.details["drawn_photos"] = {"difference": difference, "ci95": [low, high]}

    def _write(self, curves: dict[str, list[ShotRow]]) -> DemoResult:
        summary: DemoResult = {
            "command": "demo",
            "format": FORMAT,
            "data": SAMPLE,
            "species": len(self.dataset.classnames),
            "rows": self.rows,
            "few_shot": curves,
            "drawn_photos": self.details["drawn_photos"],
            "seconds": round(time.perf_counter() - self._began, 1),
        }
        write_json(self.folder / "demo.json", summary)
        demo_drawing.save_species(self.dataset, self.folder / "species.png")
        generated = self.folder / demo_drawing.GENERATED
        demo_drawing.save_drawn(generated, self.dataset.raw_names, self.folder / "drawn.png")
        return summary
