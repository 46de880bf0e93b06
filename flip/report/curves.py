"""Curves as picture files, drawn by matplotlib without a display."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flip.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def plot_few_shot(file: Path, curves: Mapping[str, Sequence[Mapping[str, Any]]], title: str) -> None:
    """Draw top-1 against the number of shots, with a 95 % interval over draws, one line a method.

    Parameters
    ----------
    file : Path
        Ends in .png, .svg or .pdf.
    curves : mapping of name → rows
        Rows as ``flip.classify.fewshot.few_shot_rows`` returns them.
    """
    figure, (axes,) = _figure(1)
    labels = [str(row["shots"]) for row in next(iter(curves.values()))]
    for name, rows in curves.items():
        x = [labels.index(str(row["shots"])) for row in rows]
        y = [row["top1"] for row in rows]
        spread = [[_bar(row["top1"], row["ci95"], end) for row in rows] for end in (0, 1)]
        axes.errorbar(x, y, yerr=spread, marker="o", markersize=4, capsize=3, linewidth=1.5, label=name)
    axes.set_xticks(range(len(labels)), labels)
    axes.set(xlabel="training photos a class", ylabel="top-1, %", title=title)
    axes.grid(alpha=0.3)
    if len(curves) > 1:
        axes.legend(frameon=False)
    _save(figure, file)


def plot_doubt(file: Path, extra: Mapping[str, Any], title: str) -> None:
    """Draw the reliability curve, and accuracy against coverage, side by side.

    Parameters
    ----------
    extra : mapping
        ``reliability``, ``ece`` and ``coverage`` as ``flip.results.doubt`` returns them.
    """
    figure, (left, right) = _figure(2)
    bins = extra["reliability"]
    left.plot([0, 100], [0, 100], color="0.7", linewidth=1)
    left.plot([100 * b["confidence"] for b in bins], [100 * b["accuracy"] for b in bins], marker="o", markersize=4)
    left.set(xlabel="stated probability, %", ylabel="share correct, %", title=f"calibration error {extra['ece']:.3f}")
    right.plot([100 * c["coverage"] for c in extra["coverage"]], [c["top1"] for c in extra["coverage"]], marker="o")
    right.set(xlabel="photos answered, the surest first, %", ylabel="top-1, %", title=title)
    for axes in (left, right):
        axes.grid(alpha=0.3)
    _save(figure, file)


def _figure(columns: int) -> tuple[Figure, list[Axes]]:
    from matplotlib.figure import Figure

    # A Figure of its own, without pyplot: no display is looked for and nothing global is kept.
    figure = Figure(figsize=(5.2 * columns, 3.8), layout="constrained", dpi=150)
    return figure, [figure.add_subplot(1, columns, i + 1) for i in range(columns)]


def _bar(mean: float, interval: Sequence[float] | None, end: int) -> float:
    """A single draw has no interval: its bar has no length."""
    return 0.0 if interval is None else abs(mean - interval[end])


def _save(figure: Figure, file: Path) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(file)
    except OSError as e:
        raise ConfigError(f"{file} cannot be written ({e.strerror}); pass a file in a folder that can") from e
