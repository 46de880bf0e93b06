"""The sections of a page as the templates take them: texts, numbers and photo numbers."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from flip.arrays import IntArray
from flip.metrics import wilson_interval
from flip.report.album import Content
from flip.report.compare import Comparison, compare_scored
from flip.report.similarity import nearest
from flip.results import Run

#: Most mistakes, pairs of classes, and photos on each side of a pair that a page lists for a run.
MOST_MISTAKES, MOST_PAIRS, PHOTOS_OF_PAIR, NEIGHBORS = 24, 10, 4, 4

#: Options that say where results went, not how they were made.
_WHERE = frozenset({"command", "format", "output", "predictions", "run", "plot", "quiet", "verbose", "images", "null"})


@dataclass(frozen=True)
class RunView:
    """A run in the table of results; ``comparison`` is with the first run."""

    number: int
    name: str
    run: Run
    comparison: Comparison | None


@dataclass(frozen=True)
class ClassCell:
    """A class's accuracy in one run, its 95 % interval, and what else its photos were called most often."""

    top1: float
    low: float
    high: float
    mostly: str | None
    mostly_n: int


@dataclass(frozen=True)
class ClassRow:
    """A class in the table of classes: one cell for each run, None where it has no photo."""

    number: int
    name: str
    group: str
    n: int
    cells: tuple[ClassCell | None, ...]


@dataclass(frozen=True)
class RankCell:
    """The accuracy of one run at one rank and its 95 % interval, in percent."""

    top1: float
    low: float
    high: float


@dataclass(frozen=True)
class RankView:
    """A rank of so many groups: one cell for each run, None where the run did not report it."""

    name: str
    groups: int
    cells: tuple[RankCell | None, ...]


@dataclass(frozen=True)
class Similar:
    """A training photo beside a mistake: its number, label and cosine similarity."""

    photo: int
    label: str
    score: float


@dataclass(frozen=True)
class Mistake:
    """A photo that was named wrongly, with the training photos that voted, or that look most alike."""

    photo: int
    truth: str
    guess: str
    score: float
    truth_score: float
    similar: tuple[Similar, ...]
    voted: bool


@dataclass(frozen=True)
class Pair:
    """Two classes that are confused: how many photos of each were called the other, some of them, and right ones."""

    first: str
    second: str
    first_as_second: int
    second_as_first: int
    first_n: int
    second_n: int
    first_photos: tuple[int, ...]
    second_photos: tuple[int, ...]
    first_right: tuple[int, ...]
    second_right: tuple[int, ...]


@dataclass(frozen=True)
class Made:
    """How a run's numbers were made."""

    name: str
    command: tuple[str, ...]
    facts: tuple[tuple[str, str], ...]
    protocol: tuple[tuple[str, str], ...]
    versions: tuple[tuple[str, str], ...]


def run_views(content: Content) -> list[RunView]:
    """Return the table of results."""
    against = [None, *compare_scored(content.runs)]
    return [RunView(i, run.name, run.run, against[i]) for i, run in enumerate(content.runs)]


def class_rows(content: Content) -> list[ClassRow]:
    """Return the table of classes; classes without test photos are left out."""
    confusions = [content.confusions(run) for run in range(len(content.runs))]
    labelled = Counter(content.truth.tolist())
    rows = []
    for c, name in enumerate(content.classes):
        if labelled[c]:
            cells = tuple(_class_cell(content, counts[c], c) for counts in confusions)
            rows.append(ClassRow(c, name, content.groups[c] if content.groups else "", labelled[c], cells))
    return rows


def _class_cell(content: Content, counts: IntArray, c: int) -> ClassCell | None:
    n, right = int(counts.sum()), int(counts[c])
    if not n:
        return None
    others = counts.copy()
    others[c] = 0
    most = int(others.argmax())
    low, high = wilson_interval(right, n)
    return ClassCell(100 * right / n, low, high, content.classes[most] if others[most] else None, int(others[most]))


def rank_rows(content: Content) -> list[RankView]:
    """Return the accuracy at each rank that a run reported (``--groups``), in the order of the first such run."""
    found: dict[tuple[str, int], dict[int, RankCell]] = {}
    for number, scored in enumerate(content.runs):
        for row in scored.run.evaluation.details.get("ranks") or ():
            cell = RankCell(float(row["top1"]), float(row["ci95"][0]), float(row["ci95"][1]))
            found.setdefault((str(row["rank"]), int(row["groups"])), {})[number] = cell
    count = range(len(content.runs))
    return [RankView(name, groups, tuple(map(cells.get, count))) for (name, groups), cells in found.items()]


def mistakes_of(content: Content, run: int) -> list[Mistake]:
    """Return a run's surest mistakes, the surest first."""
    wrong = np.flatnonzero(content.wrong(run))
    surest = wrong[np.argsort(-content.scores[run][wrong], kind="stable")][:MOST_MISTAKES].tolist()
    similar = _similar_photos(content, run, surest)
    found = []
    for i in surest:
        photo = content.rows[run][i]
        voted = tuple(
            Similar(number, neighbor.label, neighbor.score)
            for neighbor in photo.neighbors[:NEIGHBORS]
            if (number := content.album.number(neighbor.path)) is not None
        )
        found.append(
            Mistake(
                photo=i,
                truth=str(photo.truth),
                guess=photo.guess,
                score=photo.score,
                truth_score=photo.probability(str(photo.truth)),
                similar=voted or similar.get(i, ()),
                voted=bool(voted),
            )
        )
    return found


def _similar_photos(content: Content, run: int, photos: Sequence[int]) -> dict[int, tuple[Similar, ...]]:
    """Return the training photos that look most like these, by the embeddings of the run's model."""
    features = content.features[run]
    if features is None:
        return {}
    train = features.split("train").readable()
    row_of = {path: row for row, path in enumerate(features.paths)}
    known = [i for i in photos if content.album.paths[i] in row_of]
    if not known or not len(train):
        return {}
    queries = features.image_features[[row_of[content.album.paths[i]] for i in known]]
    train_row = {path: row for row, path in enumerate(train.paths)}
    itself = np.array([train_row.get(content.album.paths[i], -1) for i in known])
    rows, cosines = nearest(queries, train.image_features, min(NEIGHBORS, len(train)), itself=itself)
    return {
        i: tuple(
            Similar(content.album.add(train.paths[r], -1, "train"), train.classnames[train.labels[r]], float(score))
            for r, score in zip(rows[k], cosines[k], strict=True)
            if np.isfinite(score)
        )
        for k, i in enumerate(known)
    }


def pairs_of(content: Content, run: int) -> list[Pair]:
    """Return a run's most confused pairs of classes, the most confused first."""
    counts = content.confusions(run)
    both = np.triu(counts + counts.T, 1)
    first, second = np.nonzero(both)
    order = np.argsort(-both[first, second], kind="stable")[:MOST_PAIRS]
    return [_pair(content, run, counts, int(first[k]), int(second[k])) for k in order]


def _pair(content: Content, run: int, counts: IntArray, a: int, b: int) -> Pair:
    def photos(truth: int, guess: int, most: int) -> tuple[int, ...]:
        rows = np.flatnonzero((content.truth == truth) & (content.guesses[run] == guess))
        return tuple(rows[np.argsort(-content.scores[run][rows], kind="stable")][:most].tolist())

    return Pair(
        first=content.classes[a],
        second=content.classes[b],
        first_as_second=int(counts[a, b]),
        second_as_first=int(counts[b, a]),
        first_n=int(counts[a].sum()),
        second_n=int(counts[b].sum()),
        first_photos=photos(a, b, PHOTOS_OF_PAIR),
        second_photos=photos(b, a, PHOTOS_OF_PAIR),
        first_right=photos(a, a, 2),
        second_right=photos(b, b, 2),
    )


def made_views(content: Content) -> list[Made]:
    """Return how each run's numbers were made."""
    return [_made(scored.name, scored.run) for scored in content.runs]


def _made(name: str, run: Run) -> Made:
    evaluation = run.evaluation
    facts = {
        "Folder": str(run.folder.absolute()),
        "Data": f"{evaluation.data} ({evaluation.split})",
        "Data fingerprint": run.data_fingerprint,
        "Model": evaluation.model,
        "Model fingerprint": run.model_fingerprint,
        "Photos": f"{evaluation.n:,} scored, {evaluation.unreadable:,} unreadable",
        "Seconds": f"{evaluation.seconds:.1f}",
    }
    known = {name: value for name, value in run.made.items() if value is not None}
    if typed := known.pop("command_line", None):
        facts["As typed"] = shlex.join(map(str, typed))
    facts |= {name.replace("_", " ").capitalize(): _text(value) for name, value in known.items()}
    return Made(
        name=name,
        command=command_line(run),
        facts=tuple(facts.items()),
        protocol=tuple(_flat(evaluation.protocol)),
        versions=tuple((package, str(version)) for package, version in run.versions.items()),
    )


def command_line(run: Run) -> tuple[str, ...]:
    """Return the words of the command that made a run, quoted for a shell, with every option that had a value."""
    words = ["flip", run.evaluation.command]
    for name, value in run.config.items():
        if name in _WHERE or value is None or value is False or value == []:
            continue
        flag = f"-{name}" if len(name) == 1 else "--" + name.replace("_", "-")
        words += [flag] if value is True else [flag, str(value)]
    return tuple(map(shlex.quote, words))


def _flat(protocol: Mapping[str, object], before: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for key, value in protocol.items():
        name = before + str(key).replace("_", " ")
        rows += _flat(value, f"{name}: ") if isinstance(value, dict) else [(name, _text(value))]
    return rows


def _text(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    return f"{value:g}" if isinstance(value, float) else "–" if value is None else str(value)
