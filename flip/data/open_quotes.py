"""Quotes of CSV files that are closed in a later row, and so make the rows between vanish into one cell."""

from __future__ import annotations

from pathlib import Path

from flip.data.formats import is_image_file
from flip.data.tables import Table
from flip.errors import DataError
from flip.reading import is_file


def require_closed_quotes(file: Path, text: str, delimiter: str, table: Table) -> None:
    """Refuse a row of several lines of which two or more look like rows of their own.

    A line looks like one where it has as many cells as the header, quotes taken as plain characters, and one of them
    names a photo, or has a label or split that other rows have. Of a row whose caption has several lines one does.

    Parameters
    ----------
    file : Path
    text : str
        Of the whole file.
    delimiter : str
    table : Table
        As it was read.

    Raises
    ------
    DataError
        If a row is such; the message names its first line.
    """
    long = [row for row in table.rows if any("\n" in cell for cell in row.cells.values())]
    if not long:
        return
    lines = text.split("\n")
    spanned = {row.line for row in long}
    known = [
        (table.columns.index(name), {str(row.cells[name]).strip() for row in table.rows if row.line not in spanned})
        for kind in ("label", "split")
        if (name := table.column(kind)) is not None
    ]
    for row in long:
        more = sum(cell.count("\n") for cell in row.cells.values())
        there = lines[row.line - 1 : row.line + more]
        if sum(_is_row(file.parent, line.split(delimiter), len(row.cells), known) for line in there) > 1:
            raise DataError(
                f"{row.where}: a quote that begins in this row takes in what look like rows, up to line "
                f"{row.line + more}; close it, or write the text in one line"
            )


def _is_row(folder: Path, cells: list[str], width: int, known: list[tuple[int, set[str]]]) -> bool:
    """Return whether the cells of one line look like a whole row."""
    if len(cells) < width:
        return False
    plain = [cell.strip().strip('"') for cell in cells]
    if any(plain[i] and plain[i] in values for i, values in known):
        return True
    return any(cell and (is_image_file(cell) or is_file(folder / cell)) for cell in plain)
