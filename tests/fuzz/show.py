"""One input again, to look at: ``python -m tests.fuzz.show csv 26`` leaves the changed folder and prints what came."""

from __future__ import annotations

import os
import random
import shutil
import sys
import tempfile
import traceback
from pathlib import Path

from tests import conftest  # noqa: F401
from tests.fuzz.__main__ import READERS
from tests.fuzz.mutate import change_file, change_place


def main(name: str, seed: str) -> None:
    """Make the input and read it."""
    reader = next(r for r in READERS if r.name == name)
    folder = Path(tempfile.mkdtemp(prefix="flip-fuzz-"))
    (folder / "pristine").mkdir()
    reader.make(folder / "pristine")
    pristine, scratch = folder / "pristine", folder / "scratch"
    shutil.copytree(pristine, scratch, symlinks=True)
    files = sorted(f.relative_to(pristine) for f in pristine.glob(reader.files) if f.is_file())
    rng = random.Random(f"{name} {seed}")
    file = rng.choice(files)
    (change_place if rng.random() < reader.places else change_file)(scratch / file, rng)
    print(scratch / file)
    os.chdir(folder)
    try:
        print(str(reader.read(scratch))[:2000])
    except Exception:
        traceback.print_exc()


if __name__ == "__main__":
    main(*sys.argv[1:3])
