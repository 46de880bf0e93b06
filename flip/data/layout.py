"""What a layout is, and the registry of all of them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from flip.data.dataset import Dataset
from flip.data.settings import ReadSettings
from flip.names import LAYOUTS


@dataclass(frozen=True)
class Layout:
    """A way in which labelled photos lie on a disk.

    Attributes
    ----------
    name : str
        A word of ``flip.names.LAYOUTS``, as ``--layout`` takes it.
    recognise : callable
        Path to bool: whether a file or folder is laid out like this. It looks at names rather than into photos. Where
        the path is of this kind and cannot be meant as it stands, it may raise a DataError that says so.
    read : callable
        Path and :class:`ReadSettings` to :class:`Dataset`. It raises a DataError that names file and line where the
        data is not what the layout promises.
    shape : str
        What it looks like, for messages: "train/<class>/* and test/<class>/*".
    files : bool
        Whether a file may be given, not only a folder.
    index_files : tuple of tuple of str
        For a published archive: the files by which it is recognised, in each shape that it has.
    """

    name: str
    recognise: Callable[[Path], bool]
    read: Callable[[Path, ReadSettings], Dataset]
    shape: str = ""
    files: bool = False
    index_files: tuple[tuple[str, ...], ...] = ()


@functools.cache
def layouts() -> dict[str, Layout]:
    """Return every layout by its name, in the order in which they are tried: that of ``flip.names.LAYOUTS``.

    The surer signs come first: a table that says of itself what it is, then index files, then folders by their names;
    any folder with folders of photos is ``class-folders`` at last.
    """
    return {name: import_module(f"flip.data.layouts.{name.replace('-', '_')}").LAYOUT for name in LAYOUTS}
