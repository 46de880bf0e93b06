"""Commands that are killed at a random moment and run again: the result is that of an undisturbed run.

``python -m tests.fuzz.kills --kills 60`` is the long form.
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

from tests import conftest

SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@dataclass(frozen=True)
class Command:
    """A command line, and what of its folder must be equal."""

    name: str
    arguments: tuple[str, ...]
    result: Callable[[Path], Any]


def pictures(folder: Path) -> dict[str, bytes]:
    """The images in a folder, with their metadata."""
    return {
        str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*.png")) if "samples" not in f.parts
    }


def weights(folder: Path) -> dict[str, bytes]:
    """The weights in a folder."""
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*.safetensors"))}


def table(folder: Path) -> Any:
    """The rows of a table of embeddings."""
    import pyarrow.parquet as pq

    return pq.read_table(folder / "embeddings.parquet").to_pylist()


def study(folder: Path) -> Any:
    """The numbers of a study."""
    return {k: v for k, v in json.loads((folder / "study.json").read_text()).items() if k != "seconds"}


_DRAW = ("--ckpt", "tiny.ckpt", "--steps", "1", "--size", "64x64", "-o", "out")
_STUDY = ("--shots", "1", "--seeds", "1", "--head", "gda", "--weights", "1")
COMMANDS = (
    Command("embed", ("embed", "--data", "birds", "-o", "out", "--batch-size", "4"), table),
    Command("generate", ("generate", "a wren", "-n", "8", *_DRAW), pictures),
    Command("augment", ("augment", "--data", "birds", "--per-class", "3", "--filter", "none", *_DRAW), pictures),
    Command("study", ("augment", "--study", "--data", "birds", *_STUDY, *_DRAW, "--steps", "2"), study),
    Command("finetune", ("finetune", "--data", "birds", "--epochs", "3", "--batch-size", "8", "-o", "out"), weights),
    Command(
        "finetune diffusion",
        ("finetune", "--target", "diffusion", "--ckpt", "tiny.ckpt", "--data", "birds", "--epochs", "2", "-o", "out"),
        weights,
    ),
)


class Ground:
    """A folder with photos and tiny models, in which commands run."""

    def __init__(self, folder: Path) -> None:
        from tests.diffusion.tiny import ldm_state, make_pipeline, save_ckpt

        self.folder = folder
        conftest.write_captioned(folder / "birds")
        conftest.write_model(folder / "model")
        save_ckpt(folder / "tiny.ckpt", ldm_state(make_pipeline()))

    def start(self, command: Command) -> subprocess.Popen[bytes]:
        """Begin a command, or go on with it."""
        own = {"FLIP_MODEL": str(self.folder / "model"), "FLIP_CACHE": str(self.folder / "cache")}
        arguments = [sys.executable, "-m", "flip", *command.arguments, "--device", "cpu", "-q"]
        with (self.folder / "said").open("wb") as said:
            return subprocess.Popen(arguments, cwd=self.folder, env={**os.environ, **own}, stdout=said, stderr=said)

    def finish(self, command: Command) -> Any:
        """Run a command to its end and return its result."""
        code = self.start(command).wait(600)
        said = (self.folder / "said").read_text(errors="replace")[-2000:]
        # Killed behind its last file, it is finished, and a finished run is not begun again.
        finished = "already holds files" in said or "holds a finished run" in said
        assert code == 0 or (code == 1 and finished), (command.name, said)
        return command.result(self.folder / "out")

    def clear(self) -> None:
        """Remove what commands left, also in the cache."""
        for name in ("out", "cache"):
            shutil.rmtree(self.folder / name, ignore_errors=True)

    def left_behind(self) -> list[str]:
        """Temporary files, and checkpoints of finished runs."""
        return [str(p) for p in self.folder.rglob("*") if p.name.startswith(".flip-tmp-") or p.name == "checkpoints"]


def survive(ground: Ground, command: Command, kills: int, rng: random.Random) -> list[str]:
    """Kill a command this often, each time in another run; return what was wrong."""
    ground.clear()
    began = time.monotonic()
    expected = ground.finish(command)
    seconds, wrong = time.monotonic() - began, []
    for _ in range(kills):
        ground.clear()
        process, number = ground.start(command), rng.choice(SIGNALS)
        moment = rng.uniform(0.2, 1.0) * seconds
        try:
            process.wait(moment)
        except subprocess.TimeoutExpired:
            process.send_signal(number)
            process.wait(120)
        what = f"{command.name}, {number.name} after {moment:.1f} of {seconds:.1f} s"
        if process.returncode not in (0, -number, 128 + number):
            wrong.append(f"{what}: exit code {process.returncode}")
        if ground.finish(command) != expected:
            wrong.append(f"{what}: another result")
        wrong += [f"{what}: left {path}" for path in ground.left_behind()]
    return wrong


def main() -> int:
    """Run, print a line per command, and return 1 where something was wrong."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--command", action="append", help="only these")
    options = parser.parse_args()
    rng, found = random.Random(options.seed), 0
    with tempfile.TemporaryDirectory() as folder:
        ground = Ground(Path(folder))
        chosen = [c for c in COMMANDS if not options.command or c.name in options.command]
        for command in chosen:
            wrong = survive(ground, command, -(-options.kills // len(chosen)), rng)
            found += len(wrong)
            print(f"{command.name}: {-(-options.kills // len(chosen))} kills", *wrong, sep="\n    ", flush=True)
    return int(found > 0)


if __name__ == "__main__":
    raise SystemExit(main())
