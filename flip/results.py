"""What is reported: an evaluation, prediction rows, and a run's folder; how each is written and read back."""

from __future__ import annotations

import csv
import io
import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TextIO, TypedDict

from flip.errors import DataError, reason_of
from flip.files import JsonObject, json_text, open_to_write, plain, write_json, write_whole, written_aside
from flip.machine import surroundings, versions
from flip.reading import open_plain, parse_json, read_json

if TYPE_CHECKING:
    from flip.arrays import Array

#: The form of every result file; a reader refuses a newer one.
FORMAT = 1

RESULT_FILE, CONFIG_FILE, ENVIRONMENT_FILE, ROWS_FILE = (
    "result.json",
    "config.json",
    "environment.json",
    "predictions.jsonl",
)


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One method's numbers on one split; accuracies are percentages (0 to 100).

    Attributes
    ----------
    top5 : float or None
        None with five classes or fewer, where every answer would be right.
    ci95 : (float, float)
        95 % Wilson interval of top1.
    protocol : dict
        How every choice was made, and what was seen at test time.
    per_class : list of dict
        ``label``, ``n`` and ``top1`` of each class that has photos.
    unreadable : int
        Photos of the split that could not be read; they are not among the n.
    details : dict
        What only some commands report (``sweep``, ``shots``, ``ece``, …); these keys stand beside the others when the
        evaluation is written.
    """

    command: str
    data: str
    model: str
    split: str
    n: int
    classes: int
    top1: float
    top5: float | None
    mean_per_class: float
    ci95: tuple[float, float]
    protocol: JsonObject
    per_class: list[ClassAccuracy]
    unreadable: int = 0
    seconds: float = 0.0
    details: JsonObject = field(default_factory=dict)

    def __post_init__(self) -> None:
        # As JSON will hold them, so that what is read back equals what was written.
        for name in ("protocol", "per_class", "details"):
            object.__setattr__(self, name, plain(getattr(self, name)))

    def __repr__(self) -> str:
        return f"<Evaluation of {self.command} on {self.data}: {self}>"

    def __str__(self) -> str:
        low, high = self.ci95
        left_out = f" ({self.unreadable:,} unreadable)" if self.unreadable else ""
        return f"{self.top1:.1f} % (95 %: {low:.1f} to {high:.1f}), n {self.n:,}{left_out}"

    def to_dict(self) -> JsonObject:
        """Return what JSON holds: plain values, ``details`` merged in, and the ``format``."""
        values = asdict(self)
        details = values.pop("details")
        merged: JsonObject = plain({**values, "format": FORMAT, **details})
        return merged

    @classmethod
    def from_dict(cls, values: JsonObject) -> Self:
        """Return the evaluation that ``to_dict`` described.

        Raises
        ------
        DataError
            If it is none, or of a newer flip.
        """
        require_format(values, "the result")
        own = {f.name for f in fields(cls)} - {"details"}
        absent = own - values.keys()
        if absent:
            raise DataError(f"this is no evaluation: it has no {', '.join(sorted(absent))}; pass what --run wrote")
        _require_types(values)
        given = {name: values[name] for name in own} | {"ci95": tuple(values["ci95"])}
        return cls(**given, details={k: v for k, v in values.items() if k not in own and k != "format"})


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_class_accuracy(row: object) -> bool:
    return (
        isinstance(row, dict)
        and isinstance(row.get("label"), str)
        and _is_count(row.get("n"))
        and _is_number(row.get("top1"))
    )


#: Type check of each value of an evaluation.
_TYPES: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("command", "data", "model", "split"), lambda value: isinstance(value, str)),
    **dict.fromkeys(("n", "classes", "unreadable"), _is_count),
    **dict.fromkeys(("top1", "mean_per_class", "seconds"), _is_number),
    "top5": lambda value: value is None or _is_number(value),
    "ci95": lambda value: isinstance(value, list) and len(value) == 2 and all(map(_is_number, value)),
    "protocol": lambda value: isinstance(value, dict),
    "per_class": lambda value: isinstance(value, list) and all(map(_is_class_accuracy, value)),
}


def _require_types(values: JsonObject) -> None:
    odd = next((name for name, fits in _TYPES.items() if not fits(values[name])), None)
    if odd is not None:
        raise DataError(f"this is no evaluation: its {odd} is {str(values[odd])[:40]!r}; pass what --run wrote")


def require_format(values: Mapping[str, object], what: str) -> None:
    """Raise a DataError if something was written by a newer flip; files before formats count as the first."""
    found = values.get("format", FORMAT)
    if not isinstance(found, int) or found > FORMAT:
        raise DataError(f"{what} has format {found}, and this flip reads {FORMAT}; upgrade flip, or run it again")


def score_predictions(
    scores: Array,
    labels: Array,
    classnames: Sequence[str],
    *,
    command: str = "evaluate",
    data: str = "",
    model: str = "",
    split: str = "",
    protocol: Mapping[str, object] | None = None,
    unreadable: int = 0,
    seconds: float = 0.0,
    details: Mapping[str, object] | None = None,
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
    if len(labels) == 0:
        raise DataError(f"split {split!r} of {data} has no readable photo to score; check the files it names")
    made: _Origin = {"command": command, "data": data, "model": model, "split": split}
    numbers = _numbers(scores, labels, classnames)
    seen, more = dict(protocol or {}), dict(details or {})
    return Evaluation(**made, **numbers, protocol=seen, unreadable=unreadable, seconds=seconds, details=more)


class ClassAccuracy(TypedDict):
    """The n photos of one class, and the percentage of them that were named rightly."""

    label: str
    n: int
    top1: float


class _Origin(TypedDict):
    command: str
    data: str
    model: str
    split: str


class _Numbers(TypedDict):
    n: int
    classes: int
    top1: float
    top5: float | None
    mean_per_class: float
    ci95: tuple[float, float]
    per_class: list[ClassAccuracy]


def _numbers(scores: Array, labels: Array, classnames: Sequence[str]) -> _Numbers:
    from flip import metrics

    predicted = scores.argmax(axis=1)  # (n,)
    correct = predicted == labels
    return {
        "n": len(labels),
        "classes": len(classnames),
        "top1": 100.0 * float(correct.mean()),
        "top5": metrics.topk_accuracy(scores, labels, 5) if len(classnames) > 5 else None,
        "mean_per_class": metrics.mean_per_class(predicted, labels),
        "ci95": metrics.wilson_interval(int(correct.sum()), len(labels)),
        "per_class": [
            {"label": name, "n": int((labels == c).sum()), "top1": 100.0 * float(correct[labels == c].mean())}
            for c, name in enumerate(classnames)
            if (labels == c).any()
        ],
    }


def calibration_report(
    probabilities: Array, labels: Array, classnames: Sequence[str], reject: float | None = None
) -> JsonObject:
    """Return how far the stated probabilities can be trusted, for an evaluation's ``details``.

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
    report: JsonObject = {
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
        report["rejected"] = {
            "below": reject,
            "answered": int(kept.sum()),
            "coverage": float(kept.mean()),
            "top1": top1,
        }
    return report


@dataclass(frozen=True)
class Neighbor:
    """One training photo that a kNN vote counted: ``score`` is its cosine similarity."""

    path: str
    label: str
    score: float


class Surest(NamedTuple):
    """The finest rank at which a photo is named with the probability asked for; None where no rank is."""

    rank: str | None = None
    group: str | None = None
    group_score: float | None = None


@dataclass(frozen=True)
class Prediction:
    """The answer for one input: a label with its probability, or the error that kept it from being read."""

    path: str
    label: str | None = None
    score: float = math.nan
    top: tuple[tuple[str, float], ...] = ()
    truth: str | None = None
    error: str | None = None
    neighbors: tuple[Neighbor, ...] | None = None
    surest: Surest | None = None

    def to_dict(self) -> JsonObject:
        """Return the row as jsonl holds it."""
        row: JsonObject = {"path": self.path}
        row |= {"label": self.label, "score": self.score, "top": self.top} if self.error is None else {}
        row |= {} if self.error is None else {"error": self.error}
        if self.label is None and self.top:
            row["guess"] = self.top[0][0]
        if self.truth is not None:
            row["truth"] = self.truth
        if self.neighbors is not None:
            row["neighbors"] = [asdict(neighbor) for neighbor in self.neighbors]
        if self.surest is not None:
            row |= self.surest._asdict()
        written: JsonObject = plain(row)
        return written

    def to_cells(self, root: Path | None = None) -> JsonObject:
        """Return the row as csv holds it: the classes of ``top`` in columns, and a link to a photo below ``root``."""
        cells = self.to_dict()
        if not math.isnan(self.score):
            cells["score"] = round(self.score, 6)
        for rank, (label, score) in enumerate(self.top[1:], 2):
            cells |= {f"label{rank}": label, f"score{rank}": round(score, 6)}
        if root is not None:
            cells["link"] = (root / self.path).absolute().as_uri()
        return cells


#: Columns of prediction rows as csv, and those that groups of classes add.
PREDICTION_COLUMNS = ("path", "label", "score", "truth", "error")
GROUP_COLUMNS = Surest._fields


def prediction_columns(
    top: int, *, rejects: bool = False, grouped: bool = False, linked: bool = False
) -> tuple[str, ...]:
    """Return the columns of prediction rows as csv that list ``top`` classes each."""
    ranked = [name for rank in range(2, top + 1) for name in (f"label{rank}", f"score{rank}")]
    more = (*(GROUP_COLUMNS if grouped else ()), *(("link",) if linked else ()))
    guess = ("guess",) if rejects else ()
    return ("path", "label", "score", *guess, *ranked, "truth", "error", *more)


def predict_row(
    path: str,
    probabilities: Array,
    classnames: Sequence[str],
    *,
    top: int,
    reject: float | None = None,
    truth: str | None = None,
    neighbors: tuple[Neighbor, ...] | None = None,
    surest: Surest | None = None,
) -> Prediction:
    """Return the prediction row of one photo from its class probabilities, shape (c,)."""
    # A stable sort of the negatives puts the lower class index first among equals, as argmax does.
    order = (-probabilities).argsort(kind="stable")[:top]
    ranked = tuple((classnames[c], float(probabilities[c])) for c in order)
    label, score = ranked[0]
    named = None if reject is not None and score < reject else label
    return Prediction(path, named, score, ranked, truth, None, neighbors, surest)


#: First characters of a text that a spreadsheet evaluates as a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def csv_cells(row: Mapping[str, object], *, safe: bool = False) -> JsonObject:
    """Return a row's cells as csv holds them; ``safe`` puts an apostrophe before texts that begin like a formula."""
    cells = {key: plain(value) for key, value in row.items()}
    if not safe:
        return cells
    return {k: f"'{v}" if isinstance(v, str) and v.startswith(_FORMULA) else v for k, v in cells.items()}


class RowWriter:
    """Write mappings as they come, each flushed: jsonl, csv, or json as one array. Safe to call from threads.

    Parameters
    ----------
    stream : text stream
        Stays open.
    format : {"jsonl", "json", "csv"}
    columns : sequence of str
        Of csv; other keys are left out there.
    csv_safe : bool
        Guard csv cells that a spreadsheet would run; see :func:`csv_cells`.
    """

    def __init__(self, stream: TextIO, format: str, columns: Sequence[str], *, csv_safe: bool = False) -> None:
        self._stream, self._format, self._csv_safe = stream, format, csv_safe
        self._count = 0
        self._lock = threading.Lock()
        self._line = io.StringIO()
        if format == "csv":
            self._csv = csv.DictWriter(self._line, columns, extrasaction="ignore", lineterminator="\n")
            self._csv.writeheader()
            self._flush()

    def write(self, row: Mapping[str, object]) -> None:
        """Write one row and flush it."""
        with self._lock:
            if self._format == "csv":
                self._csv.writerow(csv_cells(row, safe=self._csv_safe))
            else:
                self._line.write(self._text(row))
            self._count += 1
            self._flush()

    def close(self) -> None:
        """Write what ends the file."""
        if self._format == "json":
            self._line.write("\n]\n" if self._count else "[]\n")
        self._flush()

    def _flush(self) -> None:
        write_whole(self._stream, self._line.getvalue())
        self._line.seek(0)
        self._line.truncate()

    def _text(self, row: Mapping[str, object]) -> str:
        line = json_text(row)
        if self._format == "json":
            return ("[\n" if self._count == 0 else ",\n") + line
        return line + "\n"


def write_predictions(
    file: Path, rows: Sequence[Prediction], root: Path | None = None, *, csv_safe: bool = False
) -> None:
    """Write prediction rows atomically, as csv where the name ends so, else as jsonl.

    Parameters
    ----------
    file : Path
    rows : sequence of Prediction
    root : Path, optional
        The folder of the photos, to which csv has a link each.
    csv_safe : bool
        Guard csv cells that a spreadsheet would run; see :func:`csv_cells`.

    Raises
    ------
    ConfigError
        If the file cannot be written, or would replace a file of another kind.
    """
    with (
        written_aside(file, kind="text") as aside,
        open_to_write(aside) as stream,
    ):
        as_csv, most = file.suffix == ".csv", max((len(row.top) for row in rows), default=1)
        rejects = any(row.label is None and row.error is None for row in rows)
        columns = prediction_columns(
            most, rejects=rejects, grouped=any(row.surest for row in rows), linked=root is not None
        )
        writer = RowWriter(stream, "csv" if as_csv else "jsonl", columns, csv_safe=csv_safe)
        for row in rows:
            writer.write(row.to_cells(root) if as_csv else row.to_dict())
        writer.close()


@dataclass(frozen=True)
class Run:
    """A folder that ``--run`` wrote: what it takes to trust and repeat a number.

    Attributes
    ----------
    folder : Path
    evaluation : Evaluation
    config : dict
        The command's options.
    versions : dict of str to str
    data_fingerprint, model_fingerprint : str
    made : dict
        When, where and how: see :func:`flip.machine.surroundings`, and ``device`` and ``precision`` as they were used.
    """

    folder: Path
    evaluation: Evaluation
    config: JsonObject
    versions: dict[str, str]
    data_fingerprint: str
    model_fingerprint: str
    made: JsonObject = field(default_factory=dict)

    @classmethod
    def open(cls, folder: str | Path) -> Self:
        """Read the folder back, but for its rows.

        Raises
        ------
        DataError
            If it is no run, half written, damaged, or of a newer flip.
        """
        folder = Path(folder)
        result, config, environment = (
            _read_json(folder / name, folder) for name in (RESULT_FILE, CONFIG_FILE, ENVIRONMENT_FILE)
        )
        try:
            evaluation = Evaluation.from_dict(result)
            data, model = str(environment["data_fingerprint"]), str(environment["model_fingerprint"])
            made = {k: v for k, v in environment.items() if k not in _NOT_MADE}
            return cls(folder, evaluation, config, dict(environment["versions"]), data, model, made)
        except DataError as e:
            raise DataError(f"{folder}: {e}") from e
        except (KeyError, TypeError, ValueError) as e:
            raise DataError(f"{folder} holds a damaged run ({e!r}); run the command again with --run") from e

    def rows(self) -> Iterator[JsonObject]:
        """Yield the prediction rows, as they were written.

        Raises
        ------
        DataError
            If they are absent or damaged.
        """
        file, number = self.folder / ROWS_FILE, 0
        try:
            with open_plain(file) as stream:
                for number, line in enumerate(stream, 1):  # noqa: B007 - for the message below
                    row = parse_json(line)
                    if not isinstance(row, dict):
                        raise ValueError("a row is no object")
                    yield row
        except (OSError, ValueError) as e:
            where = f"{file}:{number}" if number else str(file)
            raise DataError(f"{where} cannot be read ({reason_of(e)}); run the command again with --run") from e


#: Keys of ``environment.json`` that a run has under names of its own.
_NOT_MADE = frozenset(("command", "format", "versions", "data_fingerprint", "model_fingerprint"))


def write_run(
    folder: Path,
    evaluation: Evaluation,
    rows: Sequence[Prediction],
    config: Mapping[str, object],
    data_fingerprint: str,
    model_fingerprint: str,
    made: Mapping[str, object] | None = None,
) -> Run:
    """Write a run into a folder: rows, config, versions and fingerprints, and the result last.

    ``made`` is what is known besides :func:`flip.machine.surroundings`: the device and precision that were used.
    """
    write_predictions(folder / ROWS_FILE, rows)
    write_json(folder / CONFIG_FILE, {"command": evaluation.command, "format": FORMAT, **config})
    environment = {
        "versions": versions(),
        "data_fingerprint": data_fingerprint,
        "model_fingerprint": model_fingerprint,
        **surroundings(),
        **(made or {}),
    }
    write_json(folder / ENVIRONMENT_FILE, {"command": evaluation.command, "format": FORMAT, **environment})
    write_json(folder / RESULT_FILE, evaluation.to_dict())
    return Run.open(folder)


def _read_json(file: Path, folder: Path) -> JsonObject:
    try:
        content = read_json(file)
    except FileNotFoundError as e:
        raise DataError(f"{folder} is no run of flip: it has no {file.name}; pass a folder that --run wrote") from e
    except (OSError, ValueError) as e:
        raise DataError(f"{file} cannot be read ({reason_of(e)}); run the command again with --run") from e
    if not isinstance(content, dict):
        raise DataError(f"{file} holds no object; run the command again with --run")
    return content
