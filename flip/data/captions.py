"""Captions as people keep them: a string, a list, or a JSON file of file name to either."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from flip.data.text import nfc, read_text
from flip.errors import DataError
from flip.reading import parse_json


def parse_captions(value: object) -> tuple[str, ...]:
    """Return the captions in a cell: None, a string, a list of strings, or such a list written as JSON in a string.

    Raises
    ------
    ValueError
        If it is something else.
    """
    if value is None or (isinstance(value, float) and value != value):  # pandas writes an empty cell as NaN
        return ()
    if isinstance(value, str):
        text = value.strip()
        if text.startswith("[") and text.endswith("]"):
            try:
                return parse_captions(parse_json(text))
            except ValueError:
                pass  # a caption in brackets
        return (text,) if text else ()
    if isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value):
        return tuple(text for item in value if (text := item.strip()))
    raise ValueError(f"{str(value)[:40]!r} is neither a string nor a list of strings")


def read_captions_json(file: Path, paths: Sequence[str], *, every_key: bool) -> list[tuple[str, ...]]:
    """Return the captions of each photo from a JSON object of file name to caption or captions.

    A key may be the file's name, the end of its path, or either without the suffix.

    Parameters
    ----------
    file : Path
    paths : sequence of str
        The photos, with ``/``.
    every_key : bool
        Whether a key that fits no photo is an error.

    Raises
    ------
    DataError
        If the file is no such object, or a key fits several photos, or none and ``every_key`` is true.
    """
    given = _object(file)
    composed = [nfc(path) for path in paths]
    by_name: dict[str, list[int]] = defaultdict(list)
    for i, path in enumerate(composed):
        name = path.rpartition("/")[2]
        for key in {name, name.rpartition(".")[0]}:
            by_name[key].append(i)
    captions: list[tuple[str, ...]] = [()] * len(paths)
    for key, value in given.items():
        fits = _fitting(nfc(key), by_name, composed)
        if len(fits) > 1:
            raise DataError(f"{file}: {key!r} fits {paths[fits[0]]} and {paths[fits[1]]}; write <folder>/{key}")
        if not fits and every_key:
            raise DataError(f"{file}: no photo {key!r}; add the file, or take the key out")
        for i in fits:
            try:
                captions[i] = parse_captions(value)
            except ValueError as error:
                raise DataError(f"{file}: captions of {key!r}: {error}") from error
    return captions


def _object(file: Path) -> dict[str, object]:
    try:
        given = parse_json(read_text(file))
    except ValueError as error:
        raise DataError(f"{file} is not JSON: {error}") from error
    if not isinstance(given, dict):
        raise DataError(f"{file} holds a JSON {type(given).__name__}; it must be an object of file name to captions")
    return given


def _fitting(key: str, by_name: dict[str, list[int]], paths: Sequence[str]) -> list[int]:
    """Return the rows of the photos that a key of captions.json may mean."""
    key = key.replace("\\", "/").removeprefix("./")
    folder, _, name = key.rpartition("/")
    candidates = by_name.get(name, [])
    if not folder:
        exact = [i for i in candidates if paths[i].rpartition("/")[2] == name]
        return exact or candidates
    parents = [(i, paths[i].rpartition("/")[0]) for i in candidates]
    # Either may be written from a folder further up than the other.
    return [i for i, parent in parents if f"/{parent}".endswith(f"/{folder}") or f"/{folder}".endswith(f"/{parent}")]
