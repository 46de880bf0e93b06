"""Line charts as the numbers of an SVG drawing; the template only writes them down."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from flip import metrics
from flip.report.rows import ScoredRun

#: Size of a drawing in its own units, and the box that the curves lie in.
WIDTH, HEIGHT = 420.0, 290.0
LEFT, RIGHT, TOP, BOTTOM = 44.0, 408.0, 12.0, 246.0

#: Shares of photos answered for which the coverage curve is drawn.
COVERAGES = tuple(round(share / 50, 2) for share in range(50, 0, -1))


@dataclass(frozen=True)
class Tick:
    """A mark on an axis: where it is, and its text."""

    at: float
    text: str


@dataclass(frozen=True)
class Mark:
    """A point of a curve: where it is, the ends of its interval if it has one, and its text."""

    x: float
    y: float
    low: float | None
    high: float | None
    text: str
    radius: float = 3.0


@dataclass(frozen=True)
class Curve:
    """One run's curve: its name, its number (which decides colour and dash), its path, and the points to mark."""

    name: str
    number: int
    path: str
    marks: tuple[Mark, ...]


@dataclass(frozen=True)
class Chart:
    """A drawing: its texts, its axes, its curves, and the same numbers as a table."""

    key: str
    title: str
    note: str
    x_label: str
    y_label: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    curves: tuple[Curve, ...]
    columns: tuple[str, ...]
    table: tuple[tuple[str, ...], ...]
    diagonal: str | None = None


class _Scale:
    """From a value to a place in the drawing."""

    def __init__(self, low: float, high: float, start: float, end: float) -> None:
        self.low, self.high, self.start, self.end = low, high, start, end

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low) if self.high > self.low else 0.5
        return round(self.start + share * (self.end - self.start), 1)


def make_charts(runs: Sequence[ScoredRun]) -> list[Chart]:
    """Return the charts of these runs: reliability, coverage and, where a run has one, the few-shot curve."""
    charts = [reliability_chart(runs), coverage_chart(runs)]
    return [*charts, few_shot_chart(runs)] if any(_shots(run) for run in runs) else charts


def reliability_chart(runs: Sequence[ScoredRun]) -> Chart:
    """Share of right answers against stated probability, in 15 bins (Guo et al., ICML 2017)."""
    x, y = _Scale(0, 100, LEFT, RIGHT), _Scale(0, 100, BOTTOM, TOP)
    curves, table = [], []
    for i, run in enumerate(runs):
        points = []
        for b in metrics.reliability(*_as_two_classes(run)):
            stated, right = 100 * b.confidence, 100 * b.accuracy
            text = f"{stated:.0f} % stated, {right:.0f} % right, {b.n:,} photos"
            radius = round(1.5 + 6 * math.sqrt(b.n / max(len(run.readable), 1)), 1)
            points.append(Mark(x(stated), y(right), None, None, text, radius))
            table.append((run.name, f"{stated:.1f}", f"{right:.1f}", f"{b.n:,}"))
        curves.append(_curve(run.name, i, points))
    return Chart(
        key="reliability",
        title="Can the probabilities be believed?",
        note="On the diagonal a stated 80 % is right 80 % of the time; below it the run is too sure. "
        "A larger dot stands for more photos.",
        x_label="stated probability, %",
        y_label="right, %",
        x_ticks=_ticks(x, 0, 100, 20),
        y_ticks=_ticks(y, 0, 100, 20),
        curves=tuple(curves),
        columns=("Run", "Stated, %", "Right, %", "Photos"),
        table=tuple(table),
        diagonal=f"M{x(0)} {y(0)}L{x(100)} {y(100)}",
    )


def coverage_chart(runs: Sequence[ScoredRun]) -> Chart:
    """Accuracy when only the surest share of photos is answered."""
    found = [metrics.coverage_curve(*_as_two_classes(run), coverages=COVERAGES) for run in runs]
    low = min((top1 for curve in found for _, top1, _ in curve), default=0.0)
    floor = max(0.0, 10 * math.floor(low / 10))
    x, y = _Scale(0, 100, LEFT, RIGHT), _Scale(floor, 100, BOTTOM, TOP)
    curves, table = [], []
    for i, (run, curve) in enumerate(zip(runs, found, strict=True)):
        places = [(x(100 * coverage), y(top1)) for coverage, top1, _ in curve]
        told = [row for row in curve if round(row[0] * 10, 6) % 1 == 0]
        marks = [
            _mark(x, y, 100 * share, top1, f"{100 * share:.0f} % answered: {top1:.1f} % right, from {threshold:.2f} up")
            for share, top1, threshold in told
        ]
        table += [(run.name, f"{100 * c:.0f}", f"{top1:.1f}", f"{threshold:.3f}") for c, top1, threshold in told]
        curves.append(Curve(run.name, i, _path(places), tuple(marks)))
    return Chart(
        key="coverage",
        title="What if only the surest are answered?",
        note="Read from right to left: the fewer photos are answered, the more of the answers are right.",
        x_label="photos answered, the surest first, %",
        y_label="right, %",
        x_ticks=_ticks(x, 0, 100, 20),
        y_ticks=_ticks(y, floor, 100, 10 if floor >= 40 else 20),
        curves=tuple(curves),
        columns=("Run", "Answered, %", "Right, %", "Least probability"),
        table=tuple(table),
    )


def few_shot_chart(runs: Sequence[ScoredRun]) -> Chart:
    """Accuracy against the number of training photos per class."""
    rows = [(i, run.name, row) for i, run in enumerate(runs) for row in _shots(run)]
    shots = sorted({row["shots"] for _, _, row in rows}, key=lambda k: math.inf if k == "all" else float(k))
    ends = [end for _, _, row in rows for end in (row["top1"], *(row["ci95"] or ()))]
    floor, ceiling = max(0, 10 * math.floor(min(ends) / 10)), min(100, 10 * math.ceil(max(ends) / 10))
    x, y = _Scale(-0.3, len(shots) - 0.7, LEFT, RIGHT), _Scale(floor, ceiling, BOTTOM, TOP)
    names = list(dict.fromkeys((i, name) for i, name, _ in rows))
    curves, table = [], []
    for place, (i, name) in enumerate(names):
        aside = 0.06 * (place - (len(names) - 1) / 2)
        marks = [
            _mark(x, y, shots.index(row["shots"]) + aside, row["top1"], _shot_text(row), row["ci95"])
            for j, _, row in rows
            if j == i
        ]
        curves.append(_curve(name, i, marks))
        table += [
            (name, str(row["shots"]), f"{row['top1']:.1f}", _interval(row["ci95"])) for j, _, row in rows if j == i
        ]
    return Chart(
        key="few-shot",
        title="How many training photos are enough?",
        note="Means over random draws of training photos, with 95 % intervals over the draws.",
        x_label="training photos per class",
        y_label="top-1, %",
        x_ticks=tuple(Tick(x(place), str(k)) for place, k in enumerate(shots)),
        y_ticks=_ticks(y, floor, ceiling, 10 if ceiling - floor <= 60 else 20),
        curves=tuple(curves),
        columns=("Run", "Photos per class", "Top-1, %", "95 %"),
        table=tuple(table),
    )


def _as_two_classes(run: ScoredRun) -> tuple[Any, Any]:
    """Return the guesses as a problem of two classes, guess or not, which has the same reliability and coverage."""
    scores = run.scores.astype(np.float64)
    return np.stack([scores, np.full_like(scores, -1.0)], axis=1), np.where(run.correct, 0, 1)  # (n, 2), (n,)


def _shots(run: ScoredRun) -> list[dict[str, Any]]:
    return list(run.run.evaluation.details.get("shots") or ())


def _shot_text(row: dict[str, Any]) -> str:
    return f"{row['shots']} per class: {row['top1']:.1f} %, {_interval(row['ci95'])}"


def _interval(ci95: Sequence[float] | None) -> str:
    return f"{ci95[0]:.1f} to {ci95[1]:.1f}" if ci95 else "one draw"


def _ticks(scale: _Scale, low: float, high: float, step: int) -> tuple[Tick, ...]:
    return tuple(Tick(scale(value), str(value)) for value in range(int(low), int(high) + 1, step))


def _mark(x: _Scale, y: _Scale, at_x: float, at_y: float, text: str, ci95: Sequence[float] | None = None) -> Mark:
    low, high = (y(ci95[0]), y(ci95[1])) if ci95 else (None, None)
    return Mark(x(at_x), y(at_y), low, high, text)


def _curve(name: str, number: int, marks: Sequence[Mark]) -> Curve:
    return Curve(name, number, _path([(mark.x, mark.y) for mark in marks]), tuple(marks))


def _path(places: Sequence[tuple[float, float]]) -> str:
    return "".join(f"{'L' if i else 'M'}{x:g} {y:g}" for i, (x, y) in enumerate(places))
