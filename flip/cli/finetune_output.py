"""What ``flip finetune`` shows while it trains and when it is done."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from flip.cli.config import FolderOutput, MessageOptions
from flip.cli.context import bar
from flip.cli.output import result_format, write_summary

if TYPE_CHECKING:
    from flip.training.listener import Listener, StepReport


@contextmanager
def training_bar(options: MessageOptions) -> Iterator[Listener]:
    """Yield a listener that shows a bar with loss, photos per second and time left, where stderr is a terminal."""
    from flip.training.listener import Listener

    with bar(options, "step", None) as update:
        if update is None:
            yield Listener()
            return
        seen = 0

        def on_step(report: StepReport) -> None:
            nonlocal seen
            update(report.step - seen, f"loss {report.loss:.3f}", report.steps)
            seen = report.step

        yield Listener(on_step)


def print_result(options: FolderOutput, result: dict[str, Any]) -> None:
    """Write a fine-tuning's result to stdout: a table on a terminal, else JSON."""
    as_table = result_format(options, "json") == "table"
    shown = {key: value for key, value in result.items() if key != "settings"}
    write_summary(options, "flip finetune", _lines(shown) if as_table else shown)


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
