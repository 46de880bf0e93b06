"""Every method once on the embedded field guide, with the sample's models: offline, on a laptop."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
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
from flip.machine import versions
from flip.metrics import paired_interval
from flip.names import SAMPLE
from flip.results import FORMAT
from flip.settings import Progress, settings_from
from flip.studies import demo_drawing
from flip.studies.demo_steps import OpenBar, Step, StepFolder, StepProgress, StepResult, no_bar, watched
from flip.studies.few_shot import ShotRow
from flip.studies.protocol import Fit, Outcome, run_protocol, score
from flip.studies.training_data import make_training_set
from flip.training.listener import Listener, StepReport
from flip.training.settings import ClipSettings, Hardware

#: File from which an unfinished demo goes on.
STATE = "steps.json"

PROMPTS = {"paper": "the paper's prompts", "plain": "clean names", "bird": "clean names, “a type of bird”"}
SHOTS = (1, 2, 5, None)
#: Methods of the few-shot curves, with the draws of each: of the quick ones more.
CURVES = {"knn": 20, "linear": 10, "auto": 10}
FEW = 5
TUNING = ClipSettings(epochs=15, batch_size=48, lr=1e-3)
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
    generated_images: Difference
    seconds: float


@dataclass
class Demo:
    """One run. The same run in the same folder goes on where it was stopped.

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
    open_bar : callable
        Shows how far a step is: a context manager that yields a function of the share done and the seconds left.
    """

    dataset: Dataset
    folder: Path
    settings: EmbedSettings
    cache: Path | None = None
    seed: int = 0
    overwrite: bool = False
    open_bar: OpenBar = no_bar
    _rows: list[Row] = field(default_factory=list)

    def run(self) -> DemoResult:
        """Run all steps and return what ``demo.json`` holds."""
        key = {"version": versions()["flip-clip"], "data": self.dataset.fingerprint(), "seed": self.seed}
        kept = StepFolder(self.folder, STATE, key)
        kept.open(overwrite=self.overwrite)
        steps = list(STEPS)
        for at, (step, work) in enumerate(STEPS.items()):
            if step.title in kept.done:
                continue
            began, self._rows = time.perf_counter(), []
            with watched(steps, at, kept.passed, self.open_bar) as progress:
                result = work(self, progress)
            kept.keep(step.title, {"rows": self._rows, **result, "seconds": time.perf_counter() - began})
        return self._write(kept)

    def look(self, progress: StepProgress) -> StepResult:
        """Embed the photos."""
        self.extractor.features(self.dataset, progress.part(1.0, len(self.dataset)))
        return {}

    def zero_shot(self, progress: StepProgress) -> StepResult:
        """Name test photos by the names of the species."""
        advance = progress.part(1.0, len(PROMPTS))
        for prompts, wording in PROMPTS.items():
            names = self._names(self.extractor, prompts)
            self._add("zero-shot, CLIP of the sample", wording, score(names, self._split("test")))
            advance(1)
        return {}

    def knn(self, progress: StepProgress) -> StepResult:
        """Let the nearest training photos vote."""
        self._knn("kNN", self._split("train"), self._split("test"))
        return {}

    def few_shot(self, progress: StepProgress) -> StepResult:
        """Fit methods at every number of shots; heads on all photos enter the table."""
        advance = progress.part(1.0, sum(seeds * (len(SHOTS) - 1) + 1 for seeds in CURVES.values()))
        names = self._names(self.extractor, "plain")
        curves: dict[str, list[ShotRow]] = {}
        for kind, seeds in CURVES.items():
            train, test = self._split("train"), self._split("test")
            outcome = run_protocol(_fit_of(kind, names), train, test, shots=SHOTS, seeds=seeds, progress=advance)
            if kind != "knn":
                self._add(f"head {kind}", "10 photos per species, class names", outcome)
            curves["kNN" if kind == "knn" else f"head {kind}"] = outcome.evaluation.details["shots"]
        return {"few_shot": curves}

    def finetune(self, progress: StepProgress) -> StepResult:
        """Fine-tune CLIP on captions, and score it."""
        from flip.training.clip.finetune import finetune
        from flip.training.clip.output import RESULT

        finetune(
            self.dataset,
            SAMPLE,
            self._tuned_folder,
            replace(TUNING, seed=self.seed),
            hardware=settings_from(self.settings, Hardware),
            cache=self.cache,
            resume=(self._tuned_folder / RESULT).is_file() and not self.overwrite,
            overwrite=self.overwrite,
            listener=Listener(steps_as(progress, 0.8)),
        )
        self.tuned.features(self.dataset, progress.part(0.2, len(self.dataset)))
        train, test = self._split("train", self.tuned), self._split("test", self.tuned)
        self._add("zero-shot, fine-tuned on captions", PROMPTS["plain"], score(self._names(self.tuned, "plain"), test))
        self._knn("kNN, fine-tuned on captions", train, test)
        return {}

    def hybrid(self, progress: StepProgress) -> StepResult:
        """Fit the paper's head on photo and text: with class prompts, and with the test photos' own captions."""
        names, advance = self._names(self.tuned, "plain"), progress.part(1.0, 2)
        for text, sees in (("prompts", "class names"), ("captions", "each test photo's own captions")):
            parts = [self._split("train", self.tuned), self._split("test", self.tuned)]
            if text == "captions":
                parts = [with_caption_features(features, self.tuned) for features in parts]
            head = make_head("mlp", text=text, zero_shot=names, seed=self.seed).fit(parts[0])
            self._add("hybrid (MLP), fine-tuned on captions", f"10 photos per species, {sees}", score(head, parts[1]))
            advance(1)
        return {}

    def finetune_diffusion(self, progress: StepProgress) -> StepResult:
        """Fine-tune the diffusion model on five training photos per species."""
        self._drawing.finetune(Listener(steps_as(progress, 1.0)))
        return {}

    def generate(self, progress: StepProgress) -> StepResult:
        """Generate labelled images of every species, and keep those that CLIP takes for their species."""
        wanted = demo_drawing.DRAWING.per_class * len(self.dataset.classnames)
        return {"images": self._drawing.draw(self.extractor, progress.part(1.0, wanted))}

    def compare(self, progress: StepProgress) -> StepResult:
        """Fit a linear head on five photos per species without and with the generated images."""
        few = self._split("train").take(few_shot_indices(self._split("train").labels, FEW, self.seed))
        folder = self.folder / demo_drawing.GENERATED
        both = make_training_set(few, self.extractor, generated=folder, generated_weight=GENERATED_WEIGHT)
        generated, right = int((~both.real).sum()), []
        for training, what, sees in (
            (TrainingSet.of(few), "", ""),
            (both, " and generated images", f", {generated} generated images"),
        ):
            head = make_head("linear", seed=self.seed).fit(training)
            outcome = score(head, self._split("test"))
            right.append(self._add(f"head linear at {FEW} shots{what}", f"{FEW} photos per species{sees}", outcome))
        difference, low, high = paired_interval(right[1], right[0])
        return {"generated_images": {"difference": difference, "ci95": [low, high]}}

    @cached_property
    def extractor(self) -> FeatureExtractor:
        """The sample's model."""
        return FeatureExtractor(load_model(SAMPLE, cache=self.cache), self.settings, self.cache)

    @cached_property
    def tuned(self) -> FeatureExtractor:
        """The model that was fine-tuned on captions."""
        return FeatureExtractor(load_model(str(self._tuned_folder), cache=self.cache), self.settings, self.cache)

    @property
    def _tuned_folder(self) -> Path:
        return self.folder / "tuned"

    @cached_property
    def _drawing(self) -> demo_drawing.Drawing:
        """The diffusion model is trained on five photos per species, and its images have seen no others."""
        train, test = self.dataset.select("train"), self.dataset.select("test")
        kept = train.take(few_shot_indices(train.labels, FEW, self.seed))
        few = replace(kept, records=(*kept.records, *test.records))
        return demo_drawing.Drawing(few, self.folder, self.settings, self.cache, self.seed, self.overwrite)

    def _split(self, name: str, extractor: FeatureExtractor | None = None) -> Features:
        """Return the features of a split; they come from the cache once they were computed."""
        return (extractor or self.extractor).features(self.dataset).split(name)

    def _names(self, extractor: FeatureExtractor, prompts: str) -> ZeroShotClassifier:
        texts = data_prompts(prompts, self.dataset)
        return build_zero_shot_classifier(texts, extractor.model, settings=self.settings, cache=self.cache)

    def _add(self, method: str, sees: str, outcome: Outcome) -> BoolArray:
        """Add a row to the table, and return whether each test photo was named right, shape (n,)."""
        e = outcome.evaluation
        self._rows.append({"method": method, "sees": sees, "top1": e.top1, "ci95": e.ci95, "n": e.n})
        right: BoolArray = outcome.probabilities.argmax(axis=1) == outcome.features.labels
        return right

    def _knn(self, method: str, train: Features, test: Features) -> None:
        knn = KnnClassifier().fit(train)
        self._add(method, f"10 photos per species, k = {knn.k}", score(knn, test))

    def _write(self, kept: StepFolder) -> DemoResult:
        results = list(kept.done.values())
        summary: DemoResult = {
            "command": "demo",
            "format": FORMAT,
            "data": SAMPLE,
            "species": len(self.dataset.classnames),
            "rows": [row for result in results for row in result["rows"]],
            "few_shot": next(result["few_shot"] for result in results if "few_shot" in result),
            "generated_images": next(r["generated_images"] for r in results if "generated_images" in r),
            "seconds": round(kept.passed, 1),
        }
        write_json(self.folder / "demo.json", summary)
        return summary


#: Steps with their work, and their shares of the time as measured: seconds on two idle cores.
STEPS: dict[Step, Callable[[Demo, StepProgress], StepResult]] = {
    Step("looking at the photos", 5.0): Demo.look,
    Step("zero-shot: names alone", 0.3): Demo.zero_shot,
    Step("kNN: the nearest labelled photos", 0.4): Demo.knn,
    Step("few-shot curves", 18.0): Demo.few_shot,
    Step("fine-tuning CLIP on captions", 27.0): Demo.finetune,
    Step("the hybrid: photo and text", 8.0): Demo.hybrid,
    Step("fine-tuning the diffusion model on 5 photos per species", 68.0): Demo.finetune_diffusion,
    Step("generating images", 42.0): Demo.generate,
    Step("the effect of generated images at 5 shots", 2.0): Demo.compare,
}


def _fit_of(kind: str, names: ZeroShotClassifier) -> Fit:
    def fit(training: TrainingSet, seed: int) -> Classifier:
        if kind == "knn":
            return KnnClassifier(seed=seed).fit(training)
        return make_head(kind, text="prompts", zero_shot=names, seed=seed).fit(training)

    return fit


def steps_as(step: StepProgress, share: float) -> Callable[[StepReport], None]:
    """Return a listener to training steps that advances a part of a demo's step."""
    progress: Progress | None = None
    seen = 0

    def on_step(report: StepReport) -> None:
        nonlocal progress, seen
        progress = progress or step.part(share, report.steps)
        progress(report.step - seen)
        seen = report.step

    return on_step
