"""What ``flip finetune`` shows while it trains and when it is done."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from flip.cli.context import model_name, note, result_format
from flip.cli.output import write_summary
from flip.config import FinetuneConfig
from flip.files import plain

if TYPE_CHECKING:
    from flip.training.clip.pipeline import FinetuneResult
    from flip.training.clip.scores import Score
    from flip.training.clip.state import Listener, StepReport


@contextmanager
def listening(config: FinetuneConfig) -> Iterator[Listener]:
    """Yield what shows a bar with loss, photos a second and time left, a line each epoch, and notes."""
    from flip.training.clip.state import Listener

    def on_epoch(row: dict[str, Any]) -> None:
        note(config, _epoch_line(row, config.epochs))

    with _bar(config) as on_step:
        yield Listener(on_step, on_epoch, lambda text: note(config, text))


@contextmanager
def _bar(config: FinetuneConfig) -> Iterator[Callable[[StepReport], None]]:
    if config.quiet or not sys.stderr.isatty() or os.environ.get("RANK", "0") != "0":
        yield lambda report: None
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

        yield on_step


def _epoch_line(row: dict[str, Any], epochs: int) -> str:
    line = f"epoch {row['epoch']} of {epochs}: loss {row['loss']:.3f}"
    if row["val_top1"] is not None:
        line += f", validation loss {row['val_loss']:.3f}, zero-shot {row['val_top1']:.1f} %"
    return f"{line}, {row['seconds']:.0f} s"


def summary_of(config: FinetuneConfig, result: FinetuneResult, scores: list[Score]) -> dict[str, Any]:
    """Return what a run did, as JSON holds it."""
    training = result.training
    history, best = training.state.history, training.state.best_epoch
    return {
        "output": str(result.folder),
        "model": str(config.from_scratch or model_name(config)),
        "photos": result.photos,
        "validation_photos": result.validation_photos,
        "train": config.train if config.lora is None else f"{config.train}, low-rank {config.lora}",
        "parameters": result.parameters,
        "lr_image": result.rates.image,
        "lr_text": result.rates.text,
        "precision": result.precision,
        "batch": training.batch,
        "epochs": len(history),
        "best_epoch": best,
        "val_loss": history[best - 1]["val_loss"],
        "val_top1_before": result.start_top1,
        "val_top1": history[best - 1]["val_top1"],
        "wise": result.wise,
        "wise_sweep": [asdict(point) for point in result.wise_points],
        "scores": [asdict(score) for score in scores],
        "texts_cut": result.cut,
        "unreadable": len(training.unreadable),
        "seconds": training.state.seconds,
    }


def print_summary(config: FinetuneConfig, summary: dict[str, Any]) -> None:
    """Write the summary to stdout; a table has a line for each score."""
    # -o is the folder of the model; the summary goes to stdout.
    plain_output = replace(config, output=None)
    as_table = result_format(plain_output, "json") == "table"
    write_summary(plain_output, "flip finetune", _lines(plain(summary)) if as_table else summary)


def _lines(summary: dict[str, Any]) -> dict[str, Any]:
    """Return the summary with each score as a line."""
    shown = {key: value for key, value in summary.items() if key not in ("wise_sweep", "scores")}
    for point in summary["wise_sweep"]:
        low, high = point["ci95"]
        shown[f"wise {point['weight']:.1f}"] = (
            f"validation {point['val_top1']:.1f} %, held out {point['held_out']:.1f} % "
            f"({point['difference']:+.1f}, 95 % interval {low:+.1f} to {high:+.1f})"
        )
    for score in summary["scores"]:
        low, high = score["ci95"]
        shown[f"{score['what']} (n {score['n']})"] = (
            f"{score['before']:.1f} → {score['after']:.1f} %   {score['difference']:+.1f}, "
            f"95 % interval {low:+.1f} to {high:+.1f}"
        )
    return shown
