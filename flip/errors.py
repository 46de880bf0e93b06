"""The errors a user can cause, each one line: what was given, what is allowed, what to do next."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from flip.shown import one_line

if TYPE_CHECKING:
    from pathlib import Path


class FlipError(Exception):
    """Base of everything flip raises on purpose; the command line prints it as one line and exits with 1.

    As text it is one line of bounded length, whatever names and libraries' messages are part of it.
    """

    def __str__(self) -> str:
        return one_line(super().__str__())


class DataError(FlipError):
    """A dataset, manifest, photo or class list is not what its layout promises."""


class ConfigError(FlipError):
    """An option, or a combination of options, cannot be carried out."""


class ModelError(FlipError):
    """A model is unknown, absent, unreadable or not what its configuration says."""


class CheckpointError(FlipError):
    """A checkpoint is refused, truncated or does not fit."""


class FeatureMismatchError(FlipError):
    """Features, or something fitted on them, were made by another model."""


class MissingDependencyError(FlipError):
    """An optional package is needed; the message names the exact ``pip install``."""


class Interrupted(KeyboardInterrupt):
    """The process was asked to end; what was finished is kept.

    Parameters
    ----------
    signal : int
        SIGINT, SIGTERM or SIGHUP.
    """

    def __init__(self, signal: int) -> None:
        super().__init__()
        self.signal = signal


@contextlib.contextmanager
def errors_naming(name: str, folder: Path) -> Iterator[None]:
    """Replace the path of a local copy by its name, such as a URL, in the messages of errors."""
    try:
        yield
    except FlipError as error:
        raise type(error)(str(error.args[0]).replace(str(folder), name)) from error


def reason_of(error: BaseException) -> str:
    """Return why something failed, in one line: of a system's error its words without number and path."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split())[:200] or type(error).__name__


def near_names(given: str, allowed: Iterable[str], most: int = 3) -> str:
    """Return ``"; did you mean a, b?"`` for the names closest to ``given``, or ``""`` when none is close."""
    by_folded = {name.casefold(): name for name in allowed}
    close = difflib.get_close_matches(given.casefold(), by_folded, n=most, cutoff=0.6)
    return f"; did you mean {', '.join(by_folded[name] for name in close)}?" if close else ""
