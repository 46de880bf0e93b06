"""``flip generate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from flip.cli.context import note, progress
from flip.cli.drawing import Rows, draw_settings, note_cut_prompts, open_checkpoint, open_painter, read_prompts
from flip.cli.options import command
from flip.config import GenerateConfig

if TYPE_CHECKING:
    from flip.diffusion.checkpoint import Loaded
    from flip.diffusion.generate import Planned

COLUMNS = ("path", "seed", "index", "drawn", "prompt")


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "generate", GenerateConfig)(generate)


def generate(config: GenerateConfig) -> None:
    """Draw pictures from prompts.

    Each picture has a seed of its own, from --seed, its prompt and its number, so any one can be drawn again alone. A
    second run draws only what is missing.
    """
    prompts = read_prompts(config.prompt or [], config.file)
    if not prompts and config.save_as is None:
        raise typer.BadParameter("no prompt given; pass prompts, --file FILE, or - for prompts on stdin")
    loaded = open_checkpoint(config)
    if config.save_as is not None:
        save_as(config, loaded.pipeline, config.save_as)
    if prompts:
        draw(config, loaded, prompts)


def save_as(config: GenerateConfig, pipeline: object, folder: Path) -> None:
    """Write the model as a diffusers folder."""
    from flip.diffusion.checkpoint import save_pipeline

    save_pipeline(pipeline, folder, overwrite=config.overwrite)
    note(config, f"saved the model in {folder}")


def draw(config: GenerateConfig, loaded: Loaded, prompts: list[str]) -> None:
    """Draw every prompt's pictures, each process its share."""
    from flip.device import place
    from flip.diffusion.generate import generate as write_pictures
    from flip.diffusion.generate import plan_pictures, prepare_folder

    settings = draw_settings(config)
    folder = config.output or Path("generated")
    placement = place(config.device)
    if placement.is_main:
        prepare_folder(folder, loaded, settings, overwrite=config.overwrite)
    placement.wait_for_everyone()
    painter = open_painter(config, loaded, settings, placement)
    note_cut_prompts(config, painter, prompts)
    planned = plan_pictures(
        prompts, config.n, folder, seed=config.seed, settings=settings, fingerprint=loaded.fingerprint
    )
    mine = [planned[i] for i in placement.share(len(planned))]
    rows = Rows(config, COLUMNS, processes=placement.process_count)
    with progress(config, "pictures", len(mine)) as advance:

        def done(p: Planned, drawn: bool) -> None:
            rows.write(_row(p, drawn, painter.about(p.picture)))
            if advance:
                advance(1)

        about = {"ckpt": loaded.name, "fingerprint": loaded.fingerprint}
        write_pictures(painter, mine, about, done, overwrite=config.overwrite)
    rows.close()
    placement.wait_for_everyone()
    if config.grid is not None and placement.is_main:
        save_grid(config.grid, planned)


def save_grid(file: Path, planned: list[Planned]) -> None:
    """Write all pictures into one, a row a prompt."""
    from PIL import Image

    from flip.diffusion.pictures import contact_sheet, save_sheet

    rows: list[list[Image.Image]] = []
    for p in planned:
        if p.index == 0:
            rows.append([])
        with Image.open(p.file) as image:
            rows[-1].append(image.convert("RGB"))
    save_sheet(contact_sheet(rows), file)


def _row(p: Planned, drawn: bool, about: dict[str, Any]) -> dict[str, Any]:
    own = {"path": str(p.file), "prompt": p.picture.prompt, "index": p.index, "drawn": drawn}
    return {**own, **{key: value for key, value in about.items() if key != "strength"}}
