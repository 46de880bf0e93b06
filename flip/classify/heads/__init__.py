"""Heads: classifiers over cached features, one file per head. ``build_head`` makes one by its name."""

from __future__ import annotations

import functools
import pkgutil
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from flip.classify.heads.base import Head, SavedHead
from flip.classify.text_side import Inputs
from flip.errors import ConfigError, near_names
from flip.names import HEADS

__all__ = ["Head", "Inputs", "SavedHead", "build_head", "head_class", "head_classes", "head_from_arrays"]


@functools.cache
def head_classes() -> Mapping[str, type[Head]]:
    """Return every head class by its name: the classes with a ``name`` in the modules of this package.

    ``flip.names.HEADS`` holds the same names for the command line.
    """
    found: dict[str, type[Head]] = {}
    for info in pkgutil.iter_modules(__path__):
        module = import_module(f"{__name__}.{info.name}")
        classes = [cls for cls in vars(module).values() if isinstance(cls, type) and issubclass(cls, Head)]
        # Not those that the module imports, and not bases without a name.
        found |= {cls.name: cls for cls in classes if cls.__module__ == module.__name__ and "name" in vars(cls)}
    return found


def head_class(name: str) -> type[Head]:
    """Return the class of a head.

    Raises
    ------
    ConfigError
        If there is no such head.
    """
    if name not in head_classes():
        raise ConfigError(f"unknown head {name!r}{near_names(name, HEADS)}; pass one of {', '.join(HEADS)}")
    return head_classes()[name]


def build_head(name: str, n_classes: int, seed: int = 0, **options: Any) -> Head:
    """Return an unfitted head by the name that ``--head`` takes.

    Parameters
    ----------
    name : str
        One of ``flip.names.HEADS``.
    n_classes : int
    seed : int
    **options
        Further arguments of the head's class, such as ``alpha``, ``device`` or ``members``.

    Raises
    ------
    ConfigError
        If there is no such head.
    """
    return head_class(name)(n_classes, seed, **options)


def head_from_arrays(saved: SavedHead) -> Head:
    """Return the fitted head that ``Head.to_arrays`` described, whichever it is.

    Raises
    ------
    ConfigError
        If there is no such head.
    """
    return head_class(str(saved.values.get("head"))).from_arrays(saved)
