"""``flip finetune``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from flip.cli.commands.finetune_output import listening, print_summary, summary_of
from flip.cli.context import model_name, note, open_data
from flip.cli.options import command
from flip.config import FinetuneConfig
from flip.errors import ConfigError, DataError
from flip.files import write_json

if TYPE_CHECKING:
    from flip.clip.model import ClipModel
    from flip.data.dataset import Dataset
    from flip.training.clip.pipeline import FinetuneResult
    from flip.training.clip.scores import Score


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "finetune", FinetuneConfig)(finetune)


def finetune(config: FinetuneConfig) -> None:
    """Train the model on the training photos, with their captions or class names, and write it into the folder -o.

    The result is a folder that --model takes everywhere. Test photos are looked at only when it is done, to score the
    model before and after.
    """
    if config.target == "diffusion":
        from flip.cli.commands.finetune_diffusion import finetune_diffusion

        finetune_diffusion(config)
    else:
        finetune_clip(config)


def finetune_clip(config: FinetuneConfig) -> None:
    """Train a dual encoder."""
    from flip.device import place
    from flip.training.clip.output import RESULT
    from flip.training.clip.pipeline import finetune as train
    from flip.training.clip.validation import split_validation

    folder = _require_output(config)
    if config.tta != "none":
        raise ConfigError("--tta flip is for features, and training mirrors photos anyway; leave it out")
    if config.resume and (folder / RESULT).is_file():
        note(config, f"the run in {folder} is finished; --overwrite begins it anew")
        print_summary(config, json.loads((folder / RESULT).read_text(encoding="utf-8")))
        return
    dataset = open_data(config)
    if dataset.embeddings is not None:
        raise DataError(f"{dataset.root} is a table of embeddings, and training needs the photos; pass their folder")
    parts = _Parts(config, dataset)
    split = split_validation(parts.trained, config.val_fraction, config.seed)
    note(config, f"{len(split.training)} photos train, {len(split.validation)} of the training split choose the epoch")
    with listening(config) as listener:
        result = train(
            _starting_model(config),
            split,
            config,
            folder,
            held_out=parts.held_out_choosing(),
            augmented=_augmented(config, split.validation),
            listener=listener,
        )
    _warn(config, result)
    scores = [] if config.no_scores else _scores(config, parts, folder)
    if not place(config.device).is_main:
        return
    summary = summary_of(config, result, scores)
    write_json(folder / RESULT, summary)
    result.training.finish()
    print_summary(config, summary)


class _Parts:
    """The classes that are trained on, and those that are left out to see what is forgotten."""

    def __init__(self, config: FinetuneConfig, dataset: Dataset) -> None:
        from flip.training.clip.scores import take_classes

        classes, n = len(dataset.classnames), config.holdout_classes
        if n > classes - 2:
            raise ConfigError(
                f"--holdout-classes {n} leaves {max(0, classes - n)} of {classes} classes to train on; "
                f"pass {max(0, classes - 2)} or fewer"
            )
        dataset.require_training_photos()
        self.trained = take_classes(dataset, 0, classes - n)
        self.held_out = take_classes(dataset, classes - n, classes) if n else None

    def held_out_choosing(self) -> Dataset | None:
        """Return the photos of the classes left out that choose a weight: never test photos.

        A val split of the data's own comes first: the model may have been made from the training photos.
        """
        if self.held_out is None:
            return None
        return self.held_out.select("val" if "val" in self.held_out.splits else "train")


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
    return load_model(model_name(config), cache=cache_folder(config.cache))


def _augmented(config: FinetuneConfig, validation: Dataset) -> Dataset | None:
    """Return the photos of ``--augmented``, without those that were made from a photo that chooses the epoch."""
    from flip.data.dataset import rows_of_sources
    from flip.data.open import open_dataset

    if config.augmented is None:
        return None
    dataset = open_dataset(config.augmented)
    dataset = dataset.select("train") if "train" in dataset.splits else dataset
    made_from = rows_of_sources([r.source for r in dataset.records], [r.path for r in validation.records])
    kept = [i for i, row in enumerate(made_from) if row is None]
    if len(kept) < len(dataset):
        note(
            config,
            f"left out {len(dataset) - len(kept)} of {len(dataset)} generated photos: made from validation photos",
        )
    return dataset.take(kept) if kept else None


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
    from flip.clip.model import load_model
    from flip.config import cache_folder
    from flip.data.open import open_dataset
    from flip.embed.extractor import make_extractor
    from flip.training.clip.scores import knn_score, zero_shot_score

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
