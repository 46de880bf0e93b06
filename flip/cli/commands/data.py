"""``flip data``: what a folder holds and what is wrong with it, datasets from their addresses, and the drawn sample."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import typer

from flip import names
from flip.cli.config import CacheOptions, DataOptions, FileOutput, FolderOutput, ReadOptions
from flip.cli.context import Context, progress
from flip.cli.help import help_without_command
from flip.cli.options import command
from flip.cli.output import result_format, write_summary
from flip.errors import ConfigError, ModelError
from flip.results import FORMAT
from flip.settings import option
from flip.studies.audit_settings import AuditSettings

if TYPE_CHECKING:
    from flip.data.dataset import Dataset
    from flip.features import Features

log = logging.getLogger("flip.cli")

#: Archives that ``flip data get`` knows; ``flip.data.fetch.ARCHIVES`` has their addresses.
ARCHIVES = ("cub",)


@dataclass(frozen=True, kw_only=True)
class FolderArgument:
    """The data as an argument."""

    folder: str | None = option(None, "Folder or manifest; the same as --data.")


@dataclass(frozen=True, kw_only=True)
class InfoOptions(FolderArgument, DataOptions, CacheOptions, FileOutput):
    """``flip data info``."""


@dataclass(frozen=True, kw_only=True)
class CheckOptions(FolderArgument, AuditSettings, ReadOptions, FileOutput):
    """``flip data check``."""

    strict: bool = option(False, "Exit with 1 when something was found.")

    def __post_init__(self) -> None:
        ReadOptions.__post_init__(self)
        AuditSettings.__post_init__(self)


@dataclass(frozen=True, kw_only=True)
class GetOptions(CacheOptions, FolderOutput):
    """``flip data get``."""

    archive: str | None = option(None, "cub: CUB-200-2011, 11,788 photos of 200 birds, 1.1 GB.", choices=ARCHIVES)
    output: Path | None = option(None, "Folder to unpack into. [default: the name]")


@dataclass(frozen=True, kw_only=True)
class SampleOptions(FolderOutput):
    """``flip data sample``."""

    output: Path | None = option(None, "Folder to write, in the layout of CUB-200-2011. [default: the name]")
    name: str = option(
        names.SAMPLE,
        "sample: 24 species, 960 photos; sample-train: 400 others, 5,200 photos.",
        choices=names.SAMPLE_DATA,
    )
    seed: int = option(0, "Seed of the individuals; the species stay the same.")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(invoke_without_command=True, callback=data, rich_markup_mode=None)
    command(group, "info", InfoOptions)(info)
    command(group, "check", CheckOptions)(check)
    command(group, "get", GetOptions)(get)
    command(group, "sample", SampleOptions)(sample)
    app.add_typer(group, name="data")


def data(context: typer.Context) -> None:
    """Look at a dataset before anything is embedded."""
    help_without_command(context)


def info(options: InfoOptions) -> None:
    """Say what the data was recognised as: layout, splits, classes, sizes, captions, and what was left out."""
    from flip.data.summary import summarise

    context = Context(_with_data(options))
    summary = {**summarise(context.dataset), "copies": _repeated(context.dataset)}
    if result_format(options, "json") in ("table", "csv"):
        # Lists of rows have no place in a table of two columns; the counts of all classes are long.
        summary.pop("per_class", None)
        summary = {key: _in_short(value) for key, value in summary.items()}
    write_summary(
        options, "flip data info", {"command": "data info", "format": FORMAT, "data": context.data_name, **summary}
    )


def check(options: CheckOptions) -> None:
    """Search the data for what spoils training and its numbers: broken files, copies, leaks, wrong labels, outliers.

    Nothing is changed. --write-clean FILE writes a manifest without the photos that were found, which --data reads.
    """
    from flip.cli.audit_output import draw_findings, write_audit, write_ranking
    from flip.data.manifest_file import write_manifest
    from flip.studies.audit import audit

    context = Context(_with_data(options))
    dataset = context.dataset
    features = _features(options, context)
    if not context.is_main:
        return
    with progress(options, "photos", len(dataset)) as advance:
        found = audit(
            dataset,
            features,
            checks=options.checks,
            few=options.few,
            seed=options.seed,
            workers=options.workers,
            progress=advance,
        )
    for name, note in found.notes.items():
        log.info("%s: %s", name, note)
    if options.ranking:
        write_ranking(options.ranking, found)
    if options.sheet:
        count = draw_findings(options.sheet, found)
        log.info("%s: %s", options.sheet, f"{count} photos" if count else "nothing to draw, so it is not written")
    if options.write_clean:
        clean = found.clean()
        write_manifest(clean, options.write_clean)
        log.info("%s: %d of %d photos", options.write_clean, len(clean), len(dataset))
    write_audit(options, context.data_name, context.model_name if features is not None else None, found)
    if options.strict and found.findings:
        raise typer.Exit(1)


def get(options: GetOptions) -> None:
    """Fetch a dataset from its official address, check it and unpack it; a broken download is continued."""
    from flip.data.fetch import ARCHIVES as KNOWN
    from flip.data.fetch import fetch
    from flip.files import cache_folder, claim_folder

    if options.archive is None:
        raise typer.BadParameter(f"name what to fetch: {', '.join(ARCHIVES)}")
    archive = KNOWN[options.archive]
    folder = (options.output or Path(archive.name)).expanduser()
    if claim_folder(folder, f"{archive.folder}/images.txt", overwrite=options.overwrite) and not options.overwrite:
        log.info("%s is there already; read it with --data %s", folder / archive.folder, folder)
        return
    with progress(options, "bytes", archive.size or None) as advance:
        fetch(archive, folder, cache_folder(options.cache) / "downloads", advance)
    log.info("%s; read it with --data %s", folder / archive.folder, folder)


def sample(options: SampleOptions) -> None:
    """Write the drawn birds into a folder as CUB-200-2011 is laid out: photos, classes, split and captions."""
    from flip.device import cpu_count
    from flip.sample.fieldguide import sample_guide, sample_train_guide, write_guide

    guide = (sample_guide if options.name == names.SAMPLE else sample_train_guide)(options.seed)
    folder = (options.output or Path(options.name)).expanduser()
    with progress(options, "photos", len(guide.species) * guide.photos) as advance:
        write_guide(guide, folder, workers=cpu_count(), progress=advance)
    log.info("%s: %d species, %d photos each; read it with --data %s", folder, len(guide.species), guide.photos, folder)


Opened = TypeVar("Opened", InfoOptions, CheckOptions)


def _with_data(options: Opened) -> Opened:
    """Return the options with the argument as ``--data``; one that is given is stronger than FLIP_DATA."""
    if options.folder is None:
        return options
    if options.data not in (None, options.folder, os.environ.get("FLIP_DATA")):
        raise ConfigError(f"{options.folder} and --data {options.data} are two datasets; pass one")
    return replace(options, data=options.folder)


def _features(options: CheckOptions, context: Context) -> Features | None:
    """Return the embeddings where a check looks at them; None where no model was named and none is here."""
    from flip.studies.audit import LOOK_AT_FEATURES

    if not LOOK_AT_FEATURES & set(options.checks):
        return None
    try:
        return context.features(context.dataset, with_model=not context.needs_no_model)
    except ModelError as error:
        if options.model is not None:
            raise
        log.warning("without a model labels and outliers are not judged: %s", error)
        return None


def _repeated(dataset: Dataset) -> int | None:
    """Return how many files have the bytes of another file before them."""
    from flip.data.audit import Subject

    return None if dataset.embeddings else sum(len(group) - 1 for group in Subject(dataset).equal_files)


def _in_short(value: object) -> object:
    """Return a mapping as text, and a list of mappings as a list of texts."""
    if isinstance(value, dict):
        if {"label", "n"} <= value.keys():
            return f"{value['label']}, {value['n']}"
        if {"kind", "count", "first"} <= value.keys():
            return f"{value['kind']} ({value['count']}), the first {value['first']}"
        return ", ".join(f"{key} {_in_short(item)}" for key, item in value.items()) or None
    if isinstance(value, list):
        return tuple(_in_short(item) for item in value) if value and isinstance(value[0], dict | str) else value
    return value
