"""Results as a person or a program reads them: Rich tables on a terminal, json, jsonl and csv elsewhere."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from flip.cli.context import note, result_format
from flip.config import OutputConfig, PredictConfig
from flip.errors import ConfigError
from flip.files import claim_folder, plain, write_text
from flip.results import PREDICTION_COLUMNS, Evaluation, Prediction, RowWriter, write_predictions, write_run

if TYPE_CHECKING:
    from rich.table import Table


def write_evaluation(config: OutputConfig, evaluation: Evaluation) -> None:
    """Write an evaluation to stdout or ``-o``, in the format asked for."""
    form = result_format(config, "json")
    if form == "table":
        text = _table_text(_evaluation_tables(evaluation), config.output)
    elif form == "csv":
        text = _evaluation_csv(evaluation)
    else:
        text = json.dumps(evaluation.to_dict(), indent=None if form == "jsonl" else 2, ensure_ascii=False) + "\n"
    _write(config.output, text)


def write_summary(config: OutputConfig, title: str, summary: dict[str, Any], output: Path | None = None) -> None:
    """Write a flat mapping to stdout or a file: a table of two columns, json, or csv of one row."""
    form = result_format(config, "json") if output is None and config.format is None else config.format or "table"
    if form == "table":
        text = _table_text([_pairs(title, summary)], output)
    elif form == "csv":
        text = ",".join(summary) + "\n" + ",".join(_csv(v) for v in summary.values()) + "\n"
    else:
        text = json.dumps(plain(summary), ensure_ascii=False, indent=None if form == "jsonl" else 2) + "\n"
    _write(output, text)


def write_rows(config: OutputConfig, title: str, rows: Sequence[dict[str, Any]]) -> None:
    """Write a list of like mappings: a table, json, jsonl or csv."""
    form = result_format(config, "jsonl")
    if form == "table":
        text = _table_text([_grid(title, rows)], config.output)
    elif form == "csv":
        header = list(rows[0]) if rows else []
        text = "".join(",".join(cells) + "\n" for cells in [header, *([_csv(v) for v in r.values()] for r in rows)])
    elif form == "json":
        text = json.dumps(plain(list(rows)), ensure_ascii=False, indent=2) + "\n"
    else:
        text = "".join(json.dumps(plain(row), ensure_ascii=False) + "\n" for row in rows)
    _write(config.output, text)


def save_evaluation(
    config: PredictConfig, evaluation: Evaluation, rows: Iterable[Prediction], data: str, model: str
) -> None:
    """Write what ``--predictions`` and ``--run`` ask for; ``data`` and ``model`` are fingerprints."""
    if not (config.predictions or config.run):
        return
    written = list(rows)
    if config.predictions:
        write_predictions(config.predictions, written)
    if config.run:
        claim_folder(config.run, flag="--run")
        write_run(config.run, evaluation, written, plain(asdict(config)), data, model)
        note(config, f"saved in {config.run}")


@contextmanager
def prediction_writer(config: PredictConfig) -> Iterator[Callable[[Prediction], None]]:
    """Yield a function that writes a prediction row to stdout or ``-o`` and flushes it."""
    form = result_format(config, "jsonl")
    with _stream(config.output) as stream:
        if form == "table":
            yield lambda row: _write_line(stream, row)
            return
        writer = RowWriter(stream, form, PREDICTION_COLUMNS)
        yield lambda row: writer.write(row.to_dict())
        writer.close()


def _write_line(stream: TextIO, row: Prediction) -> None:
    """Write one line per photo, for a terminal: rows appear as they come, so columns have fixed widths."""
    if row.error is not None:
        stream.write(f"{row.path}  {row.error}\n")
    else:
        stream.write(f"{row.label or '(unsure)':<32} {100 * row.score:5.1f} %  {row.path}\n")
    for neighbor in row.neighbors or ():
        stream.write(f"    {neighbor.score:.3f}  {neighbor.label:<28} {neighbor.path}\n")
    stream.flush()


@contextmanager
def _stream(file: Path | None) -> Iterator[TextIO]:
    """Yield stdout or a file that is written row by row, so that an interrupted run keeps its rows."""
    if file is None:
        yield sys.stdout
        return
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("w", encoding="utf-8", newline="") as stream:
            yield stream
    except OSError as e:
        raise ConfigError(f"{file} cannot be written ({e.strerror}); pass a file in a folder that can") from e


def _write(file: Path | None, text: str) -> None:
    if file is not None:
        write_text(file, text)
    else:
        sys.stdout.write(text)
        sys.stdout.flush()


def _evaluation_tables(e: Evaluation) -> list[Table]:
    low, high = e.ci95
    head = {
        "data": f"{e.data} ({e.split}: {e.n} photos, {e.classes} classes)",
        "model": e.model,
        "top-1": f"{e.top1:.1f} %   95 % interval {low:.1f} to {high:.1f}",
        "top-5": f"{e.top5:.1f} %",
        "mean per class": f"{e.mean_per_class:.1f} %",
        **({"calibration error": f"{e.details['ece']:.3f}"} if "ece" in e.details else {}),
        **_flat(e.protocol),
        "unreadable": e.unreadable,
        "seconds": f"{e.seconds:.1f}",
    }
    tables = [_pairs(f"flip {e.command}", head)]
    # The reliability curve's bins are for a program or a picture; its summary is in the head.
    shown = {
        name: rows for name, rows in e.details.items() if isinstance(rows, list) and rows and name != "reliability"
    }
    tables += [_grid(name, rows) for name, rows in shown.items()]
    hardest = sorted(e.per_class, key=lambda row: row["top1"])[:5]
    return [*tables, _grid("hardest classes", hardest)]


def _flat(protocol: dict[str, Any]) -> dict[str, Any]:
    """Return a protocol with the items of its mappings beside the others."""
    rows: dict[str, Any] = {}
    for key, value in protocol.items():
        rows |= _flat(value) if isinstance(value, dict) else {key.replace("_", " "): value}
    return rows


def _pairs(title: str, values: dict[str, Any]) -> Table:
    from rich.table import Table

    table = Table(title=title, title_justify="left", show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column()
    for key, value in values.items():
        table.add_row(key, _cell(value))
    return table


def _grid(title: str, rows: Sequence[dict[str, Any]]) -> Table:
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for key in rows[0] if rows else ():
        table.add_column(key.replace("_", " "))
    for row in rows:
        table.add_row(*(_cell(value) for value in row.values()))
    return table


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.1f}" if abs(value) >= 1 or value == 0 else f"{value:.3f}"
    if isinstance(value, (list, tuple)):
        return ", ".join(_cell(v) for v in value)
    return "–" if value is None else str(value)


def _csv(value: Any) -> str:
    text = "" if value is None else str(plain(value))
    return '"' + text.replace('"', '""') + '"' if any(ch in text for ch in ',"\n') else text


def _table_text(tables: Sequence[Table], file: Path | None) -> str:
    from io import StringIO

    from rich.console import Console

    to_terminal = file is None and sys.stdout.isatty()
    buffer = StringIO()
    console = Console(file=buffer, force_terminal=to_terminal, width=None if to_terminal else 120)
    for i, table in enumerate(tables):
        if i:
            console.print()
        console.print(table)
    return buffer.getvalue()


#: Columns of an evaluation as csv.
_EVALUATION_COLUMNS = (
    *("command", "data", "model", "split", "n", "classes", "top1", "ci95_low", "ci95_high"),
    *("top5", "mean_per_class", "unreadable", "seconds"),
)


def _evaluation_csv(evaluation: Evaluation) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, _EVALUATION_COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    low, high = evaluation.ci95
    writer.writerow({**evaluation.to_dict(), "ci95_low": low, "ci95_high": high})
    return text.getvalue()
