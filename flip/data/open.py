"""``open_dataset``: the layout of what is there, and its reader."""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from flip.data.classnames import near_equal_names, wordnet_ids
from flip.data.dataset import Dataset, counted
from flip.data.files import is_hidden, subfolders
from flip.data.formats import is_image_file, suffix_advice
from flip.data.layout import Layout, layouts
from flip.data.official import missing_files, unused_splits
from flip.data.remote_data import localise
from flip.data.renaming import rename_classes
from flip.data.sample import read_sample
from flip.data.samples import is_pattern
from flip.data.settings import DEFAULT_TEST_FRACTION, ReadSettings
from flip.data.table_files import READERS
from flip.errors import ConfigError, DataError, errors_naming, near_names, reason_of
from flip.names import LAYOUTS
from flip.reading import is_file, what_is
from flip.remote import local_path, url_of
from flip.sample.fieldguide import GUIDES

log = logging.getLogger(__name__)


#: Read where no data is named and this folder is here.
USUAL_DATA = "data/birds"


def default_data() -> str | None:
    """Return the data that is meant where none is named: ``FLIP_DATA``, else ``data/birds`` where it is."""
    return os.environ.get("FLIP_DATA") or (USUAL_DATA if Path(USUAL_DATA).is_dir() else None)


def open_dataset(
    data: str | Path | None = None,
    *,
    layout: str | None = None,
    test_fraction: float = DEFAULT_TEST_FRACTION,
    classnames: Path | None = None,
    class_level: int | None = None,
    cache: Path | None = None,
    embedding_column: str | None = None,
) -> Dataset:
    """Read labelled photos from a folder or a manifest, telling the layout from what is there.

    Parameters
    ----------
    data : str or Path, optional
        A folder, a manifest, a tar, a pattern of tars (``birds-{0000..0003}.tar``), the URL of any of them
        (``s3://…``), or a word of ``flip.names.SAMPLE_DATA`` for drawn birds; see :func:`default_data`.
    layout : str, optional
        One of ``flip.names.LAYOUTS``, to read the data as that.
    test_fraction : float
        Share of photos held out for testing where the layout has no split of its own; at least 0 and below 1.
    classnames : Path, optional
        A file that renames the classes; see :func:`flip.data.classnames.rename_classes`.
    class_level : int, optional
        Level of folders that are the classes: 1 for ``<class>/*``, 2 for ``<genus>/<class>/*``.
    cache : Path, optional
        The folder of drawn birds and of photos unpacked from tables; the platform's cache without it.
    embedding_column : str, optional
        Column of a Parquet table that holds embeddings, to read the data as that; else the only one of float lists.

    Raises
    ------
    DataError
        If there is nothing at ``data``, no layout fits, or the data is not what its layout promises.
    ConfigError
        If ``layout``, ``test_fraction`` or ``class_level`` is not allowed.
    """
    settings = ReadSettings(
        test_fraction=test_fraction, class_level=class_level, cache=cache, embedding_column=embedding_column
    )
    _require_known(layout)
    layout = layout or ("embeddings" if embedding_column else None)
    data = data or default_data()
    if data is None:
        raise ConfigError(f"no data is named, and there is no FLIP_DATA and no {USUAL_DATA}; pass a folder of photos")
    if str(data) in GUIDES and layout is None:
        return _finished(read_sample(str(data), cache), classnames)
    if (url := url_of(data)) is not None:
        return _open_remote(url, layout, settings, classnames)
    return _open(local_path(data).expanduser(), layout, settings, classnames)


def _open_remote(url: str, layout: str | None, settings: ReadSettings, classnames: Path | None) -> Dataset:
    """Read data at a URL; errors name it rather than the folder that stands for it."""
    data = localise(url, settings.cache)
    with errors_naming(data.url, data.folder):
        return _open(data.path, layout, settings, classnames)


def _require_known(layout: str | None) -> None:
    if layout is not None and layout not in LAYOUTS:
        raise ConfigError(
            f"layout {layout!r} is unknown{near_names(layout, LAYOUTS)}; pass one of {', '.join(LAYOUTS)}"
        )


def _open(root: Path, layout: str | None, settings: ReadSettings, classnames: Path | None) -> Dataset:
    try:
        return _finished(_read(root, layout, settings), classnames)
    except OSError as error:
        raise DataError(f"cannot read {error.filename or root}: {reason_of(error)}") from error


def _read(root: Path, layout: str | None, settings: ReadSettings) -> Dataset:
    """Read data as a layout; an error, or a note, says when an archive's files are there in part or are not used."""
    _require_something(root)
    chosen = layouts()[layout] if layout else _recognise(root)
    if is_file(root) and not chosen.files:
        raise DataError(
            f"{root} is a file, and {chosen.name} is a layout of folders; pass the folder, or --layout manifest"
        )
    try:
        dataset = chosen.read(root, settings)
    except DataError as error:
        missing = None if layout or chosen.index_files else missing_files(root)
        if missing is None:
            raise
        raise DataError(f"{error}; {missing}") from error
    return replace(dataset, notes=(*dataset.notes, *unused_splits(root, chosen)))


def _finished(dataset: Dataset, classnames: Path | None) -> Dataset:
    """Return the dataset with the names that were asked for; what was left out and what was understood is logged."""
    if classnames is not None:
        dataset = rename_classes(dataset, classnames)
    notes = (*dataset.notes, *_about_names(dataset, classnames), *_about_splits(dataset))
    dataset = replace(dataset, notes=notes)
    for note in dataset.notes:
        log.info("%s: %s", dataset.layout, note)
    for omission in dataset.left_out:
        log.info("%s: left out %s", dataset.layout, omission)
    return dataset


def _about_names(dataset: Dataset, given: Path | None) -> Iterator[str]:
    """Yield sentences on class names that may not be meant as they are."""
    names = dataset.classnames
    name, count = Counter(names).most_common(1)[0] if names else ("", 0)
    if count > 1:
        yield f"{count} classes have the name {name!r}; answers that name it do not tell them apart"
    near = near_equal_names(dataset.classnames)
    if near:
        first, other = near[0]
        more = f", and {len(near) - 1} more pairs" if len(near) > 1 else ""
        yield f"classes {first!r} and {other!r} differ by case, spaces or hyphens only{more}; are they one class?"
    if given is None and wordnet_ids(dataset.raw_names):
        yield f"the classes are named by WordNet ids, such as {names[0]}, which say nothing; pass --classnames FILE"
    if given is None and len(names) > 1 and all(re.fullmatch(r"\d+(?:\.\d+)?", name) for name in names):
        yield f"the classes are named by numbers, such as {names[0]}, which say nothing; pass --classnames FILE"
    if len(names) == 1:
        yield f"there is one class, {names[0]!r}: no accuracy means anything"


def _about_splits(dataset: Dataset) -> Iterator[str]:
    """Yield a sentence on classes that are tested and cannot be learned, where there is something to learn from."""
    if "train" not in dataset.splits:
        return
    learned = {record.label for record in dataset.records if record.split == "train"}
    absent = [name for c, name in enumerate(dataset.classnames) if c not in learned]
    if absent:
        have = "has" if len(absent) == 1 else "have"
        yield f"{counted(len(absent), 'class', 'classes')} {have} no training photo, such as {absent[0]!r}"


def _accepted() -> str:
    """Return the layouts as messages list them."""
    return ", ".join(layout.shape for layout in layouts().values())


def _require_something(root: Path) -> None:
    if is_file(root) or is_pattern(root):
        return
    if not root.is_dir():
        if kind := what_is(root):
            raise DataError(f"{root} is {kind}; pass a folder, or a plain file")
        parent = root.absolute().parent
        if not parent.is_dir():
            raise DataError(f"no folder or file {root}: {parent} is not there either; check the path")
        near = near_names(root.name, (path.name for path in parent.iterdir()))
        raise DataError(f"no folder or file {root}{near or '; check the path'}")
    if not any(root.iterdir()):
        raise DataError(f"{root} is empty; flip reads {_accepted()}")


def _recognise(root: Path) -> Layout:
    """Return the layout of what is there: the first that knows it."""
    if is_pattern(root):
        return layouts()["webdataset"]
    for layout in layouts().values():
        if (layout.files or root.is_dir()) and layout.recognise(root):
            return layout
    if is_file(root):
        advice = suffix_advice(root.suffix.lower())
        raise DataError(
            f"{root} is no manifest; its name must end in one of {', '.join(READERS)}, .tar, or give a folder"
            + (f" ({advice})" if advice else "")
        )
    raise DataError(_unrecognised(root))


def _unrecognised(root: Path) -> str:
    files = [path.name for path in root.iterdir() if not is_hidden(path.name) and path.is_file()]
    photos = sum(map(is_image_file, files))
    if photos:
        return (
            f"{root} holds {counted(photos, 'photo', 'photos')} and no class folders; put the photos of each class in "
            "a folder of its own, or list them in a manifest with path and label"
        )
    shown = ", ".join([*(f"{name}/" for name in subfolders(root)), *sorted(files)][:5]) or "hidden files only"
    return f"no layout fits {root}, which holds {shown}; flip reads {_accepted()}"
