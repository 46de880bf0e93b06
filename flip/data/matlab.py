"""MATLAB files of published datasets."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from flip.arrays import Array
from flip.errors import DataError
from flip.reading import open_plain


def read_mat(file: Path, *names: str) -> list[Array]:
    """Return variables of a ``.mat`` file, each as an array of one dimension; a struct array has named fields.

    Parameters
    ----------
    file : Path
    *names : str
        The variables.

    Raises
    ------
    DataError
        If the file cannot be read or has no such variable.
    """
    from scipy.io import loadmat

    try:
        with open_plain(file) as stream:
            content: dict[str, Array] = loadmat(stream, squeeze_me=True)
    except MemoryError:
        raise
    except Exception as error:
        # scipy raises whatever a broken file makes it stumble over.
        raise DataError(f"{file} is not a MATLAB file that can be read: {error}") from error
    absent = [name for name in names if name not in content]
    if absent:
        there = ", ".join(name for name in content if not name.startswith("__")) or "nothing"
        raise DataError(f"{file} has no variable {absent[0]!r}; it has {there}")
    return [np.atleast_1d(content[name]) for name in names]


def require_fields(file: Path, values: Array, *names: str) -> None:
    """Raise a DataError if a struct array lacks one of these fields."""
    absent = [name for name in names if name not in (values.dtype.names or ())]
    if absent:
        raise DataError(f"{file} has no field {absent[0]!r}; it has {', '.join(values.dtype.names or ()) or 'none'}")
