"""flip data check on real photos with planted faults, beside cleanlab on the same probabilities.

    python tests/bench/bench_audit.py --data shared/data/birds --model shared/models/flip-lit-b0

Cleanlab is under the AGPL and no requirement of flip; its columns stay empty where it cannot be imported:
``pip install --target FOLDER --no-deps cleanlab termcolor pandas`` with FOLDER at the end of ``PYTHONPATH``.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageOps

from flip.arrays import BoolArray, FloatArray, IntArray
from flip.clip.model import load_model
from flip.data.dataset import Dataset
from flip.data.manifest_file import write_manifest
from flip.data.open import open_dataset
from flip.embed.extractor import FeatureExtractor
from flip.embed.settings import EmbedSettings
from flip.features import Features
from flip.studies.audit import Audit, audit

Plant = tuple[str, str]


def photo(path: Path) -> Image.Image:
    return Image.open(path).convert("RGB")


def crop(image: Image.Image, share: float) -> Image.Image:
    width, height = image.size
    return image.crop((0, 0, round(width * share), round(height * share)))


def noise(_: Image.Image) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (256, 256, 3), dtype=np.uint8))


def page(_: Image.Image) -> Image.Image:
    sheet = Image.new("RGB", (400, 500), "white")
    for line in range(20, 480, 14):
        ImageDraw.Draw(sheet).text((20, line), "the quick brown fox jumps over the lazy dog", fill="black")
    return sheet


def scene(name: str) -> Callable[[Image.Image], Image.Image]:
    def load(_: Image.Image) -> Image.Image:
        from sklearn.datasets import load_sample_image

        return Image.fromarray(load_sample_image(name))

    return load


#: What is planted: the kinds of which one must be found, how the picture is changed, and in which split it lies.
PICTURES: tuple[tuple[tuple[str, ...], Callable[[Image.Image], Image.Image], str], ...] = (
    (("tiny",), lambda image: image.resize((40, 30)), "train"),
    (("tiny",), lambda image: image.resize((64, 48)), "test"),
    (("huge",), lambda image: image.resize((5000, 4000)), "train"),
    (("dark",), ImageEnhance.Brightness, "train"),
    (("dark",), ImageEnhance.Brightness, "test"),
    (("blurred",), lambda image: image.filter(ImageFilter.GaussianBlur(3)), "train"),
    (("blurred",), lambda image: image.filter(ImageFilter.GaussianBlur(5)), "test"),
    (("flat",), lambda image: Image.new("RGB", image.size, (120, 130, 90)), "train"),
    (("near-copies", "near-copies-across-splits"), lambda image: crop(image, 0.85), "train"),
    (("near-copies", "near-copies-across-splits"), ImageOps.mirror, "test"),
    (("near-copies-across-splits",), lambda image: image.resize((200, 160)), "other split"),
    (("near-copies-across-classes",), lambda image: ImageEnhance.Brightness(image).enhance(1.3), "other class"),
    (("outliers", "labels-in-doubt"), noise, "train"),
    (("outliers", "labels-in-doubt"), page, "train"),
    (("outliers", "labels-in-doubt"), scene("china.jpg"), "train"),
    (("outliers", "labels-in-doubt"), scene("flower.jpg"), "test"),
)


def planted(
    dataset: Dataset, folder: Path, seed: int
) -> tuple[list[dict[str, object]], list[tuple[tuple[str, ...], str]]]:
    """Return manifest rows of planted faults, and the kinds and path of each."""
    rng = np.random.default_rng(seed)
    chosen = [dataset.records[i] for i in rng.choice(len(dataset), len(PICTURES) + 6, replace=False)]
    names, rows, faults = dataset.raw_names, [], []

    def add(kinds: tuple[str, ...], name: str, label: int, split: str) -> Path:
        rows.append({"path": str(folder / name), "label": names[label], "split": split})
        faults.append((kinds, name))
        return folder / name

    for number, ((kinds, change, split), record) in enumerate(zip(PICTURES, chosen, strict=False)):
        image = photo(dataset.file(record))
        made = ImageEnhance.Brightness(image).enhance(0.12) if change is ImageEnhance.Brightness else change(image)
        label = (record.label + 1) % len(names) if split == "other class" else record.label
        own = {"train": "test", "test": "train"}.get(record.split, "train")
        where = own if split == "other split" else record.split if split == "other class" else split
        made.save(add(kinds, f"planted_{number}_{kinds[0]}.jpg", label, where), quality=90)
    rest = chosen[len(PICTURES) :]
    content = [dataset.file(record).read_bytes() for record in rest]
    other = {"train": "test", "test": "train"}
    copy = ("copies", "copies-across-splits")
    add(("truncated",), "cut.jpg", rest[0].label, "train").write_bytes(content[0][: len(content[0]) // 2])
    add(("unreadable",), "text.jpg", rest[1].label, "train").write_text("<html>404</html>")
    photo(dataset.file(rest[2])).resize((300, 222)).filter(ImageFilter.UnsharpMask()).save(
        add(("wrong-suffix",), "suffix.jpg", rest[2].label, rest[2].split), "PNG"
    )
    add(copy, "copy.jpg", rest[3].label, rest[3].split).write_bytes(content[3])
    add(copy[1:], "leak.jpg", rest[4].label, other[rest[4].split]).write_bytes(content[4])
    label = (rest[5].label + 3) % len(names)
    add(("copies-across-classes",), "two.jpg", label, rest[5].split).write_bytes(content[5])
    return rows, faults


def with_faults(dataset: Dataset, folder: Path, share: float, seed: int) -> tuple[Path, set[str], list]:
    """Write a manifest with flipped labels and planted faults; return it, the flipped paths, and the faults."""
    rng = np.random.default_rng(1000 + seed)
    file = folder / "faults.jsonl"
    write_manifest(dataset, file)
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    flipped = set()
    for i in rng.choice(len(rows), round(share * len(rows)), replace=False):
        names = [name for name in dataset.raw_names if name != rows[i]["label"]]
        rows[i]["label"] = names[rng.integers(len(names))]
        flipped.add(rows[i]["path"])
    more, faults = planted(dataset, folder, seed)
    file.write_text("".join(json.dumps(row) + "\n" for row in [*rows, *more]))
    return file, flipped, faults


def ranking_quality(scores: FloatArray, bad: BoolArray) -> float:
    """Return the precision where recall first reaches 0.9, the most doubtful first."""
    hits = np.cumsum(bad[np.argsort(-scores, kind="stable")])
    depth = int(np.searchsorted(hits, np.ceil(0.9 * bad.sum()))) + 1
    return float(hits[depth - 1] / depth)


def logistic_regression(features: FloatArray, labels: IntArray) -> FloatArray:
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    model = LogisticRegression(C=1.0, max_iter=300)
    return cross_val_predict(model, 10 * features, labels, cv=folds, method="predict_proba")


def discriminant(features: FloatArray, labels: IntArray, n_classes: int) -> FloatArray:
    """Return the out-of-fold probabilities of flip's head as calibration leaves them."""
    from flip.classify.calibration import softmax
    from flip.classify.heads import Inputs, build_head

    held = build_head("gda", n_classes).fit(Inputs(features), labels).out_of_fold
    probabilities = np.zeros((len(labels), n_classes))
    probabilities[held.rows] = softmax(held.logits)
    return probabilities


def yardsticks(features: Features, bad: BoolArray) -> Iterator[tuple[str, float, BoolArray | None]]:
    """Yield (method, precision where recall reaches 0.9, its default cut) of cleanlab and of plain probabilities."""
    labels, image = features.labels, features.image_features
    sources = {"logistic regression": logistic_regression(image, labels)}
    sources["flip's head"] = discriminant(image, labels, len(features.classnames))
    for name, probabilities in sources.items():
        own = probabilities[np.arange(len(labels)), labels]
        yield f"{name}, 1 - p(label)", ranking_quality(1 - own, bad), None
        try:
            from cleanlab.filter import find_label_issues
            from cleanlab.rank import get_label_quality_scores
        except ImportError:
            continue
        cut = find_label_issues(labels, probabilities, n_jobs=1)
        score = 1 - get_label_quality_scores(labels, probabilities)
        yield f"{name}, cleanlab", ranking_quality(score, bad), cut


def report_labels(found: Audit, flipped: set[str], features: Features) -> None:
    rank = {row.path: row for row in found.ranking}
    rows = [i for i, path in enumerate(features.paths) if path in rank]
    bad = np.array([features.paths[i] in flipped for i in rows])
    scores = np.array([rank[features.paths[i]].score for i in rows])
    cut = np.array([rank[features.paths[i]].in_doubt for i in rows])
    own = [("flip data check", ranking_quality(scores, bad), cut)]
    for name, precision, chosen in [*own, *yardsticks(features.take(rows), bad)]:
        shown = "" if chosen is None else f"cut {chosen.sum():4d}: precision {bad[chosen].mean():.2f}, "
        shown += "" if chosen is None else f"recall {chosen[bad].mean():.2f}"
        print(f"    {name:36s} precision at recall 0.9: {precision:.2f}  {shown}")


def run(name: str, dataset: Dataset, extractor: FeatureExtractor) -> tuple[Audit, Features]:
    features = extractor.features(dataset)
    began = time.perf_counter()
    found = audit(dataset, features)
    seconds = time.perf_counter() - began
    counts = Counter(finding.kind for finding in found.findings)
    print(f"{name}: {len(dataset)} photos, {seconds:.1f} s after embedding; {dict(counts)}")
    return found, features


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="shared/data/birds")
    parser.add_argument("--model", default="shared/models/flip-lit-b0")
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--share", type=float, default=0.05)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    extractor = FeatureExtractor(load_model(options.model), EmbedSettings(precision="fp32"), options.cache)
    dataset = open_dataset(options.data)
    found, _ = run("as it is", dataset, extractor)
    print(f"    in doubt: {100 * len(found.of('labels-in-doubt')) / len(dataset):.1f} %")
    for seed in range(options.seeds):
        folder = Path(tempfile.mkdtemp())
        file, flipped, faults = with_faults(dataset, folder, options.share, seed)
        broken = open_dataset(file)
        found, features = run(f"seed {seed}", broken, extractor)
        by_kind = {(finding.kind, path) for finding in found.findings for path in (finding.path, finding.other)}
        missed = [name for kinds, name in faults if not any((kind, name) in by_kind for kind in kinds)]
        planted_names = {name for _, name in faults}
        alarms = [
            (finding.kind, finding.path, finding.other)
            for finding in found.findings
            # A photo in another class may miss captions there, or be the copy of one in its own.
            if finding.kind != "labels-in-doubt" and not {finding.path, finding.other} & (planted_names | flipped)
        ]
        print(f"    planted {len(faults)}, missed {missed}")
        print("    others:", *alarms, sep="\n        ")
        report_labels(found, flipped, features)
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
