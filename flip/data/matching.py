"""Finding the classes of one folder among those of another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from flip.arrays import IntArray
from flip.errors import DataError, near_names


def match_classes(given: Sequence[str], classnames: Sequence[str], what: str) -> IntArray:
    """Return the index in ``classnames`` of each given class name, shape (len(given),).

    Names are compared by their letters and digits in lower case. Where two classes are the same so, both must be
    written exactly.

    Parameters
    ----------
    given, classnames : sequences of str
    what : str
        Where the given names come from, for the message: ``--augmented FOLDER``.

    Raises
    ------
    DataError
        If a given class is not among them; the message names it.
    """
    exact = {name: i for i, name in enumerate(classnames)}
    counts = Counter(fold(name) for name in classnames)
    by_folded = {fold(name): i for i, name in enumerate(classnames) if counts[fold(name)] == 1}
    found = [exact.get(name, by_folded.get(fold(name))) for name in given]
    unknown = [name for name, index in zip(given, found, strict=True) if index is None]
    if unknown:
        raise DataError(
            f"{what} has class {unknown[0]!r}, which is not among the {len(classnames)} classes of the data"
            f"{near_names(unknown[0], classnames)}; its class folders must bear their names"
        )
    return np.array(found, np.int64)


def fold(name: str) -> str:
    """Return a class name in the form in which names are compared: letters and digits, lower case, single spaces."""
    spaced = "".join(ch if ch.isalnum() else " " for ch in name.replace("'", "").replace("’", ""))
    return " ".join(spaced.casefold().split())
