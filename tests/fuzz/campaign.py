"""Runs readers over changed copies of their corpus, and counts."""

from __future__ import annotations

import contextlib
import logging
import os
import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.fuzz.guard import Guard, Outcome
from tests.fuzz.mutate import change_file, change_place


@dataclass(frozen=True)
class Reader:
    """Something that reads files.

    Attributes
    ----------
    name : str
    make : callable
        Writes the corpus into a folder.
    read : callable
        Reads the folder; returns what can be compared.
    same : callable, optional
        (folder, what was read, what is read of the corpus) → what is silently wrong, or None.
    files : str
        Glob of the files that are changed.
    places : float
        How often a file's place is changed rather than its content.
    cost : int
        An input of this reader counts as so many: slow readers get fewer.
    writes : bool
        It writes into the folder, which is copied anew for every input.
    """

    name: str
    make: Callable[[Path], None]
    read: Callable[[Path], Any]
    same: Callable[[Path, Any, Any], str | None] | None = None
    files: str = "**/*"
    places: float = 0.1
    cost: int = 1
    writes: bool = False


@dataclass
class Tally:
    """Counts of a reader's outcomes."""

    reader: str
    inputs: int = 0
    refused: int = 0
    read: int = 0
    slowest: float = 0.0
    findings: Counter[str] = field(default_factory=Counter)
    examples: dict[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        found = "".join(f"\n    {n} x {what} (seed {self.examples[what]})" for what, n in self.findings.most_common())
        return (
            f"{self.reader:<18} {self.inputs:>6} inputs  {self.refused:>6} refused  {self.read:>6} read  "
            f"slowest {self.slowest:.1f} s  {sum(self.findings.values())} findings{found}"
        )


def run(reader: Reader, inputs: int, folder: Path, first_seed: int = 0) -> Tally:
    """Give a reader this many changed copies of its corpus."""
    tally, guard = Tally(reader.name), Guard(folder)
    pristine, scratch = folder / "pristine", folder / "scratch"
    pristine.mkdir(parents=True)
    reader.make(pristine)
    files = sorted(f.relative_to(pristine) for f in pristine.glob(reader.files) if f.is_file())
    with guard.watching(), _inside(folder), _silent():
        shutil.copytree(pristine, scratch, symlinks=True)
        usual = guard.run(reader.read, scratch)
        assert not usual.wrong, (reader.name, usual.wrong)
        assert usual.error is None, (reader.name, usual.error)
        if reader.writes:
            shutil.rmtree(scratch)
            shutil.copytree(pristine, scratch, symlinks=True)
        for seed in range(first_seed, first_seed + inputs):
            rng = random.Random(f"{reader.name} {seed}")
            file = rng.choice(files)
            (change_place if rng.random() < reader.places else change_file)(scratch / file, rng)
            outcome = guard.run(reader.read, scratch)
            _judge(reader, scratch, outcome, usual, tally, seed)
            if reader.writes:
                shutil.rmtree(scratch)
                shutil.copytree(pristine, scratch, symlinks=True)
            else:
                _restore(pristine, scratch, file)
    return tally


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Let flip's notes go nowhere."""
    logger = logging.getLogger("flip")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


def _judge(reader: Reader, scratch: Path, outcome: Outcome, usual: Outcome, tally: Tally, seed: int) -> None:
    wrong = list(outcome.wrong)
    if not wrong and outcome.error is None and reader.same is not None:
        differs = reader.same(scratch, outcome.value, usual.value)
        wrong += [f"silently wrong: {differs}"] if differs else []
    tally.inputs += 1
    tally.refused += outcome.error is not None
    tally.read += outcome.error is None and not outcome.wrong
    tally.slowest = max(tally.slowest, outcome.seconds)
    for what in wrong:
        tally.findings[what[:160]] += 1
        tally.examples.setdefault(what[:160], seed)


def _restore(pristine: Path, scratch: Path, file: Path) -> None:
    """Bring back the folder of a file as it was; a reader may have left a mark there."""
    original, place = pristine / file, scratch / file
    folder = place.parent
    there = {p.name for p in original.parent.iterdir()}
    for path in folder.iterdir():
        if path.name not in there:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    if place.is_symlink() or not place.is_file():
        shutil.rmtree(place) if place.is_dir() and not place.is_symlink() else place.unlink(missing_ok=True)
    else:
        place.chmod(0o644)
    shutil.copyfile(original, place)


@contextlib.contextmanager
def _inside(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
