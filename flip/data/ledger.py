"""What a reader left out, and how it understood what could have been meant otherwise."""

from __future__ import annotations

from flip.data.dataset import Omission


class Ledger:
    """Collects omissions and notes while a dataset is read; each kind is said once, with a count and the first."""

    def __init__(self) -> None:
        self._omitted: dict[str, tuple[int, str]] = {}
        self._noticed: dict[str, tuple[int, str]] = {}
        self._notes: dict[str, None] = {}

    def omit(self, kind: str, first: str, count: int = 1) -> None:
        """Add something that is left out: a plural phrase ("class folders without photos") and its name."""
        before, name = self._omitted.get(kind, (0, first))
        self._omitted[kind] = before + count, name

    def notice(self, kind: str, example: str) -> None:
        """Add something that is not left out and worth saying: a plural phrase and its name."""
        before, name = self._noticed.get(kind, (0, example))
        self._noticed[kind] = before + 1, name

    def note(self, sentence: str | None) -> None:
        """Add a sentence, where there is one."""
        if sentence:
            self._notes[sentence] = None

    @property
    def left_out(self) -> tuple[Omission, ...]:
        """The omissions, in the order in which they were met."""
        return tuple(Omission(kind, count, first) for kind, (count, first) in self._omitted.items())

    @property
    def notes(self) -> tuple[str, ...]:
        """The sentences, in the order in which they were met."""
        noticed = (f"{kind} ({count:,}), the first {first}" for kind, (count, first) in self._noticed.items())
        return (*self._notes, *noticed)
