"""Curves as picture files, drawn by matplotlib without a display."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flip.arrays import IntArray
from flip.files import written_aside
from flip.report.similarity import alike_order

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


#: Most classes whose cells of the confusion matrix show their count, and letters of a name on its axes.
_MOST_COUNTED, _LONGEST_NAME = 60, 32

#: A row of a result; a curve is drawn through one of its numbers, chosen by name.
Row = Mapping[str, Any]


def plot_few_shot(file: Path, curves: Mapping[str, Sequence[Row]], title: str) -> None:
    """Draw top-1 against the number of shots, with a 95 % interval over draws, one line per method.

    Parameters
    ----------
    file : Path
        Ends in .png, .svg or .pdf.
    curves : mapping of name → rows
        Rows as ``flip.studies.few_shot.few_shot_rows`` returns them; the curves may have different numbers of shots.
    """
    figure, (axes,) = _figure(1)
    _draw_curves(axes, curves, "top1", "ci95")
    axes.set(xlabel="training photos per class", ylabel="top-1, %", title=_literal(title))
    if len(curves) > 1:
        axes.legend(frameon=False)
    _save(figure, file)


def plot_augmentation(file: Path, rows: Sequence[Row], title: str) -> None:
    """Draw a study of generated images, a column for each weight: top-1 above, the gain over none below.

    Parameters
    ----------
    file : Path
        Ends in .png, .svg or .pdf.
    rows : sequence of mappings
        As ``flip.studies.augmentation.rows_of`` returns them; the gain has its 95 % interval.
    """
    none = [row for row in rows if row["weight"] is None]
    weights = list(dict.fromkeys(row["weight"] for row in rows if row["weight"] is not None))
    figure, panels = _figure(len(weights), 2)
    for weight, above, below in zip(weights, panels, panels[len(weights) :], strict=False):
        own = [row for row in rows if row["weight"] == weight]
        arms = {arm: [row for row in own if row["arm"] == arm] for arm in dict.fromkeys(row["arm"] for row in own)}
        _draw_curves(above, {"none": none, **arms}, "top1", None)
        _draw_curves(below, {"none": none, **arms}, "over_none", "over_none_ci95")
        above.set(title=f"weight {weight:g}", ylabel="top-1, %")
        below.set(xlabel="training photos per class", ylabel="gain over none, points")
    for row in (panels[: len(weights)], panels[len(weights) :]):
        for axes in row[1:]:
            axes.sharey(row[0])
            axes.autoscale()
    panels[0].legend(frameon=False)
    figure.suptitle(_literal(title))
    _save(figure, file)


def plot_calibration(file: Path, details: Row, title: str) -> None:
    """Draw the reliability curve: the share of right answers against the probability that was stated.

    Parameters
    ----------
    details : mapping
        ``reliability`` and ``ece`` as ``flip.results.calibration_report`` returns them.
    """
    figure, (axes,) = _figure(1)
    bins = details["reliability"]
    axes.plot([0, 100], [0, 100], color="0.7", linewidth=1)
    axes.plot([100 * b["confidence"] for b in bins], [100 * b["accuracy"] for b in bins], marker="o", markersize=4)
    note = f"{_literal(title)}\ncalibration error {details['ece']:.3f}"
    axes.set(xlabel="stated probability, %", ylabel="named right, %", title=note)
    axes.grid(alpha=0.3)
    _save(figure, file)


def plot_coverage(file: Path, details: Row, title: str) -> None:
    """Draw accuracy against coverage: top-1 where only the surest answers are given.

    Parameters
    ----------
    details : mapping
        ``coverage`` as ``flip.results.calibration_report`` returns it.
    """
    figure, (axes,) = _figure(1)
    curve = details["coverage"]
    axes.plot([100 * row["coverage"] for row in curve], [row["top1"] for row in curve], marker="o", markersize=4)
    axes.set(xlabel="photos answered, the surest first, %", ylabel="top-1, %", title=_literal(title))
    axes.grid(alpha=0.3)
    _save(figure, file)


def plot_confusion(file: Path, confusions: IntArray, classnames: Sequence[str], title: str) -> None:
    """Draw the confusion matrix; classes that are confused stand together, and those without photos are left out.

    Parameters
    ----------
    file : Path
        Ends in .png, .svg or .pdf.
    confusions : int array of shape (c, c)
        Photos of each class (rows) that were given each class (columns).
    classnames : sequence of c str
    """
    there = np.flatnonzero(confusions.sum(axis=1) + confusions.sum(axis=0))
    order = there[alike_order(confusions[np.ix_(there, there)])]
    counts = confusions[np.ix_(order, order)]
    names = [_literal(classnames[c]) for c in order]
    figure, axes = _matrix_figure(len(names))
    shares = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    right = np.eye(len(names), dtype=bool)
    for hidden, colours in ((~right, "Blues"), (right, "Oranges")):
        shown = np.ma.masked_where(hidden | (counts == 0), shares)
        axes.imshow(shown, cmap=colours, vmin=-25, vmax=100, aspect="equal")
    _name_axes(axes, names)
    if len(names) <= _MOST_COUNTED:
        for row, column in zip(*np.nonzero(counts), strict=True):
            colour = "w" if shares[row, column] > 60 else "k"
            axes.text(column, row, counts[row, column], ha="center", va="center", fontsize=6, color=colour)
    axes.set(xlabel="named", ylabel="is", title=_literal(title))
    _save(figure, file)


def _matrix_figure(n: int) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    side = min(max(4.0, 0.22 * n + 2.5), 24.0)
    figure = Figure(figsize=(side, side), layout="constrained", dpi=150)
    return figure, figure.add_subplot()


def _name_axes(axes: Axes, names: Sequence[str]) -> None:
    """Write the names of classes on both axes, in letters as small as their number asks for."""
    size = min(8.0, max(3.0, 480 / max(len(names), 1)))
    short = [name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…" for name in names]
    axes.set_xticks(range(len(names)), short, rotation=90, fontsize=size)
    axes.set_yticks(range(len(names)), short, fontsize=size)
    axes.tick_params(length=0)
    axes.set_xticks(np.arange(len(names) + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(names) + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="0.9", linewidth=0.3)
    axes.tick_params(which="minor", length=0)


def _draw_curves(axes: Axes, curves: Mapping[str, Sequence[Row]], value: str, interval: str | None) -> None:
    """Draw a line for each name through a value of its rows, beside each other so that their bars can be told apart."""
    labels = _shots(curves)
    for i, (name, rows) in enumerate(curves.items()):
        aside = 0.05 * (i - (len(curves) - 1) / 2) if interval else 0.0
        x = [labels.index(str(row["shots"])) + aside for row in rows]
        y = [row[value] or 0.0 for row in rows]
        bars = [(at, row[interval]) for at, row in zip(y, rows, strict=True)] if interval else []
        spread = [[_bar(*bar, end) for bar in bars] for end in (0, 1)] if interval else None
        axes.errorbar(x, y, yerr=spread, marker="o", markersize=4, capsize=3, linewidth=1.5, label=_literal(name))
    axes.set_xticks(range(len(labels)), labels)
    axes.grid(alpha=0.3)


def font_file() -> Path:
    """Return the file of DejaVu Sans that comes with matplotlib: it has more letters than Pillow's own font."""
    import matplotlib

    return Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"


def _literal(text: str) -> str:
    """Return a text that matplotlib draws as it is: no formula between dollars, no label hidden by an underscore."""
    text = " ".join(text.split()).replace("$", r"\$")
    return f"\u200b{text}" if text.startswith("_") else text


def _shots(curves: Mapping[str, Sequence[Row]]) -> list[str]:
    """Return the numbers of shots of all curves in ascending order, ``all`` last."""
    shots = {row["shots"] for rows in curves.values() for row in rows}
    return [str(k) for k in sorted(shots, key=lambda k: float("inf") if k == "all" else float(k))]


def _figure(columns: int, rows: int = 1) -> tuple[Figure, list[Axes]]:
    from matplotlib.figure import Figure

    # A Figure of its own, without pyplot: no display is looked for and nothing global is kept.
    figure = Figure(figsize=(5.2 * columns, 3.8 * rows), layout="constrained", dpi=150)
    return figure, [figure.add_subplot(rows, columns, i + 1) for i in range(columns * rows)]


def _bar(mean: float, interval: Sequence[float] | None, end: int) -> float:
    """A single draw has no interval: its bar has no length."""
    return 0.0 if interval is None else abs(mean - interval[end])


def _save(figure: Figure, file: Path) -> None:
    with written_aside(file, kind="image") as aside:
        figure.savefig(aside, format=file.suffix[1:].lower() or "png")
