"""Heads: classifiers over cached features, one file per head. ``build_head`` makes one by its name."""

from __future__ import annotations

import functools
import pkgutil
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

from flip.arrays import Array
from flip.classify.heads.base import Head
from flip.classify.text_side import Inputs
from flip.errors import ConfigError, near_names
from flip.names import HEADS

__all__ = ["Head", "Inputs", "build_head", "head_class", "head_classes", "head_from_arrays"]


@functools.cache
def head_classes() -> Mapping[str, type[Head]]:
    """Return every head class by its name: the classes with a ``name`` in the modules of this package.

    ``flip.names.HEADS`` holds the same names for the command line.
    """
    for module in pkgutil.iter_modules(__path__):
        import_module(f"{__name__}.{module.name}")
    found: Iterator[type[Head]] = _subclasses(Head)
    return {cls.name: cls for cls in found if "name" in vars(cls) and cls.__module__.startswith(__name__)}


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


def head_from_arrays(arrays: Mapping[str, Array], values: Mapping[str, Any]) -> Head:
    """Return the fitted head that ``Head.to_arrays`` described, whichever it is."""
    return head_class(str(values.get("head"))).from_arrays(arrays, values)


def _subclasses(cls: Any) -> Iterator[type[Head]]:
    for subclass in cls.__subclasses__():
        yield subclass
        yield from _subclasses(subclass)
