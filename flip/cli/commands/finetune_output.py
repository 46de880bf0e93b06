"""What ``flip finetune`` shows while it trains and when it is done."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from flip.cli.context import result_format
from flip.cli.output import write_summary
from flip.config import OutputConfig

if TYPE_CHECKING:
    from flip.training.listener import Listener, StepReport


@contextmanager
def training_bar(config: OutputConfig) -> Iterator[Listener]:
    """Yield a listener that shows a bar with loss, photos per second and time left, where stderr is a terminal."""
    from flip.training.listener import Listener

    if config.quiet or not sys.stderr.isatty() or os.environ.get("RANK", "0") != "0":
        yield Listener()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    what = (TextColumn("step"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[now]}"))
    with Progress(*what, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("step", total=None, now="")

        def on_step(report: StepReport) -> None:
            if bar.tasks[0].total is None:
                # A resumed run begins in the middle, which says nothing of its speed.
                bar.reset(task, total=report.steps, completed=report.step - 1)
            bar.update(task, completed=report.step)
            speed = bar.tasks[0].speed
            now = f"loss {report.loss:.3f}"
            bar.update(task, now=f"{now}, {speed * report.photos:.1f} photos/s" if speed else now)

        yield Listener(on_step)


def print_result(config: OutputConfig, result: dict[str, Any]) -> None:
    """Write a fine-tuning's result to stdout: a table on a terminal, else JSON."""
    # -o is the folder of the model, not a file for the result.
    to_stdout = replace(config, output=None)
    as_table = result_format(to_stdout, "json") == "table"
    shown = {key: value for key, value in result.items() if key != "settings"}
    write_summary(to_stdout, "flip finetune", _lines(shown) if as_table else shown)


def _lines(result: dict[str, Any]) -> dict[str, Any]:
    """Return the result with a line for each score and each weight of a sweep."""
    hidden = ("command", "format", "wise_sweep", "scores")
    shown = {key: value for key, value in result.items() if key not in hidden}
    for point in result.get("wise_sweep", ()):
        shown[f"wise {point['weight']:.1f}"] = (
            f"validation {_number(point['val_top1'])} %, held out {_number(point['held_out'])} % ({_difference(point)})"
        )
    for score in result.get("scores", ()):
        shown[f"{score['what']} (n {score['n']})"] = (
            f"{_number(score['before'])} → {_number(score['after'])} %   {_difference(score)}"
        )
    return shown


def _difference(row: dict[str, Any]) -> str:
    low, high = row["ci95"]
    return f"{_number(row['difference'], '+')}, 95 % interval {_number(low, '+')} to {_number(high, '+')}"


def _number(value: float | None, sign: str = "") -> str:
    """Return a number with one decimal; JSON holds None where there was nothing to measure."""
    return "–" if value is None else f"{value:{sign}.1f}"
