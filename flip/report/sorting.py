"""Photos sorted into one folder per label, as copies or as links."""

from __future__ import annotations

import shutil
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from flip.data.formats import is_image_file, photo_suffix
from flip.errors import ConfigError, reason_of
from flip.files import claim_folder
from flip.reading import is_file, open_plain
from flip.results import Prediction

#: Folders for what has no label.
UNSURE, UNREADABLE = "unsure", "unreadable"

#: Names that Windows keeps for devices.
_RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{i}" for port in ("com", "lpt") for i in range(1, 10))}
_UNSAFE = frozenset('<>:"/\\|?*')
_LONGEST = 100


@dataclass(frozen=True)
class Sorted:
    """What was done: photos placed, class folders made, and the paths of photos that are not there."""

    placed: int
    folders: int
    missing: tuple[str, ...]


def copy_to(rows: Iterable[Prediction], root: Path, folder: Path, *, link: bool = False) -> Sorted:
    """Copy each photo into a folder of its label; photos without a label go to ``unsure``, or to ``unreadable``.

    Nothing is overwritten: the folder must be new or empty, and of two photos with one name the second gets a number.
    Folder names are safe on every system, and differ by more than case; each label has its own.

    Parameters
    ----------
    rows : iterable of Prediction
    root : Path
        The folder that relative paths of rows are relative to.
    folder : Path
    link : bool
        Make symbolic links to the photos instead of copies.

    Raises
    ------
    ConfigError
        If the folder holds something, or a photo cannot be copied or linked.
    """
    claim_folder(folder, flag="--copy-to")
    folders = _Folders(folder)
    placed, missing = 0, []
    for row in rows:
        source = (root / row.path).absolute()
        if not is_file(source):
            missing.append(row.path)
            continue
        target = folders.of(row)
        try:
            target.mkdir(exist_ok=True)
            _place(source, target, link)
        except OSError as e:
            how = "linked" if link else "copied"
            raise ConfigError(f"{source} cannot be {how} to {target} ({reason_of(e)}); pass another folder") from e
        placed += 1
    return Sorted(placed, len(folders), tuple(missing))


class _Folders:
    """The folder of each label, under a name of its own."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._folders: dict[str | None, Path] = {}
        self._taken = {UNSURE, UNREADABLE}

    def __len__(self) -> int:
        return len(self._folders)

    def of(self, row: Prediction) -> Path:
        """Return the folder of a row."""
        special = UNREADABLE if row.error is not None else None if row.label is not None else UNSURE
        key = f"\0{special}" if special else row.label
        if key not in self._folders:
            self._folders[key] = self._root / (special or _unique(safe_name(str(row.label)), self._taken))
        return self._folders[key]


def safe_name(label: str) -> str:
    """Return a folder name for a label that every system takes: at most 100 letters, none of them special."""
    text = unicodedata.normalize("NFC", label).encode("utf-8", "replace").decode("utf-8")
    # Control and format characters (right-to-left marks among them), surrogates, line and paragraph separators.
    kept = "".join(
        "_" if c in _UNSAFE or unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") else c for c in text
    )
    name = _shortened(" ".join(kept.split())).strip(" .")
    if not name or name.partition(".")[0].strip().casefold() in _RESERVED:
        name = f"_{name}"
    return name


def _shortened(name: str) -> str:
    """Cut a name to 100 letters and, as file systems count, 200 bytes."""
    return name[:_LONGEST].encode("utf-8")[:200].decode("utf-8", "ignore")


def _unique(name: str, taken: set[str]) -> str:
    """Return a name that differs from those taken by more than case, and take it."""
    chosen, number = name, 2
    while chosen.casefold() in taken:
        chosen, number = f"{name} ({number})", number + 1
    taken.add(chosen.casefold())
    return chosen


def _place(source: Path, folder: Path, link: bool) -> None:
    """Copy or link a photo into a folder under its own name, or the first numbered one that is free.

    A photo in a tar or at a URL is copied: no link leads there. In a tar its name has no suffix, and it gets one.
    """
    lies_here, number = source.is_file(), 1
    stem, suffix = (
        (source.stem, source.suffix) if lies_here or is_image_file(source) else (source.name, _suffix(source))
    )
    while True:
        target = folder / (f"{stem}{suffix}" if number == 1 else f"{stem} ({number}){suffix}")
        try:
            target.symlink_to(source) if link and lies_here else _copy(source, target)
            return
        except FileExistsError:
            number += 1


def _suffix(source: Path) -> str:
    with open_plain(source) as photo:
        return photo_suffix(photo.read(16))


def _copy(source: Path, target: Path) -> None:
    with open_plain(source) as photo, target.open("xb") as copy:
        try:
            shutil.copyfileobj(photo, copy, 1 << 20)
        except BaseException:
            target.unlink()
            raise
    if source.is_file():
        shutil.copystat(source, target)
