"""The photos that a model learned from, kept beside its weights by their content: they must not be scored."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

from flip.data.text import read_text
from flip.errors import DataError, reason_of
from flip.files import write_text
from flip.reading import open_plain, state_of

log = logging.getLogger(__name__)

#: One line per photo: the file's size, and the beginning of its SHA-256.
LEARNED_FILE = "learned_from.txt"

_DIGITS = 16


def write_learned(folder: Path, files: Iterable[str], before: Iterable[str] = ()) -> None:
    """Write which files a model was trained or chosen on, and what the model that it began from was.

    Parameters
    ----------
    folder : Path
        Of the model.
    files : iterable of str
        What cannot be read is passed over: nothing was learned from it.
    before : iterable of str
        Lines of :func:`read_learned`.
    """
    keys = {key for file in files if (key := _key(file)) is not None}
    write_text(folder / LEARNED_FILE, "".join(f"{line}\n" for line in sorted(keys.union(before))))


def read_learned(folder: Path) -> frozenset[str]:
    """Read the photos that :func:`write_learned` recorded in a folder; empty if there is no such file.

    Raises
    ------
    DataError
        If it cannot be read.
    """
    file = folder / LEARNED_FILE
    try:
        return frozenset(read_text(file).split()) if file.is_file() else frozenset()
    except OSError as error:
        raise DataError(f"{file} cannot be read ({reason_of(error)}); check its permissions") from error


def count_learned(learned: frozenset[str], files: Sequence[str]) -> int:
    """Return the number of files that were learned from, compared by content.

    Only files of a size that is among theirs are read.
    """
    sizes = {line.partition("-")[0] for line in learned}
    return sum(_key(file, sizes) in learned for file in files)


def require_unlearned(what: str, learned: int, scored: int, split: str) -> None:
    """Refuse to score photos that were learned from: more than one in ten; of fewer it is said.

    Parameters
    ----------
    what : str
        What learned, for the message: "the head in DIR".
    learned, scored : int
        Numbers of photos.
    split : str

    Raises
    ------
    DataError
    """
    if learned > scored // 10:
        raise DataError(
            f"{what} was trained or chosen on {learned} of the {scored} photos of split {split!r}, and its accuracy on "
            "them means nothing; pass --split test, or data that it has not seen"
        )
    if learned:
        log.warning("%s was trained or chosen on %d of the %d photos that are scored", what, learned, scored)


def _key(file: str, sizes: set[str] | None = None) -> str | None:
    """Return the line of a file; None where it cannot be read, or has none of these sizes."""
    try:
        size = str(state_of(file).size)
        if sizes is not None and size not in sizes:
            return None
        with open_plain(file) as stream:
            return f"{size}-{hashlib.file_digest(stream, 'sha256').hexdigest()[:_DIGITS]}"
    except OSError:
        return None
