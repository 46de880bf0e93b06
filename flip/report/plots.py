"""Curves as picture files, drawn by matplotlib without a display."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flip.files import written_aside

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def plot_few_shot(file: Path, curves: Mapping[str, Sequence[Mapping[str, Any]]], title: str) -> None:
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


def plot_augmentation(file: Path, rows: Sequence[Mapping[str, Any]], title: str) -> None:
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


def plot_calibration(file: Path, details: Mapping[str, Any], title: str) -> None:
    """Draw the reliability curve, and accuracy against coverage, side by side.

    Parameters
    ----------
    details : mapping
        ``reliability``, ``ece`` and ``coverage`` as ``flip.results.calibration_report`` returns them.
    """
    figure, (left, right) = _figure(2)
    bins = details["reliability"]
    left.plot([0, 100], [0, 100], color="0.7", linewidth=1)
    left.plot([100 * b["confidence"] for b in bins], [100 * b["accuracy"] for b in bins], marker="o", markersize=4)
    left.set(xlabel="stated probability, %", ylabel="share correct, %", title=f"calibration error {details['ece']:.3f}")
    right.plot([100 * c["coverage"] for c in details["coverage"]], [c["top1"] for c in details["coverage"]], marker="o")
    right.set(xlabel="photos answered, the surest first, %", ylabel="top-1, %", title=_literal(title))
    for axes in (left, right):
        axes.grid(alpha=0.3)
    _save(figure, file)


def _draw_curves(
    axes: Axes, curves: Mapping[str, Sequence[Mapping[str, Any]]], value: str, interval: str | None
) -> None:
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


def _shots(curves: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
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
