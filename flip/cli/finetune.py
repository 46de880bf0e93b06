"""``flip finetune``."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from flip.cli.common import note, open_data, result_format
from flip.cli.options import command
from flip.cli.render import write_summary
from flip.config import DEFAULT_MODEL, FinetuneConfig
from flip.errors import ConfigError, DataError
from flip.results import plain, write_json

if TYPE_CHECKING:
    from flip.clip.finetune import FinetuneResult
    from flip.clip.finetune.loop import Listener, StepReport
    from flip.clip.finetune.scores import Score
    from flip.clip.model import ClipModel
    from flip.data.dataset import Dataset


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "finetune", FinetuneConfig)(finetune)


def finetune(config: FinetuneConfig) -> None:
    """Train the model on the training photos, with their captions or class names, and write it into the folder -o.

    The result is a folder that --model takes everywhere. Test photos are looked at only when it is done, to score the
    model before and after.
    """
    if config.target == "diffusion":
        from flip.cli.finetune_diffusion import finetune_diffusion

        finetune_diffusion(config)
    else:
        finetune_clip(config)


def finetune_clip(config: FinetuneConfig) -> None:
    """Train a dual encoder."""
    from flip.clip.finetune import finetune as train
    from flip.clip.finetune.output import RESULT
    from flip.clip.finetune.validation import split_validation
    from flip.device import place

    folder = _require_output(config)
    if config.tta != "none":
        raise ConfigError("--tta flip is for features, and training mirrors photos anyway; leave it out")
    if config.resume and (folder / RESULT).is_file():
        note(config, f"the run in {folder} is finished; --overwrite begins it anew")
        _print(config, json.loads((folder / RESULT).read_text(encoding="utf-8")))
        return
    dataset = open_data(config)
    if dataset.embeddings is not None:
        raise DataError(f"{dataset.root} is a table of embeddings, and training needs the photos; pass their folder")
    parts = _Parts(config, dataset)
    split = split_validation(parts.trained, config.val_fraction, config.seed)
    note(config, f"{len(split.training)} photos train, {len(split.validation)} of the training split choose the epoch")
    with _listener(config) as listener:
        result = train(
            _starting_model(config),
            split,
            config,
            folder,
            held_out=parts.held_out_training(),
            augmented=_augmented(config),
            listener=listener,
        )
    _warn(config, result)
    scores = [] if config.no_scores else _scores(config, parts, folder)
    if not place(config.device).is_main:
        return
    summary = _summary(config, result, scores)
    write_json(folder / RESULT, summary)
    result.training.finish()
    _print(config, summary)


class _Parts:
    """The classes that are trained on, and those that are left out to see what is forgotten."""

    def __init__(self, config: FinetuneConfig, dataset: Dataset) -> None:
        from flip.clip.finetune.scores import take_classes

        classes, n = len(dataset.classnames), config.holdout_classes
        if n > classes - 2:
            raise ConfigError(
                f"--holdout-classes {n} leaves {max(0, classes - n)} of {classes} classes to train on; "
                f"pass {max(0, classes - 2)} or fewer"
            )
        dataset.require_training_photos()
        self.trained = take_classes(dataset, 0, classes - n)
        self.held_out = take_classes(dataset, classes - n, classes) if n else None

    def held_out_training(self) -> Dataset | None:
        """Return the training photos of the classes left out."""
        return self.held_out.select("train") if self.held_out is not None else None


def _require_output(config: FinetuneConfig) -> Path:
    if config.output is None:
        raise typer.BadParameter("no -o given; pass a folder for the fine-tuned model")
    if config.from_scratch is not None and config.model:
        raise ConfigError("--from-scratch begins with random weights; leave out --model (or FLIP_MODEL)")
    return config.output.expanduser()


def _starting_model(config: FinetuneConfig) -> ClipModel:
    from flip.clip.model import load_model, new_model
    from flip.config import cache_folder

    if config.from_scratch is not None:
        return new_model(config.from_scratch, config.seed)
    return load_model(config.model or DEFAULT_MODEL, cache=cache_folder(config.cache))


def _augmented(config: FinetuneConfig) -> Dataset | None:
    from flip.data.open import open_dataset

    if config.augmented is None:
        return None
    dataset = open_dataset(config.augmented)
    return dataset.select("train") if "train" in dataset.splits else dataset


@contextmanager
def _listener(config: FinetuneConfig) -> Iterator[Listener]:
    """Yield what shows a bar with loss, photos a second and time left, a line each epoch, and notes."""
    from flip.clip.finetune.loop import Listener

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


def _warn(config: FinetuneConfig, result: FinetuneResult) -> None:
    """Say what a user should know before trusting the result."""
    unreadable = result.training.unreadable
    if unreadable:
        first = next(iter(unreadable.values()))
        note(config, f"{len(unreadable)} training photos cannot be read and were passed over, the first: {first}")
    history, best = result.training.state.history, result.training.state.best_epoch
    start = result.start_top1
    if history and start is not None and history[best - 1]["val_top1"] < start:
        note(
            config,
            f"validation zero-shot was {start:.1f} % before and is {history[best - 1]['val_top1']:.1f} % after: either "
            "the model knew these photos already, or training made it worse; see the test photos, or pass a lower --lr",
        )


def _scores(config: FinetuneConfig, parts: _Parts, folder: Path) -> list[Score]:
    """Score the test photos, and those of --retain, by the model before and after."""
    from flip.clip.features import make_extractor
    from flip.clip.finetune.scores import knn_score, zero_shot_score
    from flip.clip.model import load_model
    from flip.config import cache_folder
    from flip.data.open import open_dataset

    after = load_model(str(folder), cache=cache_folder(config.cache))
    models = [make_extractor(model, config) for model in (_starting_model(config), after)]
    scores = []
    for what, part in (("trained classes", parts.trained), ("held-out classes", parts.held_out)):
        if part is not None and "test" in part.splits:
            scores.append(zero_shot_score(f"zero-shot, {what}", part.select("test"), config.prompts, *models))
            if part is parts.trained:
                scores.append(knn_score(f"kNN, {what}", part, *models))
    if config.retain is not None:
        other = open_dataset(config.retain)
        other = other.select("test") if "test" in other.splits else other
        scores.append(zero_shot_score(f"zero-shot, {config.retain}", other, config.prompts, *models))
    return scores


def _summary(config: FinetuneConfig, result: FinetuneResult, scores: list[Score]) -> dict[str, Any]:
    training = result.training
    history, best = training.state.history, training.state.best_epoch
    return {
        "output": str(result.folder),
        "model": config.model or str(config.from_scratch or DEFAULT_MODEL),
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


def _print(config: FinetuneConfig, summary: dict[str, Any]) -> None:
    # -o is the folder of the model; the summary goes to stdout.
    plain_output = replace(config, output=None)
    as_table = result_format(plain_output, "json") == "table"
    write_summary(plain_output, "flip finetune", _for_people(plain(summary)) if as_table else summary)


def _for_people(summary: dict[str, Any]) -> dict[str, Any]:
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
