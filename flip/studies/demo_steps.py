"""Steps of a long job: how far each is, how long the rest will take, and what those that are done left."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flip.errors import ConfigError, reason_of
from flip.files import claim_folder, require_same_key, write_json
from flip.reading import read_json
from flip.results import FORMAT
from flip.settings import Progress

log = logging.getLogger(__name__)

#: Called with the share of a step that is done, from 0 to 1, and the seconds that the whole job will still take.
StepUpdate = Callable[[float, float], None]

#: Opens a bar with a title.
OpenBar = Callable[[str], AbstractContextManager[StepUpdate | None]]

#: Result of a step, as JSON holds it.
StepResult = dict[str, Any]


def no_bar(title: str) -> AbstractContextManager[StepUpdate | None]:
    """Show nothing."""
    return nullcontext()


@dataclass(frozen=True)
class Step:
    """A step's title, and its share of the whole time: seconds on two idle cores."""

    title: str
    share: float


@dataclass
class StepProgress:
    """Progress of a step: its parts follow each other, each with a share of it.

    Attributes
    ----------
    report : callable
        Called with the share of the step that is done.
    """

    report: Callable[[float], None]
    _begun: float = 0.0

    def part(self, share: float, total: int) -> Progress:
        """Return a progress callback for the next part, which has ``total`` items and this share of the step."""
        start, done = self._begun, 0
        self._begun += share

        def advance(n: int) -> None:
            nonlocal done
            done += n
            self.report(min(start + share * done / max(total, 1), 1.0))

        return advance


def seconds_left(steps: Sequence[Step], at: int, share: float, passed: float) -> float:
    """Estimate how long a job will still take from what has passed.

    Parameters
    ----------
    steps : sequence of Step
    at : int
        The step in progress.
    share : float
        How much of it is done, 0 to 1.
    passed : float
        Seconds of the finished steps and of this one. Before anything is done, shares are taken for seconds.
    """
    done = sum(step.share for step in steps[:at]) + share * steps[at].share
    left = sum(step.share for step in steps) - done
    return left * (passed / done if done else 1.0)


@dataclass
class StepFolder:
    """A folder that keeps what each finished step left, so that a stopped job goes on with the next one.

    Attributes
    ----------
    folder : Path
    file : str
        Name of the file that holds it.
    key : mapping
        What decides the results: work that was begun otherwise is refused.
    """

    folder: Path
    file: str
    key: Mapping[str, object]
    done: dict[str, StepResult] = field(default_factory=dict)

    def open(self, *, overwrite: bool) -> None:
        """Make the folder, or take up what an earlier run left in it.

        Raises
        ------
        ConfigError
            If it holds other work.
        """
        state = self.folder / self.file
        if claim_folder(self.folder, self.file, overwrite=overwrite) and not overwrite:
            try:
                content = read_json(state)
                before, self.done = dict(content["made_with"]), dict(content["steps"])
            except (OSError, ValueError, KeyError, TypeError) as e:
                raise ConfigError(f"{state} is damaged ({reason_of(e)}); pass --overwrite to begin again") from e
            require_same_key(self.folder, before, self.key, "pass -o with another folder, or --overwrite")
        self._write()

    def keep(self, title: str, result: StepResult) -> None:
        """Keep what a step left."""
        self.done[title] = result
        self._write()

    def _write(self) -> None:
        content = {"command": "demo", "format": FORMAT, "made_with": self.key, "steps": self.done}
        write_json(self.folder / self.file, content)

    @property
    def passed(self) -> float:
        """Seconds that the finished steps took."""
        return float(sum(result["seconds"] for result in self.done.values()))


@contextmanager
def watched(steps: Sequence[Step], at: int, before: float, open_bar: OpenBar) -> Iterator[StepProgress]:
    """Say which step begins and how long the rest will take, and show a bar while it lasts."""
    began = time.perf_counter()
    title = f"step {at + 1} of {len(steps)}: {steps[at].title}"
    log.info("%s (about %.0f s left)", title, seconds_left(steps, at, 0.0, before))
    with open_bar(title) as update:

        def report(share: float) -> None:
            if update:
                update(share, seconds_left(steps, at, share, before + time.perf_counter() - began))

        yield StepProgress(report)
