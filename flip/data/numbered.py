"""Labels that are numbers of classes, and the names of those classes in their order."""

from __future__ import annotations

from collections.abc import Sequence

from flip.data.classnames import label_indices
from flip.data.ledger import Ledger
from flip.data.text import nfc
from flip.errors import DataError


def name_of(value: object, names: Sequence[str] | None) -> str:
    """Return a label as text: of a number the name of that class, where the classes are named.

    Raises
    ------
    DataError
        If there is no class of that number.
    """
    if names is not None and isinstance(value, int):
        if not 0 <= value < len(names):
            raise DataError(f"label {value} has no name; the table names {len(names)} classes")
        return names[value]
    return str(value)


def named_indices(
    raw_labels: list[str], names: Sequence[str] | None, ledger: Ledger
) -> tuple[tuple[str, ...], list[int]]:
    """Return the classes and each row's label: in the order of the named classes, where they are named."""
    raw_names, labels = label_indices(raw_labels)
    if names is None or not set(raw_names) <= set(names):
        return raw_names, labels
    for name in names:
        if name not in raw_names:
            ledger.omit("classes without photos", name)
    ordered = tuple(name for name in dict.fromkeys(names) if name in set(raw_names))
    place = {name: i for i, name in enumerate(ordered)}
    return ordered, [place[nfc(raw)] for raw in raw_labels]
