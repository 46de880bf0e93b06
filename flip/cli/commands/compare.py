"""``flip compare``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import typer

from flip.cli.config import FileOutput, require_picture_name
from flip.cli.options import command
from flip.settings import option

if TYPE_CHECKING:
    from flip.report.compare import Comparison


@dataclass(frozen=True, kw_only=True)
class CompareConfig(FileOutput):
    """``flip compare``."""

    runs: list[str] | None = option(None, "Folders that --run wrote, of the same test photos.")
    pairs: Literal["first", "all"] = option(
        "first", "Compare each run with the first one, or every run with every other."
    )
    plot: Path | None = option(
        None, "Draw the few-shot curves of all runs into this .png, .svg or .pdf file.", writes="image"
    )

    def __post_init__(self) -> None:
        require_picture_name(self.plot)


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "compare", CompareConfig)(compare)


def compare(config: CompareConfig) -> None:
    """Compare runs photo by photo: differences of top-1 with 95 % intervals, and McNemar's exact test.

    The first RUN is what the others are compared with. Runs of different test photos are refused. With several
    comparisons the p-value p_holm is corrected for their number (Holm), and decides what is significant.
    """
    from flip.report.compare import compare as compare_runs
    from flip.report.compare import few_shot_curves
    from flip.results import Run

    if not config.runs:
        raise typer.BadParameter("no RUN; pass two or more folders that --run wrote")
    runs = [Run.open(folder) for folder in config.runs]
    comparisons = compare_runs(runs, config.pairs)
    if config.plot is not None:
        from flip.report.plots import plot_few_shot

        plot_few_shot(config.plot, few_shot_curves(runs), runs[0].evaluation.data)
    _write(config, comparisons)


def _write(config: CompareConfig, comparisons: Sequence[Comparison]) -> None:
    from flip.cli.output import result_format, write_result, write_rows
    from flip.files import json_text

    form = result_format(config, "json")
    if form in ("table", "csv"):
        shown = [_for_people(row) if form == "table" else _flat(row) for row in comparisons]
        counts = " or ".join(dict.fromkeys(f"{row.n:,}" for row in comparisons))
        write_rows(config, f"flip compare: top-1 on the same {counts} photos", shown)
        return
    rows = [row.to_dict() for row in comparisons]
    result = {"command": "compare", "format": 1, "pairs": config.pairs, "comparisons": rows}
    text = json_text(result, indent=2 if form == "json" else None) + "\n"
    write_result(config.output, text)


def _flat(row: Comparison) -> Mapping[str, object]:
    """Return a comparison with the ends of its interval in columns of their own."""
    low, high = row.ci95
    return {k: v for k, v in row.to_dict().items() if k != "ci95"} | {"ci95_low": low, "ci95_high": high}


def _for_people(row: Comparison) -> Mapping[str, object]:
    """Return a comparison as a terminal shows it."""
    low, high = row.ci95
    p = f"p = {row.p_holm:.3f}" if row.p_holm >= 0.001 else "p < 0.001"
    verdict = "unclear" if not row.significant else "better" if row.difference > 0 else "worse"
    return {
        "run": row.run,
        "top-1": f"{row.top1:.1f}",
        "against": row.against,
        "its top-1": f"{row.against_top1:.1f}",
        "points": f"{row.difference:+.1f}",
        "95 %": f"{low:+.1f} to {high:+.1f}",
        "verdict": f"{verdict}, {p}",
    }
