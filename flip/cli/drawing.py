"""Shared by the commands that draw: their options, the model, prompts, and rows as they come."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from flip.cli.context import STDIN, implied_model
from flip.config import OutputConfig
from flip.diffusion.settings import CheckpointSettings, DrawSettings, SamplerSettings
from flip.errors import DataError
from flip.names import DEVICES, PRECISIONS
from flip.settings import at_least, option, settings_from

if TYPE_CHECKING:
    from flip.device import Placement
    from flip.diffusion.checkpoint import Loaded
    from flip.diffusion.painter import Painter


@dataclass(frozen=True, kw_only=True)
class DrawOptions(CheckpointSettings, SamplerSettings, OutputConfig):
    """Options of every command that draws."""

    batch_size: int = option(4, "Images drawn together; halved when out of memory.")
    seed: int = option(0, "Seed from which each image's own seed is derived.")
    device: str = option("auto", "Where the network runs.", choices=DEVICES)
    precision: str = option("auto", "Number format; auto is bf16 on a GPU that has it.", choices=PRECISIONS)
    cache: Path | None = option(
        None, "Folder of what is kept between runs. [default: the platform's cache folder]", envvar="FLIP_CACHE"
    )
    overwrite: bool = option(False, "Write into the output folder although it holds other work, and draw all again.")

    def __post_init__(self) -> None:
        CheckpointSettings.__post_init__(self)
        SamplerSettings.__post_init__(self)
        at_least("--batch-size", self.batch_size, 1)


def open_checkpoint(options: DrawOptions) -> Loaded:
    """Load ``--ckpt``."""
    from flip.diffusion.checkpoint import load_pipeline

    ckpt = options.ckpt or implied_model(options)
    if ckpt is None:
        raise typer.BadParameter(
            "no --ckpt; pass a .ckpt or .safetensors file, a diffusers folder, a LoRA file with --base, or ORG/NAME"
        )
    return load_pipeline(
        ckpt, base=options.base, ema=not options.no_ema, prediction=options.prediction, cache=options.cache
    )


def draw_settings(options: DrawOptions, strength: float | None = None) -> DrawSettings:
    """Return the settings of drawing that the options ask for."""
    return settings_from(options, DrawSettings, strength=strength)


def open_painter(options: DrawOptions, loaded: Loaded, settings: DrawSettings, placement: Placement) -> Painter:
    """Put the model on its device."""
    from flip.diffusion.painter import Painter, resolve_precision

    precision = resolve_precision(options.precision, placement)
    return Painter(loaded.pipeline, placement, settings, precision=precision, batch_size=options.batch_size)


def note_cut_prompts(options: DrawOptions, painter: Painter, prompts: Sequence[str]) -> None:
    """Say how many prompts are longer than the model reads."""
    from flip.diffusion.generate import log_cut_prompts

    log_cut_prompts(painter, prompts)


def read_prompts(given: Sequence[str], file: Path | None) -> list[str]:
    """Return the prompts of the command line, of stdin where ``-`` stands, and of a file, one per line."""
    prompts: list[str] = []
    for text in given:
        prompts += _lines(sys.stdin.read()) if text == STDIN else [text]
    if file is not None:
        try:
            prompts += _lines(file.read_text(encoding="utf-8-sig"))
        except (OSError, UnicodeDecodeError) as e:
            raise DataError(f"{file} cannot be read as text ({e}); pass a UTF-8 text file of prompts") from e
    return [prompt for prompt in prompts if prompt.strip()]


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.split("\n")]


@contextmanager
def row_writer(options: DrawOptions, columns: tuple[str, ...]) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Yield a function that writes a row to stdout as it comes: ``-o`` is a folder, and tells nothing of the rows.

    Under ``accelerate launch`` the processes write to one stdout: jsonl only.
    """
    from flip.device import place
    from flip.results import RowWriter

    several = place(options.device).process_count > 1
    form = "jsonl" if several else options.format or ("table" if sys.stdout.isatty() else "jsonl")
    if form == "table":
        yield lambda row: _write_line(row, columns)
        return
    writer = RowWriter(sys.stdout, form, columns)
    yield writer.write
    writer.close()


def _write_line(row: Mapping[str, Any], columns: tuple[str, ...]) -> None:
    sys.stdout.write("  ".join(str(row[key]) for key in columns if key in row) + "\n")
    sys.stdout.flush()
