"""``flip generate``."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import typer

from flip.cli.context import progress
from flip.cli.drawing import DrawOptions, draw_settings, open_checkpoint, read_prompts, row_writer
from flip.cli.options import command
from flip.settings import at_least, option

log = logging.getLogger("flip.cli")

COLUMNS = ("path", "seed", "index", "drawn", "prompt")


@dataclass(frozen=True, kw_only=True)
class GenerateOptions(DrawOptions):
    """Options of ``flip generate``."""

    prompt: list[str] | None = option(None, "Prompts, or - for prompts on stdin, one per line.")
    file: Path | None = option(None, "Text file of more prompts, one per line.")
    n: int = option(1, "Images of each prompt.")
    output: Path | None = option(None, "Folder of the images. [default: generated]")
    grid: Path | None = option(None, "Also write all images on this one sheet, a row per prompt.", writes="image")
    save_as: Path | None = option(None, "Write the model as a diffusers folder; without prompts do nothing else.")

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("-n", self.n, 1)


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "generate", GenerateOptions)(generate)


def generate(options: GenerateOptions) -> None:
    """Draw images from prompts.

    Each image has a seed of its own, from --seed, its prompt and its number, so any one can be drawn again alone. A
    second run draws only what is missing.
    """
    from flip.diffusion.checkpoint import save_pipeline
    from flip.diffusion.generate import generate

    prompts = read_prompts(options.prompt or [], options.file)
    if not prompts and options.save_as is None:
        raise typer.BadParameter("no prompt given; pass prompts, --file FILE, or - for prompts on stdin")
    loaded = open_checkpoint(options)
    if options.save_as is not None:
        save_pipeline(loaded.pipeline, options.save_as, overwrite=options.overwrite)
        log.info("saved the model in %s", options.save_as)
    if not prompts:
        return
    with row_writer(options, COLUMNS) as write, progress(options, "images", len(prompts) * options.n) as advance:
        generate(
            prompts,
            loaded,
            options.output or "generated",
            n=options.n,
            settings=draw_settings(options),
            seed=options.seed,
            device=options.device,
            precision=options.precision,
            batch_size=options.batch_size,
            overwrite=options.overwrite,
            grid=options.grid,
            progress=advance,
            on_image=lambda image: write(image.to_row()),
        )
