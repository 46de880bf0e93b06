"""An audit as a person or a program reads it, and as a contact sheet."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from flip.cli.config import FileOutput
from flip.cli.output import output_file, result_format, write_result, write_rows, write_summary
from flip.cli.tables import grid, pairs, table_text
from flip.results import FORMAT

if TYPE_CHECKING:
    from rich.console import RenderableType

    from flip.data.audit import Finding
    from flip.results import Prediction
    from flip.studies.audit import Audit

#: Findings of a kind that a table lists, and paths that a summary names.
SHOWN, EXAMPLES = 5, 3


def write_audit(options: FileOutput, data: str, model: str | None, audit: Audit) -> None:
    """Write an audit to stdout or ``-o``: json whole, jsonl and csv as a row per finding, tables as both in short."""
    form = result_format(options, "json")
    if form == "json":
        write_summary(options, "", audit_report(data, model, audit))
    elif form == "table":
        rows = kinds(audit)
        told = rows if options.verbose else [row for row in rows if row["count"]]
        n = len(audit.findings)
        found = f"{n:,} finding{'s' * (n > 1)} in {len(audit.dataset):,} photos" if n else "nothing found"
        # Notes are on stderr, and examples below.
        short = [{k: v for k, v in row.items() if k not in ("examples", "note")} for row in told]
        tables: list[RenderableType] = [grid(f"flip data check {data}: {found} by {len(rows)} checks", short)]
        if n:
            lines = {check.name: tuple(map(_line, audit.of(check.name)[:SHOWN])) for check in audit.checks}
            more = f", at most {SHOWN} of a kind" if sum(map(len, lines.values())) < n else ""
            tables.append(pairs(f"findings{more}", {kind: some for kind, some in lines.items() if some}))
        file = output_file(options)
        write_result(file, table_text(tables, file))
    else:
        write_rows(options, "findings", [finding_row(finding) for finding in audit.findings])


def audit_report(data: str, model: str | None, audit: Audit) -> dict[str, object]:
    """Return everything that was found, as JSON has it."""
    return {
        "command": "data check",
        "format": FORMAT,
        "data": data,
        "model": model,
        "photos": len(audit.dataset),
        "classes": len(audit.dataset.classnames),
        "found": len(audit.findings),
        "photos_found": len({finding.path for finding in audit.findings if finding.path is not None}),
        "dropped": len(audit.dropped),
        "checks": kinds(audit),
        "rows": [finding_row(finding) for finding in audit.findings],
    }


def kinds(audit: Audit) -> list[dict[str, object]]:
    """Return one row per check that ran: its count, the first photos or classes, and what there is to know of it."""
    rows: list[dict[str, object]] = []
    for check in audit.checks:
        found = audit.of(check.name)
        rows.append(
            {
                "check": check.name,
                "severity": check.severity,
                "count": len(found),
                "examples": [finding.path or finding.label for finding in found[:EXAMPLES]],
                "note": audit.notes.get(check.name, ""),
            }
        )
    return rows


def finding_row(finding: Finding) -> dict[str, object]:
    """Return one finding as a row."""
    names = ("kind", "path", "label", "split", "why", "score", "other")
    return {name: getattr(finding, name) for name in names}


def _line(finding: Finding) -> str:
    """Return a finding as one line: the photo and its class, or the class alone, what is wrong, and the other."""
    what = f"{finding.path} ({finding.label})" if finding.path else finding.label
    is_named = finding.other is None or repr(finding.other) in finding.why
    return f"{what}: {finding.why}" + ("" if is_named else f": {finding.other}")


def write_ranking(file: Path, audit: Audit) -> None:
    """Write the photos in the order of the doubt in their labels, as csv where the name ends so, else as jsonl."""
    from flip.files import open_to_write, written_aside
    from flip.results import RowWriter

    columns = ("path", "label", "suggested", "split", "score", "wrong", "in_doubt")
    with (
        written_aside(file, kind="text") as aside,
        open_to_write(aside) as stream,
    ):
        writer = RowWriter(stream, file.suffix.lower().removeprefix("."), columns)
        for row in audit.ranking:
            writer.write(row._asdict())
        writer.close()


def draw_findings(file: Path, audit: Audit) -> int:
    """Draw the photos that were found into one picture, the other of a pair beside it; return how many are on it."""
    from flip.report.sheet import contact_sheet_of

    rows = [row for finding in audit.findings if finding.path is not None for row in _cells(finding)]
    return contact_sheet_of(rows, audit.dataset.root, file, frames=audit.dataset.frames) if rows else 0


def _cells(finding: Finding) -> list[Prediction]:
    from flip.results import Prediction

    path = str(finding.path)
    if finding.kind in ("unreadable", "truncated"):
        return [Prediction(path, error=finding.why)]
    if finding.kind == "labels-in-doubt":
        return [Prediction(path, finding.other, truth=finding.label)]
    first = Prediction(path, finding.kind)
    return [first] if finding.other is None else [first, Prediction(finding.other, f"{finding.kind}: the other")]
