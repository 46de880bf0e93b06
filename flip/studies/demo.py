"""The whole story on the embedded field guide: every method once, with the sample's models, offline, on a laptop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from flip.classify.heads import make_head
from flip.classify.knn import fit_knn
from flip.classify.text_side import build_text_side
from flip.classify.zeroshot import zero_shot_logits
from flip.clip.model import load_model
from flip.clip.prompts import class_prompts
from flip.config import SAMPLE, FinetuneConfig, ReadConfig, worker_count
from flip.data.dataset import Dataset, few_shot_indices
from flip.embed.extractor import FeatureExtractor, make_extractor
from flip.features import Features
from flip.files import write_json
from flip.metrics import paired_interval, wilson_interval
from flip.report.plots import plot_few_shot
from flip.studies import demo_drawing
from flip.studies.few_shot import draws, few_shot_rows

Scores = npt.NDArray[Any]

#: Steps and their shares of the time, as measured; the time left is reckoned from them.
STEPS = (
    ("looking at the photos", 8.0),
    ("zero-shot: names alone", 2.0),
    ("kNN: the nearest labelled photos", 1.0),
    ("few-shot heads", 30.0),
    ("fine-tuning CLIP on captions", 45.0),
    ("the hybrid: photo and text", 10.0),
    ("fine-tuning the diffusion model on 5 photos a species", 45.0),
    ("drawing photos", 50.0),
    ("what the drawn photos do at 5 shots", 5.0),
)

PROMPTS = {"paper": "the paper's prompts", "plain": "clean names", "bird": "clean names, “a type of bird”"}
SHOTS = (1, 2, 5, None)
HEADS = ("linear", "gda", "auto")
FEW = 5
SEEDS = 3


@dataclass(frozen=True)
class Row:
    """A method's score on the test photos: percentages, with a 95 % Wilson interval, and what it had seen."""

    method: str
    sees: str
    top1: float
    ci95: tuple[float, float]
    n: int


@dataclass
class Demo:
    """One run.

    Attributes
    ----------
    dataset : Dataset
    folder : Path
        Gets models, pictures and results.
    config : ReadConfig
        Device, cache, workers, seed.
    say : callable
        Called with a line for people.
    overwrite : bool
        Replace what an earlier run left in the folder.
    """

    dataset: Dataset
    folder: Path
    config: ReadConfig
    say: Callable[[str], None]
    overwrite: bool = False
    rows: list[Row] = field(default_factory=list)
    notes: dict[str, Any] = field(default_factory=dict)
    _began: float = field(default_factory=time.perf_counter)
    _step: int = 0

    def tell(self) -> dict[str, Any]:
        """Go through all of it and return what ``demo.json`` holds."""
        with self._next():
            extractor = make_extractor(load_model(SAMPLE, cache=self.config.cache), self.config)
            train, test = self._features(extractor)
        with self._next():
            self._zero_shot(extractor, test, "CLIP of the sample")
        with self._next():
            self._knn(train, test, "kNN")
        with self._next():
            curves = self._few_shot(extractor, train, test)
        with self._next():
            tuned = self._finetune()
            tuned_train, tuned_test = self._features(tuned)
            self._zero_shot(tuned, tuned_test, "fine-tuned on captions", only="plain")
            self._knn(tuned_train, tuned_test, "kNN, fine-tuned on captions")
        with self._next():
            self._hybrid(tuned, tuned_train, tuned_test)
        few = self._few()
        with self._next():
            demo_drawing.finetune(few, self.folder / "diffusion", self.config, overwrite=self.overwrite)
        with self._next():
            drawn = demo_drawing.draw(
                few,
                self.folder / "augmented",
                self.folder / "diffusion",
                extractor,
                self.config,
                overwrite=self.overwrite,
            )
        with self._next():
            self._augmented(extractor, train, test, drawn)
        return self._write(curves)

    @contextmanager
    def _next(self) -> Iterator[None]:
        name, _ = STEPS[self._step]
        passed, done = time.perf_counter() - self._began, sum(share for _, share in STEPS[: self._step])
        left = sum(share for _, share in STEPS[self._step :])
        # Before anything is measured, the shares are taken for seconds.
        seconds = left * (passed / done if done else 1.0)
        self.say(f"step {self._step + 1} of {len(STEPS)}: {name} (about {seconds:.0f} s left)")
        yield
        self._step += 1

    def _features(self, extractor: FeatureExtractor) -> tuple[Features, Features]:
        features = extractor.features(self.dataset)
        return features.split("train"), features.split("test")

    def _add(self, method: str, sees: str, scores: Scores, test: Features) -> npt.NDArray[np.bool_]:
        correct: npt.NDArray[np.bool_] = scores.argmax(axis=1) == test.labels
        n = len(correct)
        self.rows.append(
            Row(method, sees, 100.0 * float(correct.mean()), wilson_interval(int(correct.sum()), n), n),
        )
        return correct

    def _zero_shot(self, extractor: FeatureExtractor, test: Features, what: str, only: str | None = None) -> None:
        for prompts, wording in PROMPTS.items():
            if only in (None, prompts):
                texts = class_prompts(prompts, self.dataset.classnames, self.dataset.raw_names)
                logits = zero_shot_logits(test.image_features, extractor.class_embeddings(texts), 1.0)
                self._add(f"zero-shot, {what}", wording, logits, test)

    def _knn(self, train: Features, test: Features, method: str) -> None:
        knn = fit_knn(train.image_features, train.labels, len(self.dataset.classnames))
        self._add(method, f"10 photos a species, k = {knn.k}", knn.predict_proba(test.image_features), test)

    def _few_shot(self, extractor: FeatureExtractor, train: Features, test: Features) -> dict[str, Any]:
        """Fit heads at every number of shots; those on all photos enter the table."""
        inputs, wanted = (self._inputs(extractor, features) for features in (train, test))
        curves = {}
        for kind in HEADS:
            scored = []
            for draw in draws(train.labels, SHOTS, SEEDS, few_shot_indices):
                head = make_head(kind, len(self.dataset.classnames), draw.seed)
                scores = head.fit(inputs.take(draw.rows), train.labels[draw.rows]).logits(wanted)
                scored.append((draw, 100.0 * float((scores.argmax(axis=1) == test.labels).mean()), kind))
                if draw.shots is None:
                    self._add(f"head {kind}", "10 photos a species, class names", scores, test)
            curves[kind] = few_shot_rows(scored)
        return curves

    def _inputs(self, extractor: FeatureExtractor, features: Features, captions: Scores | None = None) -> Any:
        texts = class_prompts("plain", self.dataset.classnames)
        return build_text_side(
            features.image_features, extractor.class_embeddings(texts), extractor.model.logit_scale, captions
        )

    def _finetune(self) -> FeatureExtractor:
        from flip.training.clip.pipeline import finetune
        from flip.training.clip.validation import split_validation

        config = FinetuneConfig(
            model=SAMPLE,
            cache=self.config.cache,
            device=self.config.device,
            workers=self.config.workers,
            seed=self.config.seed,
            epochs=15,
            batch_size=48,
            lr=1e-3,
            overwrite=self.overwrite,
        )
        folder = self.folder / "tuned"
        split = split_validation(self.dataset, config.val_fraction, config.seed)
        result = finetune(load_model(SAMPLE, cache=self.config.cache), split, config, folder)
        result.training.finish()
        return make_extractor(load_model(str(folder), cache=self.config.cache), self.config)

    def _hybrid(self, extractor: FeatureExtractor, train: Features, test: Features) -> None:
        """Fit the paper's head on photo and text: with class prompts, and with the test photos' own captions."""
        for captioned, sees in ((False, "class names"), (True, "each test photo's own captions")):
            sides = []
            for features in (train, test):
                captions = self._captions(extractor, features) if captioned else None
                sides.append(self._inputs(extractor, features, captions))
            head = make_head("mlp", len(self.dataset.classnames), self.config.seed)
            scores = head.fit(sides[0], train.labels).logits(sides[1])
            self._add("hybrid (MLP), fine-tuned on captions", f"10 photos a species, {sees}", scores, test)

    def _captions(self, extractor: FeatureExtractor, features: Features) -> Scores:
        """Return the unit mean of each photo's caption embeddings, (n, d)."""
        flat = extractor.texts([text for captions in features.captions for text in captions])
        starts = np.cumsum([0, *(len(captions) for captions in features.captions)])[:-1]
        means = np.add.reduceat(flat, starts, axis=0)
        unit: Scores = means / np.linalg.norm(means, axis=1, keepdims=True)
        return unit

    def _few(self) -> Dataset:
        """Return the dataset with five training photos a species: what is drawn from them has seen no others."""
        train = self.dataset.select("train")
        kept = train.take(few_shot_indices(train.labels, FEW, self.config.seed))
        test = self.dataset.select("test")
        return Dataset(
            kept.root, kept.layout, kept.classnames, kept.raw_names, (*kept.records, *test.records), kept.embeddings
        )

    def _augmented(self, extractor: FeatureExtractor, train: Features, test: Features, drawn: Dataset) -> None:
        rows = few_shot_indices(train.labels, FEW, self.config.seed)
        real = train.take(rows)
        extra = extractor.features(drawn)
        own = np.array([self.dataset.classnames.index(name) for name in drawn.classnames])
        wanted = self._inputs(extractor, test).image
        correct = {}
        for method, features, labels in (
            (f"head linear at {FEW} shots", real.image_features, real.labels),
            (
                f"head linear at {FEW} shots and drawn photos",
                np.concatenate([real.image_features, extra.image_features]),
                np.concatenate([real.labels, own[extra.labels]]),
            ),
        ):
            is_real = np.arange(len(labels)) < len(real)
            weight = np.where(is_real, 1.0, 0.3).astype(np.float32)
            head = make_head("linear", len(self.dataset.classnames), self.config.seed)
            head.fit(build_text_side(features, None, 1.0), labels, weight, is_real)
            sees = f"{FEW} photos a species" + (f", {len(extra)} drawn ones" if len(labels) > len(real) else "")
            correct[method] = self._add(method, sees, head.logits(build_text_side(wanted, None, 1.0)), test)
        without, with_drawn = correct.values()
        difference, low, high = paired_interval(with_drawn, without)
        self.notes["drawn_photos"] = {"difference": difference, "ci95": [low, high]}

    def _write(self, curves: dict[str, Any]) -> dict[str, Any]:
        summary = {
            "data": SAMPLE,
            "species": len(self.dataset.classnames),
            "rows": [asdict(row) for row in self.rows],
            "few_shot": curves,
            **self.notes,
            "seconds": round(time.perf_counter() - self._began, 1),
        }
        write_json(self.folder / "demo.json", summary)
        title = f"{len(self.dataset.classnames)} drawn species, {self.rows[0].n} test photos"
        plot_few_shot(self.folder / "few-shot.png", curves, title)
        demo_drawing.save_species(self.dataset, self.folder / "species.png")
        demo_drawing.save_drawn(self.folder / "augmented", self.dataset.raw_names, self.folder / "drawn.png")
        return summary


def reading_config(*, cache: Path | None, device: str, workers: int | None, seed: int) -> ReadConfig:
    """Return how the demo reads photos."""
    return ReadConfig(
        data=SAMPLE,
        model=SAMPLE,
        cache=cache,
        device=device,  # type: ignore[arg-type]
        workers=worker_count(workers),
        seed=seed,
    )
