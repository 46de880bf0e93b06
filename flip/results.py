"""What a command reports: an evaluation, prediction rows, and how they are written and read back."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
import os
import platform
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from flip.errors import ConfigError, DataError

if TYPE_CHECKING:
    from flip.metrics import Array

#: The packages whose versions decide a number.
PACKAGES = ("flip-clip", "torch", "torchvision", "open_clip_torch", "timm", "numpy", "scikit-learn", "pillow")


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One method's numbers on one split; accuracies are percentages.

    ``extra`` holds what only some commands report (``sweep``, ``shots``, ``calibration``...); its keys stand beside the
    others when the evaluation is written.
    """

    command: str
    data: str
    model: str
    split: str
    n: int
    classes: int
    top1: float
    top5: float
    mean_per_class: float
    ci95: tuple[float, float]
    protocol: dict[str, Any]
    per_class: list[dict[str, Any]]
    unreadable: int = 0
    seconds: float = 0.0
    extra: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return what json prints: plain values, ``extra`` merged in, NaN as None."""
        fields = asdict(self)
        merged: dict[str, Any] = plain({**fields, **fields.pop("extra")})
        return merged


def evaluate(
    scores: Array,
    labels: Array,
    classnames: Sequence[str],
    *,
    command: str,
    data: str,
    model: str,
    split: str,
    protocol: dict[str, Any],
    unreadable: int = 0,
    seconds: float = 0.0,
    extra: dict[str, Any] | None = None,
) -> Evaluation:
    """Score predictions against the truth.

    Parameters
    ----------
    scores : float array of shape (n, c)
        Logits or probabilities; larger means likelier, the first of equals wins.
    labels : int array of shape (n,)
    classnames : sequence of c names

    Raises
    ------
    DataError
        If no row is left to score.
    """
    from flip import metrics

    if len(labels) == 0:
        raise DataError(f"split {split!r} of {data} has no readable photo to score; check the files it names")
    predicted = scores.argmax(axis=1)
    correct = predicted == labels
    per_class = [
        {"label": name, "n": int((labels == c).sum()), "top1": 100.0 * float(correct[labels == c].mean())}
        for c, name in enumerate(classnames)
        if (labels == c).any()
    ]
    return Evaluation(
        command=command,
        data=data,
        model=model,
        split=split,
        n=len(labels),
        classes=len(classnames),
        top1=100.0 * float(correct.mean()),
        top5=metrics.topk_accuracy(scores, labels, 5),
        mean_per_class=metrics.mean_per_class(predicted, labels),
        ci95=metrics.wilson_interval(int(correct.sum()), len(labels)),
        protocol=protocol,
        per_class=per_class,
        unreadable=unreadable,
        seconds=seconds,
        extra=extra or {},
    )


def doubt(
    probabilities: Array, labels: Array, classnames: Sequence[str], reject: float | None = None
) -> dict[str, Any]:
    """Return how far the stated probabilities can be trusted, for an evaluation's ``extra``.

    ``ece`` (expected calibration error, a fraction), ``reliability`` (its bins), ``coverage`` (accuracy when only the
    surest are answered), ``confused`` (the most confused pairs of classes) and, with ``reject``, ``rejected``.

    Parameters
    ----------
    probabilities : array of shape (n, c)
        Rows sum to one.
    labels : int array of shape (n,)
    """
    from flip import metrics

    predicted = probabilities.argmax(axis=1)
    extra: dict[str, Any] = {
        "ece": metrics.expected_calibration_error(probabilities, labels),
        "reliability": [bin._asdict() for bin in metrics.reliability(probabilities, labels)],
        "coverage": [
            {"coverage": coverage, "top1": top1, "threshold": threshold}
            for coverage, top1, threshold in metrics.coverage_curve(probabilities, labels)
        ],
        "confused": [
            {"truth": classnames[pair.truth], "predicted": classnames[pair.predicted], "n": pair.n}
            for pair in metrics.confused_pairs(predicted, labels)
        ],
    }
    if reject is not None:
        kept = probabilities.max(axis=1) >= reject
        top1 = 100.0 * float((predicted == labels)[kept].mean()) if kept.any() else math.nan
        extra["rejected"] = {"below": reject, "answered": int(kept.sum()), "coverage": float(kept.mean()), "top1": top1}
    return extra


@dataclass(frozen=True)
class Prediction:
    """What is said of one input: a label with its probability, or the error that kept it from being read."""

    path: str
    label: str | None = None
    score: float = math.nan
    top: tuple[tuple[str, float], ...] = ()
    truth: str | None = None
    error: str | None = None
    neighbors: tuple[dict[str, Any], ...] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the row as jsonl prints it."""
        if self.error is not None:
            return {"path": self.path, "error": self.error}
        row: dict[str, Any] = {"path": self.path, "label": self.label, "score": self.score, "top": self.top}
        if self.truth is not None:
            row["truth"] = self.truth
        if self.neighbors is not None:
            row["neighbors"] = self.neighbors
        written: dict[str, Any] = plain(row)
        return written


def predict_row(
    path: str,
    probabilities: Array,
    classnames: Sequence[str],
    *,
    top: int,
    reject: float | None = None,
    truth: str | None = None,
    neighbors: tuple[dict[str, Any], ...] | None = None,
) -> Prediction:
    """Return the prediction row of one photo from its class probabilities, shape (c,)."""
    # A stable sort of the negatives puts the lower class index first among equals, as argmax does.
    order = (-probabilities).argsort(kind="stable")[:top]
    ranked = tuple((classnames[c], float(probabilities[c])) for c in order)
    label, score = ranked[0]
    return Prediction(
        path, None if reject is not None and score < reject else label, score, ranked, truth, None, neighbors
    )


def plain(value: Any) -> Any:
    """Return a value as JSON can hold it: NumPy numbers as Python's, tuples as lists, NaN and infinity as None."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


class PredictionWriter:
    """Writes prediction rows as they come, each flushed, as jsonl or csv.

    Parameters
    ----------
    stream : text stream
    format : {"jsonl", "json", "csv"}
        ``json`` writes one array.
    """

    CSV_COLUMNS = ("path", "label", "score", "truth", "error")

    def __init__(self, stream: TextIO, format: str) -> None:
        self._stream = stream
        self._format = format
        self._rows = 0
        if format == "csv":
            self._csv = csv.DictWriter(stream, self.CSV_COLUMNS, extrasaction="ignore", lineterminator="\n")
            self._csv.writeheader()

    def write(self, rows: Iterable[Prediction]) -> None:
        """Write rows and flush them."""
        for row in rows:
            if self._format == "csv":
                self._csv.writerow(row.to_dict())
            else:
                text = json.dumps(row.to_dict(), ensure_ascii=False)
                opening = ("[\n" if self._rows == 0 else ",\n") if self._format == "json" else ""
                self._stream.write(opening + text + ("" if self._format == "json" else "\n"))
            self._rows += 1
        self._stream.flush()

    def close(self) -> None:
        """Write what ends the file; the stream stays open."""
        if self._format == "json":
            self._stream.write("\n]\n" if self._rows else "[]\n")
        self._stream.flush()


def read_predictions(file: Path) -> Iterator[dict[str, Any]]:
    """Read back rows that PredictionWriter wrote as jsonl or csv."""
    with file.open(encoding="utf-8", newline="") as stream:
        if file.suffix == ".csv":
            yield from csv.DictReader(stream)
        else:
            yield from (json.loads(line) for line in stream if line.strip())


def evaluation_csv(evaluations: Sequence[Evaluation]) -> str:
    """Return evaluations as csv, one row each: the scalar columns of the contract."""
    columns = [
        "command",
        "data",
        "model",
        "split",
        "n",
        "classes",
        "top1",
        "ci95_low",
        "ci95_high",
        "top5",
        "mean_per_class",
        "unreadable",
        "seconds",
    ]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for evaluation in evaluations:
        writer.writerow({**evaluation.to_dict(), "ci95_low": evaluation.ci95[0], "ci95_high": evaluation.ci95[1]})
    return text.getvalue()


def write_text(file: Path, text: str) -> None:
    """Write a file aside and rename it, so that a reader sees the old file or the new one and nothing between.

    Raises
    ------
    ConfigError
        If the file cannot be written.
    """
    aside = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        aside.write_text(text, encoding="utf-8")
        aside.replace(file)
    except OSError as e:
        with contextlib.suppress(OSError):
            aside.unlink()
        raise ConfigError(f"{file} cannot be written ({e.strerror or e}); pass a file in a folder that can") from e


def write_json(file: Path, content: object) -> None:
    """Write JSON aside and rename it."""
    write_text(file, json.dumps(plain(content), indent=2, ensure_ascii=False) + "\n")


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that decide a number."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def require_new_folder(folder: Path, *, overwrite: bool = False) -> None:
    """Raise a ConfigError if a folder to be written already holds something."""
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file; pass a folder")
    if not overwrite and folder.is_dir() and any(folder.iterdir()):
        raise ConfigError(f"{folder} already holds files; pass another folder, or --overwrite to replace them")


def write_run(
    folder: Path, evaluation: Evaluation, config: object, data_fingerprint: str, model_fingerprint: str
) -> None:
    """Write what it takes to trust and repeat a number: result, config, versions, fingerprints."""
    write_json(folder / "result.json", evaluation.to_dict())
    write_json(folder / "config.json", asdict(config))  # type: ignore[call-overload]
    write_json(
        folder / "environment.json",
        {"versions": versions(), "data_fingerprint": data_fingerprint, "model_fingerprint": model_fingerprint},
    )
