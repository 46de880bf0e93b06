"""Whole processes: help, answers from cached embeddings, one new photo, and naming photos beside a large cache.

    python -m tests.bench.bench_start --model MODEL --data FOLDER [--repeats 5]

Each command takes turns with ``python -c "import numpy, pyarrow, faiss"`` (seconds and peak memory are medians). "one
new photo" is embedded by ViT-B/32 with random weights, against importing open_clip and reading the weights.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.bench.processes import Measured, flip_command, load, measured

BARE = [sys.executable, "-c", "import numpy, pyarrow, faiss"]

_WEIGHTS = (
    "import open_clip, sys; from safetensors.torch import load_file; "
    "sum(float(tensor.sum()) for tensor in load_file(sys.argv[1]).values())"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    print(json.dumps(measure(**vars(options)), indent=1))


def measure(model: str, data: str, repeats: int = 5) -> list[dict[str, Any]]:
    """Return a row for each command."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        return [*_cached(model, data, repeats, folder), _one_photo(data, repeats, folder)]


def _cached(model: str, data: str, repeats: int, folder: Path) -> list[dict[str, Any]]:
    shared = ("--data", data, "--model", model, "--format", "json", "-q")
    commands = {
        "--help": flip_command("--help"),
        "zeroshot": flip_command("zeroshot", *shared),
        "knn": flip_command("knn", *shared),
        "hybrid --head gda": flip_command("hybrid", "--head", "gda", *shared),
        "data info": flip_command("data", "info", "--data", data, "-q"),
        "models --here": flip_command("models", "--here", "-q"),
    }
    for name in ("zeroshot", "knn", "hybrid --head gda"):
        measured(commands[name], cache=folder)
    return [_row(name, command, BARE, repeats, folder) for name, command in commands.items()]


def _one_photo(data: str, repeats: int, folder: Path) -> dict[str, Any]:
    """Return the row of a photo that is not in the cache; the model is known there from an earlier run."""
    model, photo = write_vit_b_32(folder / "model"), next(Path(data).rglob("*.jpg"))
    classes = folder / "classes.txt"
    classes.write_text("a\nb\n")
    named = flip_command(
        *("zeroshot", "--classes", classes, "--model", model, "--precision", "fp32", "-q", folder / "photo.jpg")
    )
    shutil.copy(photo, folder / "photo.jpg")
    measured(named, cache=folder / "one")
    theirs = [sys.executable, "-c", _WEIGHTS, str(model / "open_clip_model.safetensors")]
    again: list[tuple[Measured, Measured]] = []
    for turn in range(repeats):
        (folder / "photo.jpg").write_bytes(photo.read_bytes() + bytes(turn + 1))
        again.append((measured(named, cache=folder / "one"), measured(theirs)))
    return _summary("one new photo, ViT-B/32", again)


def write_vit_b_32(folder: Path) -> Path:
    """Write ViT-B/32 with random weights."""
    import open_clip
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    config = open_clip.get_model_config("ViT-B-32")
    save_file(open_clip.CLIP(**config).state_dict(), folder / "open_clip_model.safetensors")
    preprocess = {"mean": [0.48, 0.46, 0.41], "std": [0.27, 0.26, 0.28]}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": preprocess}))
    return folder


def _row(name: str, command: list[str], theirs: list[str], repeats: int, folder: Path) -> dict[str, Any]:
    return _summary(name, [(measured(command, cache=folder), measured(theirs)) for _ in range(repeats)])


def _summary(name: str, turns: list[tuple[Measured, Measured]]) -> dict[str, Any]:
    ours, theirs = zip(*turns, strict=True)
    row = {
        "command": name,
        "s": round(statistics.median(m.seconds for m in ours), 3),
        "cpu_s": round(statistics.median(m.cpu_seconds for m in ours), 3),
        "peak_mb": statistics.median(m.peak_mb for m in ours),
        "beside_s": round(statistics.median(m.seconds for m in theirs), 3),
        "beside_mb": statistics.median(m.peak_mb for m in theirs),
        "ratio": round(statistics.median(a.seconds / b.seconds for a, b in turns), 2),
        "load": load(),
    }
    print(row, file=sys.stderr, flush=True)
    return row


if __name__ == "__main__":
    main()
