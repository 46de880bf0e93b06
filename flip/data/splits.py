"""Splits: the words people write for them, and the split by a hash where there is none."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from unicodedata import normalize

from flip.data.settings import require_test_fraction

#: Photos without labels: left out, and said.
UNLABELED = "unlabeled"

#: Words for the test split that mean the validation split where there is a test split beside them.
_EVALUATION = frozenset({"eval", "evaluation", "evaluate"})

_WORDS = {
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "tst", "holdout", "heldout"), "test"),
    **dict.fromkeys(_EVALUATION, "test"),
    **dict.fromkeys(("unlabeled", "unlabelled", "unsup", "unsupervised", "nolabel", "nolabels"), UNLABELED),
}

_WORDS |= {f"{word}set": split for word, split in _WORDS.items() if split != UNLABELED}

#: Words beside that of the split which say nothing.
_FILLERS = frozenset(
    (
        "data",
        "dataset",
        "folder",
        "full",
        "image",
        "images",
        "img",
        "imgs",
        "mini",
        "photos",
        "pictures",
        "set",
        "split",
    )
)

#: The words as messages list them.
SPLIT_WORDS = ("train", "training", "val", "valid", "validation", "dev", "test", "testing", "eval", "holdout")


def split_word(name: str) -> str | None:
    """Return the split that a folder's or a cell's name is a word for: ``Train``, ``train2017``, ``test_set``.

    Returns
    -------
    str or None
        "train", "val", "test" or "unlabeled"; None where the name says anything else besides.
    """
    found, rest = _split_and_rest(name)
    return found if not [word for word in rest if word not in _FILLERS and not word.isdigit()] else None


def says_split(name: str) -> bool:
    """Return whether one word of a name is a split, whatever the others are: ``seen_train``, ``test_clean``."""
    return _split_and_rest(name)[0] is not None


def named_split(name: str) -> str | None:
    """Return the split that one word of a name says, whatever the others are; None where no word or several do."""
    return _split_and_rest(name)[0]


def read_splits(names: Iterable[str]) -> dict[str, str]:
    """Return the split of each name that is a word for one; ``eval`` is the test split where no other name says test.

    Parameters
    ----------
    names : iterable of str
        The folders beside each other, or the different values of a column.
    """
    found = {name: split for name in names if (split := split_word(name))}
    tests = [name for name, split in found.items() if split == "test"]
    evaluations = [name for name in tests if _is_evaluation(name)]
    if len(evaluations) < len(tests):
        found |= dict.fromkeys(evaluations, "val")
    return found


def affixed_splits(names: Sequence[str]) -> dict[str, str]:
    """Return the splits of folders such as ``birds_train`` and ``birds_test``: one rest in all, and two splits or more.

    A folder of steam trains may be called ``steam_train``: it is one split, or beside a folder that is none.
    """
    parts = [_split_and_rest(name) for name in names]
    rests = {" ".join(rest) for _, rest in parts}
    splits = [split for split, _ in parts]
    if len(rests) != 1 or None in splits or len(set(splits)) < 2:
        return {}
    return {name: split for name, split in zip(names, splits, strict=True) if split is not None}


def parts_of_one_name(names: Iterable[str]) -> tuple[str, str] | None:
    """Return two names that say different splits and are alike otherwise, such as ``birds_train`` and ``birds_test``.

    A word that is a split alone does not count: a class of vehicles may be called ``train``.
    """
    first: dict[tuple[str, ...], tuple[str, str]] = {}
    for name in names:
        split, rest = _split_and_rest(name)
        if split is None or not rest:
            continue
        before = first.setdefault(rest, (split, name))
        if before[0] != split:
            return before[1], name
    return None


def hash_splits(paths: Sequence[str], labels: Sequence[int], test_fraction: float) -> list[str]:
    """Return ``train`` or ``test`` for each photo, from a hash of its path.

    A photo stays where it is when others are added or the folder is moved. The photo of a class that has the smallest
    hash is always ``train``, so no class is without one.

    Parameters
    ----------
    paths : sequence of str
        Relative to the data's folder, with ``/``.
    labels : sequence of int
    test_fraction : float
        At least 0 and below 1.

    Raises
    ------
    ConfigError
        If ``test_fraction`` is outside that range.
    """
    require_test_fraction(test_fraction)
    hashes = [_path_hash(path) for path in paths]
    smallest: dict[int, int] = {}
    for i, c in enumerate(labels):
        if c not in smallest or hashes[i] < hashes[smallest[c]]:
            smallest[c] = i
    return [
        "train" if value < 1 - test_fraction or smallest[c] == i else "test"
        for i, (value, c) in enumerate(zip(hashes, labels, strict=True))
    ]


def describe_splits(splits: Mapping[str, str]) -> str | None:
    """Return a sentence on the names that are read as a split of another name, None where every name says it."""
    told = [f"{name} as {split}" for name, split in splits.items() if split in ("val", "test") and _is_evaluation(name)]
    told += [f"{name} as {split}" for name, split in splits.items() if _joined(name) in ("holdout", "heldout")]
    return f"read {', '.join(told)}" if told else None


def _split_and_rest(name: str) -> tuple[str | None, tuple[str, ...]]:
    """Return the split that one word of a name says, and the other words."""
    if split := _WORDS.get(_joined(name)):
        return split, ()
    words = [word.casefold() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+|[^\W\d_A-Za-z]+", name)]
    at = [i for i, word in enumerate(words) if word in _WORDS]
    if len(at) != 1:
        return None, tuple(words)
    return _WORDS[words[at[0]]], tuple(words[: at[0]] + words[at[0] + 1 :])


def _joined(name: str) -> str:
    return re.sub(r"[\s_.-]+", "", name.casefold())


def _is_evaluation(name: str) -> bool:
    return any(word in _EVALUATION for word in re.findall(r"[a-z]+", name.casefold()))


def _path_hash(path: str) -> float:
    # macOS may hand out decomposed accents; the same photo must fall into the same split everywhere.
    digest = hashlib.sha256(normalize("NFC", path).encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
