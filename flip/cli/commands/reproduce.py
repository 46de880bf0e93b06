"""``flip reproduce``."""

from __future__ import annotations

import logging
import sys
import tempfile
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import typer

from flip.cli.config import FileOutput, ReadOptions
from flip.cli.context import Context, finish, implied_model, progress
from flip.cli.options import command
from flip.diffusion.settings import CheckpointSettings
from flip.errors import ConfigError
from flip.files import json_text, plain
from flip.settings import option, settings_from
from flip.studies.settings import ReproduceSettings

if TYPE_CHECKING:
    from flip.studies.reproduce import Reproduction

log = logging.getLogger("flip.cli")


@dataclass(frozen=True, kw_only=True)
class ReproduceOptions(ReadOptions, ReproduceSettings, CheckpointSettings):
    """``flip reproduce``."""

    run: Path | None = option(
        None, "Keep a run folder for each row, the fine-tuned models and the tables in this folder."
    )
    resume: bool = option(False, "Go on with the rows that the --run folder lacks.")
    overwrite: bool = option(False, "Begin again in the --run folder.")
    dry_run: bool = option(False, "List the rows with their cost, and run none.")
    format: Literal["table", "json", "csv", "markdown"] | None = option(
        None, "How the table is written; table on a terminal, otherwise json."
    )
    output: Path | None = option(
        None, "Write the table to this file (.json, .csv or .md) instead of stdout.", writes="text"
    )

    def __post_init__(self) -> None:
        ReadOptions.__post_init__(self)
        ReproduceSettings.__post_init__(self)
        if self.resume and self.run is None:
            raise ConfigError("--resume goes on with the rows of a folder; pass --run with it")


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "reproduce", ReproduceOptions)(reproduce)


def reproduce(options: ReproduceOptions) -> None:
    """Run every row of the FLIP paper's table twice: under the paper's protocol, and clean.

    The paper's protocol has its leaks: raw names, unnormalised features, the test photos' own captions, k and the epoch
    chosen on the test photos, fine-tuning on them; what was chosen on test is marked. The clean rows take nothing from
    the test photos. With --run an interrupted table is resumed row by row.
    """
    from flip.cli.predicting import require_meaning
    from flip.device import has_siblings
    from flip.studies.paper_rows import ROWS, select

    if has_siblings():
        raise ConfigError("flip reproduce runs in one process; start it without accelerate launch")
    rows = select(ROWS, options.only)
    context = Context(options)
    dataset = context.dataset
    dataset.require_photos()
    dataset.require_training_photos()
    require_meaning(context, "test")
    # Fine-tuned models need a folder; without --run it is gone at the end.
    kept = nullcontext(str(options.run)) if options.run else tempfile.TemporaryDirectory()
    with kept as folder:
        reproduction = _reproduction(options, context, Path(folder), rows)
        if options.dry_run:
            lines = reproduction.plan()
            _write_plan(options, lines)
            log.info("about %.0f minutes in all", sum(line["seconds"] for line in lines) / 60)
            return
        reproduction.claim(resume=options.resume, overwrite=options.overwrite)
        total = sum(1 for row in rows for _ in row.runs())
        with progress(options, "rows", total) as advance:
            table = reproduction.run(advance)
        _write(options, table)
    finish(options, reproduction.bench.features().unreadable)


def _reproduction(options: ReproduceOptions, context: Context, folder: Path, rows: list[Any]) -> Reproduction:
    from flip.studies.paper_bench import Bench
    from flip.studies.reproduce import Reproduction

    bench = Bench(
        dataset=context.dataset,
        data=context.data_name,
        extractor=context.extractor,
        folder=folder,
        settings=settings_from(options, ReproduceSettings),
        open_checkpoint=_open_checkpoint(options),
        seed=options.seed,
        # A bar inside the bar of the rows would overwrite it.
        bars=lambda title, total: nullcontext(),
    )
    return Reproduction(bench, rows, plain(asdict(options)), folder if options.run else None)


def _open_checkpoint(options: ReproduceOptions) -> Any:
    """Return what loads ``--ckpt``; None where there is none."""
    ckpt = options.ckpt or implied_model(options)
    if ckpt is None:
        return None

    def load() -> Any:
        from flip.diffusion.checkpoint import load_pipeline

        return load_pipeline(ckpt, base=options.base, ema=not options.no_ema, cache=options.cache)

    return load


def _write_plan(options: ReproduceOptions, lines: list[dict[str, Any]]) -> None:
    from flip.cli.output import write_rows

    form: Any = options.format if options.format != "markdown" else "table"
    write_rows(FileOutput(format=form, output=options.output), "flip reproduce", lines)


def _write(options: ReproduceOptions, table: dict[str, Any]) -> None:
    from flip.cli.output import write_result, write_rows
    from flip.studies.reproduce import csv_text, flat, markdown

    form = options.format or _by_suffix(options.output)
    if form == "table":
        write_rows(
            FileOutput(format="table", output=options.output), _title(table), list(map(_for_people, flat(table)))
        )
        return
    texts = {"csv": csv_text, "markdown": markdown}
    text = texts[form](table) if form in texts else json_text(table, indent=2) + "\n"
    write_result(options.output, text)


def _by_suffix(output: Path | None) -> str:
    if output is None:
        return "table" if sys.stdout.isatty() else "json"
    return {".csv": "csv", ".md": "markdown"}.get(output.suffix, "json")


def _title(table: dict[str, Any]) -> str:
    return f"flip reproduce: {table['data']}, {table['model']}, {table['n']:,} test photos"


def _for_people(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row as a terminal shows it."""
    low, high = row["ci95_low"], row["ci95_high"]
    best = row["best_on_test"]
    return {
        "row": row["row"],
        "the paper": None if row["quoted_top1"] is None else f"{row['quoted_top1']:.2f}",
        "protocol": row["protocol"],
        "top-1": row["left_out"] if row["top1"] is None else row["top1"],
        "95 %": None if low is None else f"{low:.1f} to {high:.1f}",
        "chosen on test": None if best is None else f"{best:.1f} ({row['best_on_test_choice']})",
        "seconds": None if row["seconds"] is None else f"{row['seconds']:.1f}",
    }
