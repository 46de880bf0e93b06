"""Several processes on one dataset and one cache, one of them killed: the others' results are those of one alone.

``python -m tests.fuzz.races --rounds 30`` is the long form.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.fuzz.kills import Ground, table


@dataclass(frozen=True)
class Racer:
    """A command, and its result: of its standard output and the folder that it was given."""

    name: str
    arguments: tuple[str, ...]
    result: Callable[[str, Path], Any]


def evaluation(said: str, folder: Path) -> Any:
    """Numbers of an evaluation."""
    return json.loads(said)["per_class"]


def whole_lines(said: str, folder: Path) -> Any:
    """Photos that were named, by what was printed."""
    return sorted((row["path"], row["label"]) for row in map(json.loads, said.splitlines()))


RACERS = (
    Racer("embed", ("embed", "--data", "birds", "--batch-size", "4", "-o"), lambda said, folder: table(folder)),
    Racer("knn", ("knn", "--data", "birds", "--batch-size", "4"), evaluation),
    Racer("zeroshot", ("zeroshot", "--data", "birds", "--batch-size", "4"), evaluation),
    Racer("name", ("knn", "--data", "birds", "--batch-size", "4", "birds/test"), whole_lines),
)


class Race:
    """Processes that run at the same time."""

    def __init__(self, ground: Ground) -> None:
        self.ground = ground
        own = {"FLIP_MODEL": str(ground.folder / "model"), "FLIP_CACHE": str(ground.folder / "cache")}
        self.surroundings = {**os.environ, **own}

    def start(self, racer: Racer, number: int) -> subprocess.Popen[bytes]:
        """Begin a process with an output of its own."""
        arguments = list(racer.arguments)
        if arguments[-1] == "-o":
            arguments.append(f"out{number}")
        said, heard = (self.ground.folder / f"{number}.{kind}" for kind in ("out", "err"))
        command = [sys.executable, "-m", "flip", *arguments, "--device", "cpu", "-q"]
        with said.open("wb") as out, heard.open("wb") as err:
            return subprocess.Popen(command, cwd=self.ground.folder, env=self.surroundings, stdout=out, stderr=err)

    def result(self, racer: Racer, number: int, process: subprocess.Popen[bytes]) -> Any:
        """Wait for a process and return its result; its error where it failed."""
        code = process.wait(600)
        said, heard = ((self.ground.folder / f"{number}.{kind}").read_text() for kind in ("out", "err"))
        return racer.result(said, self.ground.folder / f"out{number}") if code == 0 else f"exit code {code}: {heard}"

    def clear(self) -> None:
        """Remove the cache and every output."""
        self.ground.clear()
        for folder in self.ground.folder.glob("out*"):
            shutil.rmtree(folder)


def compete(race: Race, expected: dict[str, Any], rng: random.Random) -> list[str]:
    """Start two to four processes on an empty cache and kill one; return what was wrong with the others."""
    race.clear()
    racers = [rng.choice(RACERS) for _ in range(rng.randint(2, 4))]
    running = []
    for number, racer in enumerate(racers):
        running.append(race.start(racer, number))
        time.sleep(rng.uniform(0, 1))
    victim = rng.randrange(len(racers))
    time.sleep(rng.uniform(0, 6))
    running[victim].send_signal(signal.SIGKILL)
    wrong = []
    for number, (racer, process) in enumerate(zip(racers, running, strict=True)):
        found = race.result(racer, number, process)
        if found != expected[racer.name] and not (number == victim and process.returncode == -signal.SIGKILL):
            wrong.append(f"{racer.name} beside {[r.name for r in racers]}: {str(found)[:300]}")
    return wrong


def main(rounds: int, seed: int = 0) -> list[str]:
    """Run, and return what was wrong."""
    rng, wrong = random.Random(seed), []
    with tempfile.TemporaryDirectory() as folder:
        race = Race(Ground(Path(folder)))
        expected = {}
        for racer in RACERS:
            race.clear()
            expected[racer.name] = race.result(racer, 0, race.start(racer, 0))
            assert not isinstance(expected[racer.name], str), expected
        for _ in range(rounds):
            wrong += compete(race, expected, rng)
        # The cache that they left serves one that comes later.
        last = RACERS[0]
        shutil.rmtree(Path(folder) / "out0", ignore_errors=True)
        if race.result(last, 0, race.start(last, 0)) != expected[last.name]:
            wrong.append("another result from the cache that they left")
        wrong += [f"left {path}" for path in race.ground.left_behind()]
    return wrong


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    found = main(options.rounds, options.seed)
    print(f"{options.rounds} rounds, {len(found)} findings", *found, sep="\n    ")
    raise SystemExit(int(bool(found)))
