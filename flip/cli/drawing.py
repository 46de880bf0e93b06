"""What the commands that draw share: the model, prompts, rows as they come."""

from __future__ import annotations

import csv
import json
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from flip.cli.context import STDIN, implied_model, note, result_format
from flip.config import DrawConfig, parse_size
from flip.errors import DataError
from flip.files import plain

if TYPE_CHECKING:
    from flip.device import Placement
    from flip.diffusion.checkpoint import Loaded
    from flip.diffusion.painter import DrawSettings, Painter


def open_checkpoint(config: DrawConfig) -> Loaded:
    """Load ``--ckpt``."""
    from flip.diffusion.checkpoint import load_pipeline

    ckpt = config.ckpt or implied_model(config)
    if ckpt is None:
        raise typer.BadParameter(
            "no --ckpt; pass a .ckpt or .safetensors file, a diffusers folder, a LoRA file with --base, or ORG/NAME"
        )
    loaded = load_pipeline(ckpt, base=config.base, ema=not config.no_ema, cache=config.cache)
    if config.verbose:
        note(config, f"checkpoint {loaded.name} ({loaded.fingerprint})")
    return loaded


def draw_settings(config: DrawConfig, strength: float | None = None) -> DrawSettings:
    """Return how the configuration wants pictures drawn."""
    from flip.diffusion.painter import DrawSettings

    width, height = parse_size(config.size) or (None, None)
    return DrawSettings(config.sampler, config.steps, config.guidance, width, height, config.negative, strength)


def open_painter(config: DrawConfig, loaded: Loaded, settings: DrawSettings, placement: Placement) -> Painter:
    """Put the model on its device."""
    from flip.diffusion.painter import Painter, resolve_precision

    return Painter(
        loaded.pipeline,
        placement,
        settings,
        precision=resolve_precision(config.precision, placement),
        batch_size=config.batch_size,
        say=lambda line: note(config, line),
    )


def note_cut_prompts(config: DrawConfig, painter: Painter, prompts: Sequence[str]) -> None:
    """Say how many prompts are longer than the model reads."""
    cut, most = painter.count_cut(prompts)
    if cut:
        note(
            config,
            f"{cut} of {len(set(prompts))} prompts are longer than the {most} tokens the model reads; the rest is cut",
        )


def read_prompts(given: Sequence[str], file: Path | None) -> list[str]:
    """Return the prompts of the command line, of stdin where ``-`` stands, and of a file; a line is a prompt."""
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


class Rows:
    """Writes rows to stdout as they come: jsonl, csv and table at once, json as one array.

    Safe to call from a thread. Under ``accelerate launch`` the processes write to one stdout: jsonl only.
    """

    def __init__(self, config: DrawConfig, columns: tuple[str, ...], *, processes: int = 1) -> None:
        self._form = "jsonl" if processes > 1 else result_format(_without_output(config), "jsonl")
        self._columns = columns
        self._count = 0
        self._lock = threading.Lock()

    def write(self, row: dict[str, Any]) -> None:
        """Write one row and flush it."""
        with self._lock:
            if self._form == "csv":
                writer = csv.DictWriter(sys.stdout, self._columns, extrasaction="ignore", lineterminator="\n")
                if self._count == 0:
                    writer.writeheader()
                writer.writerow({key: plain(value) for key, value in row.items()})
            else:
                sys.stdout.write(self._text(row))
            self._count += 1
            sys.stdout.flush()

    def close(self) -> None:
        """Write what ends the output."""
        if self._form == "json":
            sys.stdout.write("\n]\n" if self._count else "[]\n")
            sys.stdout.flush()

    def _text(self, row: dict[str, Any]) -> str:
        if self._form == "table":
            return "  ".join(str(row[key]) for key in self._columns if key in row) + "\n"
        line = json.dumps(plain(row), ensure_ascii=False)
        if self._form == "json":
            return ("[\n" if self._count == 0 else ",\n") + line
        return line + "\n"


def _without_output(config: DrawConfig) -> DrawConfig:
    from dataclasses import replace

    # Here -o is a folder of pictures, and tells nothing of the rows.
    return replace(config, output=None)
