"""CUB-200-2011, in the folder shapes that people have it in (Wah et al., 2011)."""

from __future__ import annotations

from pathlib import Path

from flip.data.archives import Archive, find_base
from flip.data.captions import read_captions_json
from flip.data.dataset import Dataset
from flip.data.files import FileIndex, list_files, subfolders
from flip.data.index_files import INDEX_FILES, read_index, read_indexed
from flip.data.layout import Layout
from flip.data.ledger import Ledger
from flip.data.settings import DEFAULTS, ReadSettings
from flip.errors import DataError
from flip.reading import read_bytes


def find_cub(folder: Path) -> Path | None:
    """Return the folder that holds CUB's index files: the folder itself, or its ``CUB_200_2011``; None if neither."""
    return find_base(folder, ("CUB_200_2011",), *INDEX_FILES)


def read_cub(root: Path, settings: ReadSettings = DEFAULTS) -> Dataset:
    """Read CUB-200-2011 with its official split.

    ``bounding_boxes.txt`` gives boxes where it is there. Captions come from the first that has any of ``text/`` and
    ``text_c10/`` (``<class>/<image>.txt``, one per line) and ``captions.json``, inside the folder of the index files
    and then beside it. Classes that have no photo are left out.

    Parameters
    ----------
    root : Path
        The folder of the index files, or the one that holds it as ``CUB_200_2011``.
    settings : ReadSettings

    Raises
    ------
    DataError
        If an index file is missing or malformed, or names a photo, class or id that is not there or is there twice;
        the message names file and line.
    """
    base = find_cub(root)
    if base is None:
        raise DataError(f"{root} is not CUB-200-2011: it, or its CUB_200_2011, must hold {', '.join(INDEX_FILES)}")
    ledger = Ledger()
    photos = [line.value for line in read_index(base / "images.txt").values()]
    captions = _captions(base, root, photos, ledger)
    return read_indexed(Archive(root, base, LAYOUT.name), captions, ledger)


def _captions(base: Path, root: Path, photos: list[str], ledger: Ledger) -> list[tuple[str, ...]]:
    for place in dict.fromkeys((base, root, base.absolute().parent)):
        for name in ("text", "text_c10"):
            captions = _text_files(place / name, photos, ledger)
            if any(captions):
                return captions
        file = place / "captions.json"
        if file.is_file():
            captions = read_captions_json(file, photos, every_key=False)
            if any(captions):
                return captions
            if place in (base, root):  # further up it may well belong to something else
                raise DataError(f"{file} names none of the {len(photos)} photos; its keys must be file names")
    return []


def _text_files(folder: Path, photos: list[str], ledger: Ledger) -> list[tuple[str, ...]]:
    if not folder.is_dir():
        return []
    files = FileIndex(folder)
    names = [files.find(photo.rpartition(".")[0] + ".txt") for photo in photos]
    classes = {photo.partition("/")[0] for photo in photos}
    if any(names):
        for name in subfolders(folder):
            if name not in classes and any(file.endswith(".txt") for file in list_files(folder / name)):
                ledger.omit("folders of captions that no class of photos is called", f"{folder.name}/{name}/")
    return [_caption_lines(folder / name) if name is not None else () for name in names]


def _caption_lines(file: Path) -> tuple[str, ...]:
    # A few of the caption files in circulation hold broken bytes; a caption is not worth refusing the dataset for.
    text = read_bytes(file).decode("utf-8-sig", errors="replace")
    return tuple(caption for line in text.split("\n") if (caption := line.strip()))


LAYOUT = Layout("cub", lambda root: find_cub(root) is not None, read_cub, "CUB-200-2011", index_files=(INDEX_FILES,))
