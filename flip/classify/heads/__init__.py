"""Heads: classifiers over cached features. ``make_head`` builds one by name."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from flip.classify.heads.base import Head, Inputs
from flip.errors import ConfigError, near_names

__all__ = ["HEADS", "Head", "Inputs", "head_from_arrays", "make_head"]

#: Where each head lives; a head's libraries are loaded when it is made.
HEADS: dict[str, str] = {
    "mlp": "flip.classify.heads.mlp:MlpHead",
    "linear": "flip.classify.heads.linear:LinearHead",
    "gda": "flip.classify.heads.gda:GdaHead",
    "tip": "flip.classify.heads.tip:TipHead",
    "svm-linear": "flip.classify.heads.svm:LinearSvmHead",
    "svm-rbf": "flip.classify.heads.svm:RbfSvmHead",
    "ensemble": "flip.classify.heads.ensemble:EnsembleHead",
    "auto": "flip.classify.heads.auto:AutoHead",
}


def head_class(name: str) -> type[Head]:
    """Return the class of a head.

    Raises
    ------
    ConfigError
        If there is no such head.
    """
    if name not in HEADS:
        raise ConfigError(f"unknown head {name!r}{near_names(name, HEADS)}; pass one of {', '.join(HEADS)}")
    module, _, attribute = HEADS[name].partition(":")
    found: type[Head] = getattr(import_module(module), attribute)
    return found


def make_head(name: str, n_classes: int, seed: int = 0, **options: Any) -> Head:
    """Return an unfitted head by the name that ``--head`` takes.

    Parameters
    ----------
    name : str
        A key of ``HEADS``.
    n_classes : int
    seed : int
    **options
        What the head's class takes beside these (``alpha``, ``device``, ``members``).
    """
    return head_class(name)(n_classes, seed, **options)


def head_from_arrays(arrays: dict[str, Any], values: dict[str, Any]) -> Head:
    """Return the fitted head that ``Head.to_arrays`` described, whichever it is."""
    return head_class(str(values.get("head"))).from_arrays(arrays, values)
