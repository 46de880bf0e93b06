"""The paper's table on any data: every row under the paper's protocol and clean, resumable row by row."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from flip.errors import ConfigError, FlipError
from flip.files import claim_folder, plain, require_same_key, write_json, write_text
from flip.reading import read_json
from flip.results import FORMAT, RESULT_FILE, Evaluation, Run, write_run
from flip.settings import Progress
from flip.studies import paper_rows
from flip.studies.paper_bench import AUGMENTED, CLEAN, PAPER, TUNED, Bench
from flip.studies.paper_rows import Row

log = logging.getLogger(__name__)

#: The mark of a reproduction's folder, and the tables in it.
MARK, TABLE_JSON, TABLE_MARKDOWN, TABLE_CSV = "reproduce.json", "table.json", "table.md", "table.csv"

#: Seconds of a multiplication and what goes with it in a fit, on one core.
SECONDS_PER_PRODUCT = 2e-9

#: Settings that change no row that was run.
FREE_SETTINGS = frozenset(["only"])


@dataclass
class Reproduction:
    """Some rows of the paper's table on one bench.

    Attributes
    ----------
    bench : Bench
    rows : sequence of Row
    config : mapping
        The command's options, kept with every row.
    folder : Path or None
        Gets a run folder for each row and protocol, ``<row>/<protocol>``, and the tables.
    """

    bench: Bench
    rows: Sequence[Row]
    config: Mapping[str, Any]
    folder: Path | None = None

    def claim(self, *, resume: bool, overwrite: bool) -> None:
        """Make the folder, or check that its rows are of the same data, model and settings.

        Raises
        ------
        ConfigError
            If it holds other work, or a reproduction and neither ``resume`` nor ``overwrite`` is given.
        """
        if self.folder is None:
            return
        key = self._key()
        ours = claim_folder(self.folder, MARK, overwrite=overwrite, flag="--run")
        if ours and not overwrite:
            if not resume:
                raise ConfigError(f"--run {self.folder} holds a reproduction; pass --resume to go on, or --overwrite")
            before = read_json(self.folder / MARK)["key"]
            require_same_key(self.folder, before, key, "pass them as they were, or --overwrite to begin again")
        elif ours:
            for name in (*(row.name for row in paper_rows.ROWS), TUNED, AUGMENTED):
                shutil.rmtree(self.folder / name, ignore_errors=True)
        write_json(self.folder / MARK, {"command": "reproduce", "format": FORMAT, "key": key})

    def run(self, progress: Progress | None = None) -> dict[str, Any]:
        """Run the rows that are not there yet, and return and write the table.

        A row that cannot be run, such as one that needs captions that some photos lack, has its reason in place of a
        number.

        Parameters
        ----------
        progress : callable, optional
            Called with 1 after each row and protocol.
        """
        began = time.perf_counter()
        test = self.bench.features().split("test").require_readable("test")
        rows = []
        for row in self.rows:
            cells: dict[str, Any] = {PAPER: None, CLEAN: None}
            for protocol, _ in row.runs():
                cells[protocol] = self._cell(row, protocol)
                if progress:
                    progress(1)
            rows.append({"row": row.name, "title": row.title, "quoted": asdict(row.quoted), **cells})
            self._write(rows, began, len(test))
        return self._table(rows, began, len(test))

    def plan(self) -> list[dict[str, Any]]:
        """Return a line for each row and protocol that is still to be run: its cost, and what it shares with others.

        ``seconds`` is a rough estimate, from the time that this machine takes for a few photos; what several rows share
        counts for the first of them, and the drawing of images for none.
        """
        lines, shared = [], set[str]()
        second = self._second_per_photo()
        for row in self.rows:
            for protocol, _ in row.runs():
                if self._finished(row, protocol) is not None:
                    continue
                needs = self.bench.needs(row.tuned, protocol, raw=row.family != "zero-shot", drawn=row.drawn)
                passes = sum(count for what, count in needs.items() if what not in shared)
                shared.update(needs)
                fits = self._fits(row, protocol)
                seconds = passes * second + fits * self._second_per_fit(row, protocol)
                cost = {"fits": fits, "needs": "; ".join(needs), "seconds": round(seconds, 1)}
                lines.append({"row": row.name, "protocol": protocol, "paper": row.quoted.top1, **cost})
        return lines

    def _fits(self, row: Row, protocol: str) -> int:
        fits = row.fits[protocol == CLEAN]
        return fits * self.bench.settings.seeds if row.family == "few-shot" and protocol == CLEAN else fits

    def _second_per_photo(self) -> float:
        """Return the seconds in which this machine encodes a photo; 0 where that cannot be measured."""
        from flip.clip.encoder import PlaceableEncoder
        from flip.clip.precision import seconds_per_batch

        extractor = self.bench.extractor
        if not isinstance(extractor.model, PlaceableEncoder):
            return 0.0
        return seconds_per_batch(extractor.model, extractor.placement, extractor.precision) / 8

    def _second_per_fit(self, row: Row, protocol: str) -> float:
        bench = self.bench
        train, width = bench.used.splits.get("train", 0), bench.extractor.model.dim
        return train * width * len(bench.dataset.classnames) * row.passes[protocol == CLEAN] * SECONDS_PER_PRODUCT

    def _cell(self, row: Row, protocol: str) -> dict[str, Any]:
        evaluation = self._finished(row, protocol)
        if evaluation is None:
            try:
                evaluation = self._run_row(row, protocol)
            except FlipError as e:
                log.info("%s, %s: left out: %s", row.name, protocol, e)
                return {"left_out": str(e)}
        cell = _cell_of(evaluation)
        log.info("%s, %s: %.1f %%", row.name, protocol, cell["top1"])
        return cell

    def _run_row(self, row: Row, protocol: str) -> Evaluation:
        run = dict(row.runs())[protocol]
        began, shared = time.perf_counter(), sum(self.bench.seconds.values())
        outcome = run(self.bench)
        shared = sum(self.bench.seconds.values()) - shared
        # What a row is first to ask for, such as the fine-tuned model, is not its own cost.
        seconds = time.perf_counter() - began - shared
        evaluation = replace(outcome.evaluation, seconds=seconds)
        if self.folder is not None:
            config = {**self.config, "row": row.name, "protocol": protocol}
            data = self.bench.dataset.select("test").fingerprint()
            own = self.folder / row.name / protocol
            write_run(own, evaluation, outcome.rows(), config, data, outcome.features.fingerprint)
        return evaluation

    def _finished(self, row: Row, protocol: str) -> Evaluation | None:
        """Return the result of a row that an earlier call finished."""
        if self.folder is None or not (self.folder / row.name / protocol / RESULT_FILE).is_file():
            return None
        return Run.open(self.folder / row.name / protocol).evaluation

    def _key(self) -> dict[str, Any]:
        bench = self.bench
        settings = {name: value for name, value in asdict(bench.settings).items() if name not in FREE_SETTINGS}
        made = {"data": bench.dataset.fingerprint(), "model": bench.extractor.fingerprint, "seed": bench.seed}
        key: dict[str, Any] = plain({**settings, **made})
        return key

    def _table(self, rows: Sequence[Mapping[str, Any]], began: float, n: int) -> dict[str, Any]:
        bench = self.bench
        return {
            "command": "reproduce",
            "format": FORMAT,
            "data": bench.data,
            "model": bench.extractor.model.name,
            "precision": bench.extractor.precision,
            "n": n,
            "classes": len(bench.dataset.classnames),
            "settings": asdict(bench.settings),
            "rows": list(rows),
            "prepared": {name: round(seconds, 1) for name, seconds in bench.seconds.items()},
            "seconds": time.perf_counter() - began,
        }

    def _write(self, rows: Sequence[Mapping[str, Any]], began: float, n: int) -> None:
        if self.folder is None:
            return
        table = self._table(rows, began, n)
        write_json(self.folder / TABLE_JSON, table)
        write_text(self.folder / TABLE_MARKDOWN, markdown(table))
        write_text(self.folder / TABLE_CSV, csv_text(table))


def _cell_of(evaluation: Evaluation) -> dict[str, Any]:
    """Return what the table shows of a result; of a few-shot row the mean and interval over the draws."""
    details = evaluation.details
    cell: dict[str, Any] = {"top1": evaluation.top1, "ci95": list(evaluation.ci95), "n": evaluation.n}
    if "shots" in details:
        own = details["shots"][0]
        cell |= {"top1": own["top1"], "ci95": own["ci95"], "draws": own["seeds"]}
    for name in ("best_on_test", "gain"):
        if name in details:
            cell[name] = details[name]
    return cell | {"seconds": evaluation.seconds}


#: Columns of the table as CSV.
COLUMNS = (
    *("row", "title", "quoted_top1", "quoted_best_on_test", "quoted_note", "protocol", "top1", "ci95_low"),
    *("ci95_high", "draws", "best_on_test", "best_on_test_choice", "gain", "n", "seconds", "left_out"),
)


def flat(table: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield a mapping of ``COLUMNS`` for each row and protocol of a table."""
    for row in table["rows"]:
        quoted = {f"quoted_{name}": value for name, value in row["quoted"].items()}
        for protocol in (PAPER, CLEAN):
            cell = row[protocol]
            if cell is None:
                continue
            low, high = cell.get("ci95") or (None, None)
            best = cell.get("best_on_test") or {}
            found = {**cell, "ci95_low": low, "ci95_high": high, "gain": cell.get("gain", {}).get("difference")}
            found |= {"best_on_test": best.get("top1"), "best_on_test_choice": best.get("choice")}
            own = {"row": row["row"], "title": row["title"], **quoted, "protocol": protocol, **found}
            yield {name: own.get(name) for name in COLUMNS}


def csv_text(table: Mapping[str, Any]) -> str:
    """Return a table as CSV."""
    import csv
    import io

    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat(table))
    return text.getvalue()


def markdown(table: Mapping[str, Any]) -> str:
    """Return a table as Markdown, with what its marks mean below it."""
    lines = [
        "| row | the paper, on CUB | its protocol here | clean |",
        "|---|---|---|---|",
        *(
            f"| {row['title']} | {_quoted(row['quoted'])} | {_shown(row[PAPER])} | {_shown(row[CLEAN])} |"
            for row in table["rows"]
        ),
    ]
    below = (
        f"Top-1 in percent on {table['n']:,} test photos of {table['classes']} classes of {table['data']}, model "
        f"{table['model']} in {table['precision']}; in brackets the 95 % interval and the seconds of the row itself. "
        "† chosen on the test photos, as the paper did."
    )
    return "\n".join([*lines, "", below, ""])


def _quoted(quoted: Mapping[str, Any]) -> str:
    parts = [] if quoted["top1"] is None else [f"{quoted['top1']:.2f}"]
    if quoted["best_on_test"] is not None:
        parts.append(f"{quoted['best_on_test']:.2f} †")
    return ", ".join(parts) or "–"


def _shown(cell: Mapping[str, Any] | None) -> str:
    if cell is None:
        return "–"
    if "left_out" in cell:
        return f"left out: {cell['left_out']}"
    interval = f"{cell['ci95'][0]:.1f} to {cell['ci95'][1]:.1f}; " if cell["ci95"] else ""
    shown = f"{cell['top1']:.1f} ({interval}{cell['seconds']:.1f} s)"
    if best := cell.get("best_on_test"):
        shown += f", {best['top1']:.1f} † at {best['choice']}"
    if gain := cell.get("gain"):
        shown += f", {gain['difference']:+.1f} ({gain['ci95'][0]:+.1f} to {gain['ci95'][1]:+.1f}) by the images"
    return shown
