"""Common to the layouts of published archives: their folder, lines of index files, the dataset of what they list."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from flip.data.classnames import clean_class_names
from flip.data.dataset import Box, Dataset, Rank, Record
from flip.data.files import FileIndex
from flip.data.formats import is_image_file
from flip.data.ledger import Ledger
from flip.data.text import nfc, read_text
from flip.errors import DataError


class Entry(NamedTuple):
    """A photo as index files list it: ``where`` is file and line, ``path`` relative to the archive's folder."""

    where: str
    path: str
    key: str
    split: str
    box: Box | None = None
    captions: tuple[str, ...] = ()


class Archive(NamedTuple):
    """An archive that was found: the folder that was given, and the one in it that holds the index files."""

    root: Path
    base: Path
    layout: str


def find_base(root: Path, folders: Sequence[str], *needed: str) -> Path | None:
    """Return the folder that holds an archive's files: the folder itself, or one in it; None if neither does.

    Parameters
    ----------
    root : Path
    folders : sequence of str
        Folders that the archive unpacks into, relative to the root.
    *needed : str
        Files and folders that all must be there.
    """
    for base in (root, *(root / folder for folder in folders)):
        if all((base / name).exists() for name in needed):
            return base
    return None


def require_base(base: Path | None, root: Path, name: str, needed: str) -> Path:
    """Return the folder that was found, or raise a DataError that says what it must hold."""
    if base is None:
        raise DataError(f"{root} is not {name}: it must hold {needed}")
    return base


def numbered_lines(file: Path) -> Iterator[tuple[str, str]]:
    """Yield "file:line" and the text of each line that is not blank and no ``#`` comment."""
    for number, line in enumerate(read_text(file).split("\n"), 1):
        if line.strip() and not line.startswith("#"):
            yield f"{file}:{number}", line.strip()


def corners(x1: float, y1: float, x2: float, y2: float, first: int = 1) -> Box:
    """Return the box between two corners that both belong to it; ``first`` is the number of the first pixel."""
    return float(x1) - first, float(y1) - first, float(x2) - float(x1) + 1, float(y2) - float(y1) + 1


def archive_dataset(
    archive: Archive,
    classes: Mapping[str, str],
    entries: Iterable[Entry],
    ledger: Ledger,
    *,
    classnames: Mapping[str, str] | None = None,
    ranks: Mapping[str, Mapping[str, str]] | None = None,
    frame: Box | None = None,
    fetched: bool = False,
) -> Dataset:
    """Return the dataset of the photos that an archive's index files list.

    Parameters
    ----------
    archive : Archive
    classes : mapping
        Key to raw name of every class, in the order of the labels. Classes without photos are left out.
    entries : iterable of Entry
    ledger : Ledger
    classnames, ranks : mappings, optional
        Key to the name a person would say, where the archive has it; name of a grouping to group of each key.
    frame : Box, optional
        The part of every file that is the photo.
    fetched : bool
        Photos were fetched one by one, so that some are not there: they are left out rather than an error.

    Raises
    ------
    DataError
        If an entry's photo or class is not there, or a photo is listed twice; the message names file and line.
    """
    listed = list(_present(archive, classes, entries, ledger, fetched=fetched))
    if not listed:
        raise DataError(f"{archive.base} holds none of the photos that its index files list; put them there")
    return _dataset_of(archive, classes, listed, ledger, classnames, ranks or {}, frame)


def _dataset_of(
    archive: Archive,
    classes: Mapping[str, str],
    listed: Sequence[Entry],
    ledger: Ledger,
    classnames: Mapping[str, str] | None,
    ranks: Mapping[str, Mapping[str, str]],
    frame: Box | None,
) -> Dataset:
    keys = _used(classes, listed, ledger)
    _note_other_folders(classes, listed, ledger)
    label = {key: i for i, key in enumerate(keys)}
    below = "" if archive.base == archive.root else f"{archive.base.relative_to(archive.root).as_posix()}/"
    raw_names = tuple(nfc(classes[key]) for key in keys)
    return Dataset(
        archive.root,
        archive.layout,
        clean_class_names(raw_names) if classnames is None else tuple(nfc(classnames[key]) for key in keys),
        raw_names,
        tuple(Record(below + e.path, label[e.key], e.split, e.captions, e.box, frame=frame) for e in listed),
        ranks=tuple(Rank(rank, tuple(group[key] for key in keys)) for rank, group in ranks.items()),
        left_out=ledger.left_out,
        notes=ledger.notes,
    )


def _note_other_folders(classes: Mapping[str, str], entries: Sequence[Entry], ledger: Ledger) -> None:
    """Say which photos lie in the folder of another class than the index files give them."""
    names = {nfc(name) for name in classes.values()}
    for entry in entries:
        folder = nfc(entry.path.rpartition("/")[0].rpartition("/")[2])
        if folder in names and folder != nfc(classes[entry.key]):
            ledger.notice("labels that differ from the photo's folder", f"{entry.path}: {classes[entry.key]}")


def _used(classes: Mapping[str, str], entries: Sequence[Entry], ledger: Ledger) -> list[str]:
    """Return the keys of the classes that have photos."""
    used = {entry.key for entry in entries}
    for key, name in classes.items():
        if key not in used:
            ledger.omit("classes without photos", name)
    return [key for key in classes if key in used]


def _present(
    archive: Archive, classes: Mapping[str, str], entries: Iterable[Entry], ledger: Ledger, *, fetched: bool
) -> Iterator[Entry]:
    """Yield the entries whose photos are there, under the paths that the disk has."""
    files = FileIndex(archive.base)
    first: dict[str, str] = {}
    for entry in entries:
        if entry.key not in classes:
            raise DataError(f"{entry.where}: class {entry.key} is not in the list of {len(classes)} classes")
        path = files.find(entry.path)
        if path is None and fetched:
            ledger.omit("photos that were not fetched", entry.path)
            continue
        if path is None:
            raise DataError(
                f"{entry.where}: no file {archive.base / entry.path}; put the photo there or take the line out"
            )
        if path in first:
            raise DataError(f"{entry.where}: {entry.path} is listed at {first[path]} already; take one out")
        first[path] = entry.where
        yield entry._replace(path=path)
    for path in files.unasked():
        if is_image_file(path):
            ledger.omit("photos that the index files do not list", path)
