"""Split folders: ``train/<class>/*``, ``test/<class>/*``, optional ``val/``; under other words for them as well."""

from __future__ import annotations

from pathlib import Path

from flip.data.dataset import Dataset
from flip.data.files import list_files, subfolders
from flip.data.formats import is_image_file, is_photo
from flip.data.layout import Layout
from flip.data.ledger import Ledger
from flip.data.levels import CONTAINERS, require_class_names
from flip.data.photo_folders import (
    Photo,
    described,
    find_photos,
    has_photos,
    labelled,
    make_dataset,
    metadata_in,
    require_labels,
)
from flip.data.settings import DEFAULTS, ReadSettings
from flip.data.splits import UNLABELED, affixed_splits, describe_splits, read_splits, split_word
from flip.errors import DataError


def are_split_folders(root: Path) -> bool:
    """Return whether a folder's folders, or those in its ``images``, are splits rather than classes."""
    return bool(root.is_dir() and any(_splits_of(root / below) for below in _places(root)))


def _places(root: Path) -> list[str]:
    return ["", "images"] if (root / "images").is_dir() else [""]


def _splits_of(root: Path) -> dict[str, str]:
    """Return the folders that are splits, none where they are rather classes: a class of vehicles may be called train.

    They are splits where no other folder has photos; or where several hold folders in their turn.
    """
    folders = subfolders(root)
    found = read_splits(folders)
    splits = {split for split in found.values() if split != UNLABELED}
    others = [name for name in folders if name not in found and has_photos(root / name)]
    nested = len(splits) > 1 and all(subfolders(root / n) for n, split in found.items() if split != UNLABELED)
    if ("train" in splits and (not others or nested)) or (nested and not others):
        return found
    if not found:
        return affixed_splits(others)
    return affixed_splits([*found, *others]) if others else {}


def read_split_folders(root: Path, settings: ReadSettings = DEFAULTS) -> Dataset:
    """Read ``train/<class>/*``, ``test/<class>/*`` and, if it is there, ``val/``.

    Other words are known: ``valid``, ``validation``, ``dev``; ``eval``, ``holdout``; with a number or an affix, as in
    ``train2017`` and ``birds_train``. ``unlabeled`` is left out. A photo may lie in folders below its class.

    Captions, boxes and labels may come from ``metadata.csv``, ``.jsonl`` or ``.parquet`` as Hugging Face's ImageFolder
    has them (``file_name``, and ``text``, ``caption`` or ``captions``, ``label``, ``bbox`` or ``x``, ``y``, ``w``,
    ``h``), in any folder; a label there wins over the folder's name. Its ``source`` is the photo that a generated image
    was made from.

    Raises
    ------
    DataError
        If there is no photo, a photo has no class, or a metadata file names a photo that is not there.
    """
    place = next((below for below in _places(root) if _splits_of(root / below)), "")
    base = root / place
    folders = _splits_of(base) or read_splits(subfolders(base))
    if not _splits_of(base) and "train" not in folders.values():
        raise DataError(f"{root} has no folder train; split folders are train/<class>/* and test/<class>/*")
    ledger = Ledger()
    ledger.note(describe_splits(folders))
    photos, tables = _find(root, place, folders, ledger)
    photos = described(root, photos, [*metadata_in(root), *tables])
    if settings.class_level is None and not any(photo.label for photo in photos):
        photos = _without_containers(photos)
        tops = (photo.below.partition("/") for photo in photos)
        require_class_names(root, dict.fromkeys(name for name, slash, _ in tops if slash), ledger)
    found = labelled(photos, settings, ledger)
    found = _without_flat_splits(found, ledger)
    require_labels(root, found)
    _leave_out_others(root, place, folders, ledger)
    return make_dataset(root, "split-folders", found, settings, ledger)


def _find(root: Path, place: str, folders: dict[str, str], ledger: Ledger) -> tuple[list[Photo], list[str]]:
    photos: list[Photo] = []
    tables: list[str] = []
    for name, split in folders.items():
        folder = _innermost(root, f"{place}/{name}" if place else name)
        found, listed = find_photos(root, folder, split, Ledger() if split == UNLABELED else ledger)
        if split == UNLABELED:
            for photo in found:
                ledger.omit(f"photos of {folder}/, which have no labels", photo.path)
        else:
            photos += found
            tables += listed
    return photos, tables


def _innermost(root: Path, folder: str) -> str:
    """Return the folder that holds a split's classes: ``cars_test/cars_test/`` is what some archives unpack into."""
    inner = [name for name in subfolders(root / folder) if has_photos(root / folder / name)]
    again = len(inner) == 1 and (split_word(inner[0]) or inner[0].casefold() == folder.rpartition("/")[2].casefold())
    if not again or any(is_image_file(path) for path in (root / folder).iterdir()):
        return folder
    return _innermost(root, f"{folder}/{inner[0]}")


def _without_containers(photos: list[Photo]) -> list[Photo]:
    """Return the photos without the folders of splits that hold nothing but one such as ``images/``, which is no class.

    That is so where the training photos have classes; else all splits are alike.
    """
    names = {split: {_top(p) for p in photos if p.split == split} for split in ("train", "val", "test")}
    bare = {split for split, tops in names.items() if tops and tops <= CONTAINERS and not tops & names["train"]}
    return [p._replace(below=p.below.rpartition("/")[2]) if p.split in bare else p for p in photos]


def _top(photo: Photo) -> str:
    """Return the first folder below a photo's split, folded, "" without."""
    return photo.below.rpartition("/")[0].partition("/")[0].casefold()


def _without_flat_splits(photos: list[Photo], ledger: Ledger) -> list[Photo]:
    """Return the photos without test or validation photos that have no classes, where the training photos have some."""
    has_class = {
        split: any(p.label is not None for p in photos if p.split == split) for split in ("train", "val", "test")
    }
    if not has_class["train"]:
        return photos
    kept = []
    for photo in photos:
        if photo.label is None and photo.split is not None and not has_class[photo.split]:
            ledger.omit(f"{photo.split} photos without classes", photo.path)
        else:
            kept.append(photo)
    return kept


def _leave_out_others(root: Path, place: str, folders: dict[str, str], ledger: Ledger) -> None:
    """Say which photos lie beside the split folders."""
    base = root / place
    for path in list_files(base):
        top, slash, _ = path.partition("/")
        if top not in folders and is_photo(base, path):
            kind = "photos in folders that are no split" if slash else "photos beside the split folders"
            ledger.omit(kind, f"{place}/{path}" if place else path)


LAYOUT = Layout("split-folders", are_split_folders, read_split_folders, "train/<class>/* and test/<class>/*")
