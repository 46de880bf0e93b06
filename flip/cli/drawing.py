"""Shared by the commands that draw: their options, the model, prompts, and rows as they come."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from flip.cli.config import CacheOptions, FolderOutput
from flip.cli.context import implied_model, stdin
from flip.cli.output import result_format, stdout
from flip.diffusion.settings import CheckpointSettings, DrawSettings, SamplerSettings
from flip.names import DEVICES, PRECISIONS
from flip.settings import at_least, option, settings_from
from flip.shown import shown

if TYPE_CHECKING:
    from flip.diffusion.checkpoint import Loaded


@dataclass(frozen=True, kw_only=True)
class DrawOptions(CheckpointSettings, SamplerSettings, CacheOptions, FolderOutput):
    """Options of every command that draws."""

    batch_size: int = option(4, "Images drawn together; halved when out of memory.")
    seed: int = option(0, "Seed from which each image's own seed is derived.")
    device: str = option("auto", "Where the network runs.", choices=DEVICES)
    precision: str = option("auto", "Number format; auto is bf16 on a GPU that has it.", choices=PRECISIONS)
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


def read_prompts(given: Sequence[str], file: Path | None) -> list[str]:
    """Return the prompts of the command line, of stdin where ``-`` stands, and of a file, one per line."""
    from flip.data.text import decode_text, read_text

    prompts: list[str] = []
    for text in given:
        prompts += _lines(decode_text(stdin().read(), "stdin")) if text == "-" else [text]
    if file is not None:
        prompts += _lines(read_text(file))
    return [prompt for prompt in prompts if prompt.strip()]


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.split("\n")]


@contextmanager
def row_writer(options: DrawOptions, columns: tuple[str, ...]) -> Iterator[Callable[[Mapping[str, object]], None]]:
    """Yield a function that writes a row to stdout as it comes: ``-o`` is a folder, and tells nothing of the rows.

    Under ``accelerate launch`` the processes write to one stdout: jsonl only.
    """
    from flip.device import has_siblings
    from flip.results import RowWriter

    form = "jsonl" if has_siblings() else result_format(options, "jsonl")
    if form == "table":
        yield lambda row: _write_line(row, columns)
        return
    writer = RowWriter(stdout(), form, columns, csv_safe=options.csv_safe)
    yield writer.write
    writer.close()


def _write_line(row: Mapping[str, object], columns: tuple[str, ...]) -> None:
    sys.stdout.write("  ".join(shown(row[key]) for key in columns if key in row) + "\n")
    sys.stdout.flush()
