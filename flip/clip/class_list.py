"""Lists of class names to name photos among: ``--classes``."""

from __future__ import annotations

import logging
import re
from collections import Counter
from pathlib import Path

from flip.data.classnames import clean_class_names
from flip.data.table_files import READERS, read_table
from flip.data.text import nfc, read_text
from flip.errors import DataError
from flip.reading import parse_json

log = logging.getLogger(__name__)

#: ``1 001.Black_footed_Albatross``, as CUB's and NABirds' ``classes.txt`` have it.
_IDENTIFIED = re.compile(r"(\d+) (\S.*)")

#: ``1,jay``, as a table without a header has it.
_LISTED = re.compile(r"\d+\s*[,;]\s*\S")


def read_class_list(file: Path) -> tuple[str, ...]:
    """Read class names: one per line of a text file, the label column of a table, or a JSON list.

    Blank lines are skipped. A ``classes.txt`` of CUB-200-2011, whose lines begin with the class's number, gives the
    names as the dataset's reader does. A name that is there twice stays so in a text file or a JSON list, as two
    classes; in a table, which may be of photos, it is one.

    Raises
    ------
    DataError
        If the file is missing or empty, a table has no column of labels, or the file is of another form.
    """
    suffix = file.suffix.lower()
    if suffix in READERS:
        names = _names_of_table(file)
    else:
        names = _names_of_json(file) if suffix == ".json" else _names_of_lines(file)
    if not names:
        raise DataError(f"{file} names no class; write one per line")
    name, count = Counter(names).most_common(1)[0]
    if count > 1:
        log.info("%s: %d classes have the name %r; answers that name it do not tell them apart", file, count, name)
    return names


def _names_of_lines(file: Path) -> tuple[str, ...]:
    lines = [nfc(line.strip()) for line in read_text(file).split("\n") if line.strip()]
    tabbed = next((line for line in lines if "\t" in line), None)
    if tabbed is not None:
        raise DataError(
            f"{file} has columns, such as {tabbed!r}; give the names alone, or name the file .tsv and its column label"
        )
    if len(lines) > 1 and all(map(_LISTED.match, lines)):
        raise DataError(
            f"{file} has columns, such as {lines[0]!r}; give the names alone, or a .csv file with a column label"
        )
    identified = [_IDENTIFIED.fullmatch(line) for line in lines]
    numbers = [int(match[1]) for match in identified if match]
    if len(numbers) == len(lines) > 1 and numbers in (list(range(len(lines))), list(range(1, len(lines) + 1))):
        names = clean_class_names([match[2] for match in identified if match])
        log.info("%s: the numbers in front are dropped: %s is %s", file, lines[0], names[0])
        return names
    return tuple(lines)


def _names_of_json(file: Path) -> tuple[str, ...]:
    """Return the names of a list, or of an object of number → name, or number → [id, name] as ImageNet has it."""
    try:
        content = parse_json(read_text(file))
    except ValueError as error:
        raise DataError(f"{file} is not JSON: {error}") from error
    if isinstance(content, dict) and all(key.isdigit() for key in content):
        content = [content[key] for key in sorted(content, key=int)]
        content = [name[-1] if isinstance(name, list) and name else name for name in content]
    if not isinstance(content, list) or not all(isinstance(name, str) for name in content):
        raise DataError(
            f"{file} holds no class names: it must be a JSON list of names, or an object of number → name; "
            "sentences about each class go to --prompts"
        )
    return tuple(nfc(name.strip()) for name in content if name.strip())


def _names_of_table(file: Path) -> tuple[str, ...]:
    table = read_table(file)
    column = table.column("label") or ("name" if "name" in table.columns else None)
    if column is None:
        there = ", ".join(table.columns)
        raise DataError(f"{file} has no column 'label'; it has {there}; rename the one that holds the class names")
    return tuple(dict.fromkeys(nfc(name) for row in table.rows if (name := row.text(column))))
