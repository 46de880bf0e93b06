"""Results as a person or a program reads them: Rich tables on a terminal, json, jsonl and csv elsewhere."""

from __future__ import annotations

import csv
import io
import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from flip.cli.config import FileOutput, FormatOptions, PredictOptions
from flip.cli.evaluation_table import evaluation_tables
from flip.cli.tables import grid, pairs, table_text
from flip.files import (
    KEEP_NAMES,
    JsonObject,
    claim_folder,
    is_special,
    json_text,
    open_special,
    open_to_write,
    write_text,
    write_whole,
    written_aside,
)
from flip.results import (
    Evaluation,
    Prediction,
    RowWriter,
    csv_cells,
    prediction_columns,
    write_predictions,
    write_run,
)
from flip.shown import shown

if TYPE_CHECKING:
    from flip.data.dataset import Box, Dataset
    from flip.studies.protocol import Outcome

log = logging.getLogger("flip.cli")

#: Columns of an evaluation as csv.
EVALUATION_COLUMNS = (
    *("command", "data", "model", "split", "n", "classes", "top1", "ci95_low", "ci95_high"),
    *("top5", "mean_per_class", "unreadable", "seconds", "format"),
)

#: Further columns of a few-shot evaluation.
SHOT_COLUMNS = ("shots", "seeds", "head")


def output_file(options: FormatOptions) -> Path | None:
    """Return the file of ``-o``; where ``-o`` is a folder, results go to stdout."""
    return options.output if isinstance(options, FileOutput) else None


def result_format(options: FormatOptions, otherwise: str) -> str:
    """Return the format to write: as given, by the file's suffix, table on a terminal, else ``otherwise``."""
    if options.format:
        return options.format
    file = output_file(options)
    if file is not None:
        return {".csv": "csv", ".jsonl": "jsonl", ".json": "json"}.get(file.suffix, otherwise)
    return "table" if sys.stdout.isatty() else otherwise


def write_evaluation(options: FormatOptions, evaluation: Evaluation) -> None:
    """Write an evaluation to stdout or ``-o``, in the format asked for."""
    form, file = result_format(options, "json"), output_file(options)
    if form == "table":
        text = table_text(evaluation_tables(evaluation, verbose=options.verbose), file)
    elif form == "csv":
        columns = (*EVALUATION_COLUMNS, *(SHOT_COLUMNS if "shots" in evaluation.details else ()))
        text = _csv_text(list(_csv_rows(evaluation)), columns, safe=options.csv_safe)
    else:
        text = _json_text(evaluation.to_dict(), form)
    write_result(file, text)


def _csv_rows(evaluation: Evaluation) -> Iterator[JsonObject]:
    """Yield the evaluation as csv has it; of a few-shot run one row for each number of shots, with means over draws."""
    row = evaluation.to_dict()
    for own in row.get("shots", [row]):
        # Top-level numbers belong to one named draw; rows with several draws hold means, so these stay empty.
        shared = {k: v for k, v in row.items() if own is row or k not in ("top5", "mean_per_class", "seconds")}
        low, high = own["ci95"] or (None, None)
        yield {**shared, **own, "ci95_low": low, "ci95_high": high}


def write_summary(options: FormatOptions, title: str, summary: Mapping[str, object]) -> None:
    """Write a flat mapping to stdout or ``-o``: a table of two columns, json, or csv of one row."""
    form, file = result_format(options, "json"), output_file(options)
    if form == "table":
        text = table_text([pairs(title, _told(summary))], file)
    elif form == "csv":
        text = _csv_text([summary], tuple(summary), safe=options.csv_safe)
    else:
        text = _json_text(summary, form)
    write_result(file, text)


def _told(summary: Mapping[str, object]) -> dict[str, object]:
    """Drop the keys that the title repeats, and empty values, from a summary."""
    said = ("command", "format")
    return {k.replace("_", " "): v for k, v in summary.items() if k not in said and v not in (None, "", [], {})}


def write_rows(options: FormatOptions, title: str, rows: Sequence[Mapping[str, object]]) -> None:
    """Write a list of like mappings to stdout or ``-o``: a table, json, jsonl or csv."""
    form, file = result_format(options, "jsonl"), output_file(options)
    if form == "table":
        text = table_text([grid(title, rows)], file)
    elif form == "csv":
        text = _csv_text(rows, tuple(rows[0]) if rows else (), safe=options.csv_safe)
    elif form == "json":
        text = _json_text(list(rows), form)
    else:
        text = "".join(_json_text(row, form) for row in rows)
    write_result(file, text)


def report_outcome(
    options: PredictOptions,
    outcome: Outcome,
    rows: Sequence[Prediction],
    dataset: Dataset,
    made: Mapping[str, object],
) -> None:
    """Write an evaluation, and its prediction rows where the options ask for them.

    ``made`` is what a run keeps of how it was made: see :func:`flip.results.write_run`.
    """
    if options.predictions:
        write_predictions(options.predictions, rows, dataset.root, csv_safe=options.csv_safe)
    if options.run:
        claim_folder(options.run, flag="--run")
        fingerprints = dataset.fingerprint(), outcome.features.fingerprint
        write_run(options.run, outcome.evaluation, rows, asdict(options), *fingerprints, made)
        log.info("saved in %s", options.run)
    show_photos(options, rows, dataset.root, dataset.frames)
    write_evaluation(options, outcome.evaluation)


def show_photos(
    options: PredictOptions, rows: Sequence[Prediction], root: Path, frames: Mapping[str, Box] | None = None
) -> None:
    """Draw the contact sheet of ``--sheet``, and sort photos into the folders of ``--copy-to``."""
    if options.sheet is not None:
        from flip.report.sheet import contact_sheet_of

        count = contact_sheet_of(rows, root, options.sheet, frames=frames)
        log.info("%s shows %d photos", options.sheet, count)
    if options.copy_to is not None:
        from flip.report.sorting import copy_to

        placed = copy_to(rows, root, options.copy_to, link=options.link)
        log.info("%s: %d photos in %d folders", options.copy_to, placed.placed, placed.folders)


@contextmanager
def prediction_writer(options: PredictOptions) -> Iterator[Callable[[Prediction], None]]:
    """Yield a function that writes a prediction row to stdout or ``-o`` and flushes it."""
    form = result_format(options, "jsonl")
    with _stream(options.output) as stream:
        if form == "table":
            yield lambda row: _write_line(stream, row)
            return
        grouped = options.groups is not None and options.reject is not None
        columns = prediction_columns(options.top, rejects=options.reject is not None, grouped=grouped)
        writer = RowWriter(stream, form, columns, csv_safe=options.csv_safe)
        yield lambda row: writer.write(row.to_cells() if form == "csv" else row.to_dict())
        writer.close()


def _write_line(stream: TextIO, row: Prediction) -> None:
    """Write one line per photo, for a terminal: rows appear as they come, so columns have fixed widths."""
    if row.error is not None:
        text = f"{shown(row.path)}  {row.error}\n"
    else:
        label, score = row.label, row.score
        if label is None and row.surest is not None and row.surest.group_score is not None:
            label, score = f"({row.surest.rank} {row.surest.group})", row.surest.group_score
        text = f"{shown(label or '(unsure)'):<32} {100 * score:5.1f} %  {shown(row.path)}\n"
    for neighbor in row.neighbors or ():
        text += f"    {neighbor.score:.3f}  {shown(neighbor.label):<28} {shown(neighbor.path)}\n"
    write_whole(stream, text)


@contextmanager
def _stream(file: Path | None) -> Iterator[TextIO]:
    """Yield stdout, or a file that gets rows as they come.

    A plain file is replaced when the run ends. An interrupted or failed run leaves it as it was; where there was none,
    the rows of an interrupted run are kept. FIFOs and devices are written through.
    """
    if file is None:
        yield stdout()
        return
    if is_special(file):
        with open_special(file) as stream:
            yield stream
        return
    interrupted: KeyboardInterrupt | None = None
    before = file.is_file() and file.stat().st_size > 0
    with (
        written_aside(file, kind="text") as aside,
        open_to_write(aside) as stream,
    ):
        try:
            yield stream
        except KeyboardInterrupt as e:
            if before:
                log.warning("%s stays as it was; what was embedded is kept for the next run", file)
                raise
            interrupted = e
    if interrupted is not None:
        raise interrupted


def write_result(file: Path | None, text: str) -> None:
    """Write a result to a file, or to stdout where there is none."""
    if file is not None:
        write_text(file, text)
    else:
        stream = stdout()
        stream.write(text)
        stream.flush()


def stdout() -> TextIO:
    """Return stdout for results: what its encoding cannot hold is kept rather than refused."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors=KEEP_NAMES)
    return sys.stdout


def _json_text(value: object, form: str) -> str:
    return json_text(value, indent=None if form == "jsonl" else 2) + "\n"


def _csv_text(rows: Sequence[Mapping[str, object]], columns: Sequence[str], *, safe: bool) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        cells = csv_cells(row, safe=safe)
        writer.writerow([cells.get(name) for name in columns])
    return text.getvalue()
