"""``flip finetune --target diffusion``."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from flip.cli.context import implied_model, note, open_data, progress
from flip.cli.output import write_summary
from flip.config import FinetuneConfig, parse_size, worker_count
from flip.errors import ConfigError, DataError

if TYPE_CHECKING:
    from flip.training.diffusion.trainer import DiffusionTraining

#: Options of dual encoders that say nothing to a diffusion model; given with another value than the default, an error.
_CLIP_ONLY = ("wise", "holdout_classes", "retain", "augmented", "tta", "crop", "train")


def finetune_diffusion(config: FinetuneConfig) -> None:
    """Train a diffusion model on the training photos with their captions, and write it into the folder -o."""
    for f in fields(config):
        if f.name in _CLIP_ONLY and getattr(config, f.name) != f.default:
            raise ConfigError(
                f"--{f.name.replace('_', '-')} is for --target clip; leave it out: a diffusion model trains its U-Net, "
                "or with --lora R additions to it"
            )
    if config.output is None:
        raise typer.BadParameter("no -o given; pass the folder for the fine-tuned model")
    from flip.device import place
    from flip.training.diffusion.finetune import RESULT_FILE

    finished = config.output / RESULT_FILE
    if config.resume and finished.is_file():
        note(config, f"the run in {config.output} is finished; --overwrite begins it anew")
        write_summary(config, "flip finetune", _shown(json.loads(finished.read_text(encoding="utf-8"))))
        return
    result = _train(config, config.output)
    if place(config.device).is_main:
        write_summary(config, "flip finetune", _shown(result))


def _train(config: FinetuneConfig, folder: Path) -> dict[str, Any]:
    from flip.diffusion.checkpoint import load_pipeline
    from flip.training.diffusion.finetune import Hooks, finetune
    from flip.training.diffusion.scratch import read_scratch_config

    ckpt = config.ckpt or implied_model(config)
    if ckpt is None and config.from_scratch is None:
        raise typer.BadParameter("no --ckpt given; pass the diffusion model to train, or --from-scratch CONFIG")
    settings = _settings(config)
    start: Any = read_scratch_config(config.from_scratch) if config.from_scratch else None
    dataset = open_data(config)
    if dataset.embeddings is not None:
        raise DataError(f"{dataset.root} is a table of embeddings, and training needs the photos; pass their folder")
    if start is None:
        start = load_pipeline(str(ckpt), base=config.base, ema=not config.no_ema, cache=config.cache)
    photos = len(dataset.select("train"))
    note(config, f"encoding {photos} training photos")
    with progress(config, "steps", _steps(settings, photos)) as advance:

        def step(done: int, total: int, loss: float) -> None:
            if advance:
                advance(1)
            if config.verbose:
                note(config, f"step {done} of {total}, loss {loss:.4f}")

        return finetune(
            dataset,
            folder,
            settings,
            start=start,
            prompts=config.prompts,
            device=config.device,
            precision=config.precision,
            workers=worker_count(config.workers),
            resume=config.resume,
            overwrite=config.overwrite,
            hooks=Hooks(say=lambda line: note(config, line), step=step),
        )


def _steps(settings: DiffusionTraining, photos: int) -> int:
    return settings.epochs * (photos // max(1, min(settings.batch_size * settings.grad_accum, photos)))


def _settings(config: FinetuneConfig) -> DiffusionTraining:
    from flip.training.diffusion.trainer import DiffusionTraining

    size = parse_size(config.size)
    same = {f.name: getattr(config, f.name) for f in fields(DiffusionTraining) if f.name != "size"}
    return DiffusionTraining(**same, size=size[0] if size else None)


def _shown(result: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in result.items() if key != "settings"}
