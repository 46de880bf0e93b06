"""``open_dataset``: which reader fits what is there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from flip.data.classnames import rename_classes, require_distinct_names
from flip.data.cub import find_cub, read_cub
from flip.data.dataset import DEFAULT_TEST_FRACTION, SPLIT_NAMES, Dataset
from flip.data.embeddings import is_embeddings, read_embeddings
from flip.data.files import is_hidden, subfolders
from flip.data.folder import METADATA_FILES, has_photos, read_class_folders, read_images_folder, read_split_folders
from flip.data.images import is_image_file
from flip.data.manifest import read_manifest
from flip.data.sample import read_sample
from flip.data.tables import READERS
from flip.errors import ConfigError, DataError, near_names
from flip.sample.fieldguide import GUIDES

_ACCEPTED = (
    "CUB-200-2011, train/<class>/* and test/<class>/*, images/<class>/*, <class>/*, or a manifest file "
    f"({', '.join(READERS)})"
)

_READERS: dict[str, Callable[[Path, float], Dataset]] = {
    "cub": lambda root, _: read_cub(root),
    "split-folders": lambda root, _: read_split_folders(root),
    "images-folder": read_images_folder,
    "class-folders": read_class_folders,
    "manifest": lambda root, fraction: read_manifest(_manifest_in(root), fraction),
    "embeddings": lambda root, _: read_embeddings(root),
}

#: What ``--layout`` may be.
LAYOUTS = tuple(_READERS)

_FILE_LAYOUTS = ("manifest", "embeddings")


def open_dataset(
    data: str | Path,
    *,
    layout: str | None = None,
    test_fraction: float = DEFAULT_TEST_FRACTION,
    classnames: Path | None = None,
    cache: Path | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Dataset:
    """Read labelled photos from a folder or a manifest, telling the layout from what is there.

    Parameters
    ----------
    data : str or Path
        A folder, a manifest, or a word of ``flip.sample.fieldguide.GUIDES`` for drawn birds.
    layout : str, optional
        One of ``LAYOUTS``, to read the data as that.
    test_fraction : float
        Share of photos held out for testing where the layout has no split of its own; at least 0 and below 1.
    classnames : Path, optional
        A file that renames the classes; see :func:`flip.data.classnames.rename_classes`.
    cache : Path, optional
        Where drawn birds are kept; the platform's cache without it.
    say : callable
        Called with a line when something takes a while.

    Raises
    ------
    DataError
        If there is nothing at ``data``, no layout fits, or the data is not what its layout promises.
    ConfigError
        If ``layout`` or ``test_fraction`` is not allowed.
    """
    if layout is not None and layout not in _READERS:
        raise ConfigError(
            f"layout {layout!r} is unknown{near_names(layout, LAYOUTS)}; pass one of {', '.join(LAYOUTS)}"
        )
    if str(data) in GUIDES and layout is None:
        return _named(read_sample(str(data), cache, say), classnames)
    root = Path(data).expanduser()
    try:
        _require_something(root)
        chosen = layout or _recognise(root)
        if root.is_file() and chosen not in _FILE_LAYOUTS:
            raise DataError(
                f"{root} is a file, and {chosen} is a layout of folders; pass the folder, or --layout manifest"
            )
        dataset = _READERS[chosen](root, test_fraction)
    except OSError as error:
        raise DataError(f"cannot read {error.filename or root}: {error.strerror or error}") from error
    return _named(dataset, classnames)


def _named(dataset: Dataset, classnames: Path | None) -> Dataset:
    if classnames is not None:
        dataset = rename_classes(dataset, classnames)
    require_distinct_names(dataset)
    return dataset


def describe(dataset: Dataset) -> str:
    """Return one line for people: ``cub: 1,701 photos, 30 classes, train 900, test 801, captions for 548``."""
    parts = [_count(len(dataset), "photo", "photos"), _count(len(dataset.classnames), "class", "classes")]
    parts += [f"{split} {n:,}" for split, n in dataset.splits.items()]
    captioned = sum(1 for record in dataset.records if record.captions)
    if captioned:
        parts.append(f"captions for {captioned:,}")
    return f"{dataset.layout}: {', '.join(parts)}"


def _count(n: int, one: str, many: str) -> str:
    return f"{n:,} {one if n == 1 else many}"


def _require_something(root: Path) -> None:
    if root.is_file():
        return
    if not root.is_dir():
        parent = root.absolute().parent
        if not parent.is_dir():
            raise DataError(f"no folder or file {root}: {parent} is not there either; check the path")
        near = near_names(root.name, (path.name for path in parent.iterdir()))
        raise DataError(f"no folder or file {root}{near or '; check the path'}")
    if not any(root.iterdir()):
        raise DataError(f"{root} is empty; flip reads {_ACCEPTED}")


def _recognise(root: Path) -> str:
    """Return the layout of what is there; the surer signs are looked at first."""
    if is_embeddings(root):
        return "embeddings"
    if root.is_file():
        if root.suffix.lower() not in READERS:
            raise DataError(
                f"{root} is no manifest; its name must end in one of {', '.join(READERS)}, or give a folder"
            )
        return "manifest"
    if find_cub(root):
        return "cub"
    folders = subfolders(root)
    if _are_split_folders(root, folders):
        return "split-folders"
    if _is_images_folder(root, folders):
        return "images-folder"
    with_photos = [name for name in folders if has_photos(root / name)]
    if not with_photos:
        if any((root / name).is_file() for name in METADATA_FILES):
            return "manifest"
        raise DataError(_unrecognised(root, folders))
    _refuse_wrapping(root, with_photos)
    return "class-folders"


def _are_split_folders(root: Path, folders: list[str]) -> bool:
    """Tell splits from classes: a class of vehicles may be called train."""
    splits = {name: SPLIT_NAMES[name.casefold()] for name in folders if name.casefold() in SPLIT_NAMES}
    if "train" not in splits.values():
        return False
    if not any(has_photos(root / name) for name in folders if name not in splits):
        return True
    return len(set(splits.values())) > 1 and all(subfolders(root / name) for name in splits)


def _is_images_folder(root: Path, folders: list[str]) -> bool:
    if "images" not in folders:
        return False
    if any(has_photos(root / name) for name in folders if name != "images" and not subfolders(root / name)):
        # Class folders, one of which happens to be called images.
        return False
    places = (root, root / "images")
    described = any((place / name).is_file() for place in places for name in ("captions.json", *METADATA_FILES))
    return described or any(has_photos(root / "images" / name) for name in subfolders(root / "images"))


def _refuse_wrapping(root: Path, with_photos: list[str]) -> None:
    """Refuse a folder whose one class would be a whole dataset: an archive that was unpacked into its own folder."""
    only = root / with_photos[0]
    if len(with_photos) == 1 and (find_cub(only) or len(subfolders(only)) > 1):
        raise DataError(
            f"{root} would be a single class, {only.name!r}; its photos lie in folders of {only}: "
            "pass that one, or --layout class-folders if it is a class"
        )


def _manifest_in(root: Path) -> Path:
    """Return the manifest: the file itself, or the metadata file of a folder of photos."""
    if root.is_file():
        return root
    file = next((root / name for name in METADATA_FILES if (root / name).is_file()), None)
    if file is None:
        raise DataError(f"{root} is a folder without {', '.join(METADATA_FILES)}; pass the manifest file itself")
    return file


def _unrecognised(root: Path, folders: list[str]) -> str:
    files = [path.name for path in root.iterdir() if not is_hidden(path.name) and path.is_file()]
    photos = sum(map(is_image_file, files))
    if photos:
        return (
            f"{root} holds {_count(photos, 'photo', 'photos')} and no class folders; put the photos of each class in "
            "a folder of its own, or list them in a manifest with path and label"
        )
    shown = ", ".join([*(f"{name}/" for name in folders), *sorted(files)][:5]) or "hidden files only"
    return f"no layout fits {root}, which holds {shown}; flip reads {_ACCEPTED}"
