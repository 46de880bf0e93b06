"""What the commands share: opening data and models, notes, progress, and reading paths."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from flip.config import (
    DEFAULT_MODEL,
    SAMPLE,
    SAMPLE_DATA,
    DataConfig,
    ModelConfig,
    OutputConfig,
    ReadConfig,
    default_data,
)

if TYPE_CHECKING:
    from flip.clip.model import ClipModel
    from flip.data.dataset import Dataset
    from flip.embed.extractor import FeatureExtractor
    from flip.features import Features

STDIN = "-"


def note(config: OutputConfig, text: str) -> None:
    """Print one line on stderr unless ``-q``."""
    if not config.quiet and _is_main_process():
        typer.echo(text, err=True)


def open_data(config: DataConfig) -> Dataset:
    """Open ``--data``, or what is meant without it, and say what was found."""
    from flip.data.open import describe, open_dataset

    data = config.data or default_data()
    if data is None:
        raise typer.BadParameter(
            "no --data, no FLIP_DATA and no data/birds here; pass --data with a folder of labelled photos",
        )
    dataset = open_dataset(
        data,
        layout=config.layout,
        test_fraction=config.test_fraction,
        classnames=config.classnames,
        cache=getattr(config, "cache", None),
        say=lambda line: note(config, line) if isinstance(config, OutputConfig) else None,
    )
    if isinstance(config, OutputConfig):
        note(config, describe(dataset))
    return dataset


def data_name(config: DataConfig) -> str:
    """Return the data as results name it."""
    return config.data or default_data() or ""


def model_name(config: ModelConfig, dataset: Dataset | None = None) -> str:
    """Return the model that is meant: as given, else the one that made a table of embeddings, else the default."""
    if config.model:
        return config.model
    if dataset is not None and dataset.embeddings is not None:
        from flip.embed.table import table_metadata

        return str(table_metadata(dataset)["model"])
    return implied_model(config) or DEFAULT_MODEL


def implied_model(config: object) -> str | None:
    """Return the model that goes with the data when none is given: drawn birds bring their own."""
    return SAMPLE if getattr(config, "data", None) in SAMPLE_DATA else None


def open_extractor(config: ReadConfig, dataset: Dataset | None = None) -> FeatureExtractor:
    """Load ``--model`` and put the cache before it."""
    from flip.clip.model import load_model
    from flip.config import cache_folder
    from flip.embed.extractor import make_extractor

    model: ClipModel = load_model(model_name(config, dataset), cache=cache_folder(config.cache))
    extractor = make_extractor(model, config)
    if config.verbose:
        note(config, f"model {model.name} ({model.fingerprint}), {extractor.placement.device}, {extractor.precision}")
    return extractor


def read_features(config: ReadConfig, dataset: Dataset, extractor: FeatureExtractor) -> Features:
    """Return the features of a dataset with a progress bar, and say how many photos are unreadable."""
    with progress(config, "photos", len(dataset)) as advance:
        features = extractor.features(dataset, advance)
    if features.unreadable:
        first = next((p, e) for p, e in zip(features.paths, features.errors, strict=True) if e)
        note(
            config, f"{features.unreadable} of {len(features)} photos cannot be read, the first: {first[0]}: {first[1]}"
        )
    return features


@contextmanager
def progress(config: OutputConfig, what: str, total: int | None) -> Iterator[Callable[[int], None] | None]:
    """Show a bar on stderr where that is a terminal; yields what to call with each number of finished items."""
    if config.quiet or not sys.stderr.isatty() or not _is_main_process():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[speed]}"))
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total, speed="")

        def advance(n: int) -> None:
            speed = bar.tasks[task].speed
            bar.update(task, advance=n, speed=f"{speed:.1f}/s" if speed else "")

        yield advance


def input_paths(images: list[str], *, null: bool) -> Iterator[str]:
    """Yield the paths given as arguments, and those on stdin where ``-`` stands, as they arrive."""
    for given in images:
        if given != STDIN:
            yield given
        else:
            yield from _null_terminated() if null else _lines()


def _lines() -> Iterator[str]:
    for line in sys.stdin.buffer:
        path = os.fsdecode(line.rstrip(b"\r\n"))
        if path:
            yield path


def _null_terminated() -> Iterator[str]:
    rest = b""
    stdin: Any = sys.stdin.buffer
    while block := stdin.read1(1 << 16):
        *whole, rest = (rest + block).split(b"\0")
        yield from (os.fsdecode(path) for path in whole if path)
    if rest:
        yield os.fsdecode(rest)


def finish(config: ReadConfig, unreadable: int) -> None:
    """End with exit code 3 when ``--strict`` and some input was unreadable."""
    if config.strict and unreadable:
        note(config, f"{unreadable} inputs were unreadable; exit code 3 because of --strict")
        raise typer.Exit(3)


def result_format(config: OutputConfig, otherwise: str) -> str:
    """Return the format to write: as given, by the file's suffix, table on a terminal, else ``otherwise``."""
    if config.format:
        return config.format
    output: Any = config.output
    if output is not None:
        return {".csv": "csv", ".jsonl": "jsonl", ".json": "json"}.get(Path(output).suffix, otherwise)
    return "table" if sys.stdout.isatty() else otherwise


def _is_main_process() -> bool:
    return os.environ.get("RANK", "0") == "0"
