"""Class folders: ``<class>/*``, or ``<class>/train/*`` and ``<class>/test/*``."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

from flip.data.dataset import Dataset
from flip.data.files import subfolders
from flip.data.layout import Layout, layouts
from flip.data.ledger import Ledger
from flip.data.levels import is_date, require_class_names
from flip.data.photo_folders import Photo, captioned, described, find_photos, has_photos, labelled, make_dataset
from flip.data.settings import DEFAULTS, ReadSettings
from flip.data.splits import UNLABELED, describe_splits, read_splits, says_split, split_word
from flip.errors import DataError


def are_class_folders(root: Path) -> bool:
    """Return whether a folder holds folders of photos.

    Raises
    ------
    DataError
        If its one class would be a whole dataset: an archive that was unpacked into a folder of its own.
    """
    with_photos = [name for name in subfolders(root) if has_photos(root / name)]
    only = root / with_photos[0] if len(with_photos) == 1 else None
    if only is not None and (len(subfolders(only)) > 1 or _has_layout_of_its_own(only)):
        raise DataError(
            f"{root} would be a single class, {only.name!r}; its photos lie in folders of {only}: "
            "pass that one, or --layout class-folders if it is a class"
        )
    return bool(with_photos)


def _has_layout_of_its_own(folder: Path) -> bool:
    return any(layout.recognise(folder) for name, layout in layouts().items() if name != LAYOUT.name)


def read_class_folders(root: Path, settings: ReadSettings = DEFAULTS) -> Dataset:
    """Read ``<class>/*``; photos that lie beside the class folders are left out.

    Where the folders in every class are words for splits (``wren/train/1.jpg``), they are the splits. Metadata files
    and ``captions.json`` are read as for the other layouts. Otherwise the split is a hash of the path, stable when
    photos are added; see :func:`flip.data.splits.hash_splits`.

    Raises
    ------
    DataError
        As for an images folder, or if the folders do not look like classes; ``--class-level`` says that they are.
    """
    ledger = Ledger()
    photos, tables = find_photos(root, "", None, ledger)
    photos = captioned(root, ("captions.json",), described(root, photos, tables))
    if settings.class_level is None and not any(photo.label for photo in photos):
        _require_classes(root, photos, ledger)
        photos = _with_inner_splits(photos, ledger)
    found = labelled(photos, settings, ledger)
    for photo in found:
        if photo.label is None:
            ledger.omit("photos beside the class folders", photo.path)
    found = [photo for photo in found if photo.label is not None]
    return make_dataset(root, "class-folders", found, settings, ledger)


def _inner_folders(photos: Sequence[Photo]) -> dict[str, set[str | None]]:
    """Return the folders that each class folder's photos lie in; None for photos right in it."""
    inner: dict[str, set[str | None]] = defaultdict(set)
    for photo in photos:
        parts = photo.below.split("/")
        if len(parts) > 1:
            inner[parts[0]].add(parts[1] if len(parts) > 2 else None)
    return inner


def _require_classes(root: Path, photos: Sequence[Photo], ledger: Ledger) -> None:
    """Refuse folders whose names, or whose equal contents, say that they are no classes."""
    inner = _inner_folders(photos)
    require_class_names(root, inner, ledger)
    alike = _outer_splits(inner)
    if alike:
        first, second, names = alike
        raise DataError(
            f"{root / first} and {root / second} hold the same folders ({', '.join(names[:3])}), so they look "
            "like splits rather than classes; name them train and test, or pass --class-level 2 if the inner folders "
            "are the classes, --class-level 1 if the outer ones are"
        )


def _outer_splits(inner: Mapping[str, set[str | None]]) -> tuple[str, str, list[str]] | None:
    """Return two folders that look like splits rather than classes, and the folders that both hold; None without.

    Folders of splits hold the same folders, the classes: all of them where no name says so, some of them where one of
    the two is called by a split. Views of every class (``wren/male``, ``gull/male``) are fewer than the classes.
    """
    outer = list(inner)
    same = len({frozenset(names) for names in inner.values()}) == 1 and len(outer) > 1
    for first, second in combinations(outer, 2):
        names = sorted(name for name in inner[first] & inner[second] if name and not is_date(name))
        if not names or all(map(split_word, names)):
            continue
        told = split_word(first) or split_word(second) or (same and says_split(first) and len(names) > 1)
        many = same and len(inner[first]) == len(names) >= max(2, len(outer))
        if told or (many and not all(name.isdigit() for name in names)):
            return first, second, names
    return None


def _with_inner_splits(photos: list[Photo], ledger: Ledger) -> list[Photo]:
    """Return the photos with the split that the folder in their class folder is a word for, if that is so for all."""
    inner = {name for names in _inner_folders(photos).values() for name in names}
    words = {name for name in inner if name is not None}
    splits = read_splits(words)
    if not words or inner != set(splits):
        return photos
    ledger.note(f"the folders {', '.join(sorted(words))} in the class folders are read as splits")
    ledger.note(describe_splits(splits))
    kept = []
    for photo in photos:
        name, _, rest = photo.below.partition("/")
        folder, _, file = rest.partition("/")
        if splits.get(folder) == UNLABELED:
            ledger.omit("photos in folders of unlabeled ones", photo.path)
        else:
            kept.append(photo._replace(split=photo.split or splits.get(folder), below=f"{name}/{file or rest}"))
    return kept


LAYOUT = Layout("class-folders", are_class_folders, read_class_folders, "<class>/*")
