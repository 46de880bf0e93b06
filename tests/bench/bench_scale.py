"""Shards against one process: rate, memory, and the same table, over as many tiny photos as one likes.

    python -m tests.bench.bench_scale [--photos 100000] [--shards 4] [--tars] [--folder DIR] [--local N]

A small model with embeddings of width 512 and JPEG photos of 32 × 32 pixels, in class folders or in tars of 10,000;
whole processes, each shard and the local run with a cache of its own. ``--photos 1000000`` is a million, in folders
4 GB of blocks. With ``--folder`` the photos are kept there and used again. With ``--local`` the local run has only so
many photos, of which the shards' table is then not compared, and one shard of all is left out. Prints JSON; processor
seconds are what to compare on a busy machine.
"""

from __future__ import annotations

import argparse
import functools
import io
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from tests.bench.processes import Measured, flip_command, load, measured
from tests.data.tar_files import write_tar

CLASSES, A_TAR = 100, 10_000

WRITE_MODEL = (
    "import sys, pathlib; from tests.bench.bench_cache import write_model; write_model(pathlib.Path(sys.argv[1]))"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=100_000)
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--tars", action="store_true")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--local", type=int)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        root = arguments.folder or Path(name)
        model = root / "model"
        if not model.is_dir():
            # In a process of its own: a child's peak memory is never below what its parent has when it starts it.
            measured([sys.executable, "-c", WRITE_MODEL, str(model)])
        write = write_tars if arguments.tars else write_photos
        n, few = arguments.photos, arguments.local or arguments.photos
        data, local = (write(root / f"{write.__name__}-{count}", count) for count in (n, few))
        found = measure(Path(name), model, data, n, arguments.shards, local, few)
        print(json.dumps(found, indent=2))


def measure(root: Path, model: Path, data: Path, n: int, count: int, local_data: Path, few: int) -> dict[str, object]:
    begin = load()
    local = run(root, model, local_data, "local")
    found: dict[str, object] = {"photos": n, "shards": count, "local": figures([local], few)}
    if few == n:
        whole = run(root, model, data, "whole", "--shard", "0/1")
        again = run(root, model, data, "whole", "--shard", "0/1", fresh=False)
        found |= {"one shard of all": figures([whole], n), "a finished shard of all": figures([again], n)}
    parts = [run(root, model, data, "table", "--shard", f"{i}/{count}") for i in range(count)]
    joined = measured(flip_command("embed", "--join", root / "table"))
    table = root / "table" / "embeddings.parquet"
    if few == n:
        require_same(root / "local" / "embeddings.parquet", table)
    assert pq.read_metadata(table).num_rows == n
    seconds = sum(part.cpu_seconds for part in parts)
    return {
        **found,
        "load at the begin and at the end": [begin, load()],
        "shards one after the other": figures(parts, n),
        "peak memory of each shard in MB": [part.peak_mb for part in parts],
        "join": figures([joined], n),
        "rate of the shards to local, per processor second": round(n / seconds / (few / local.cpu_seconds), 3),
        "bytes of the table per row": round(table.stat().st_size / n),
    }


def run(root: Path, model: Path, photos: Path, folder: str, *options: object, fresh: bool = True) -> Measured:
    """Embed the photos into a folder, from an empty cache."""
    cache = root / "cache"
    if fresh:
        shutil.rmtree(cache, ignore_errors=True)
    given = ["--data", photos, "--model", model, "--precision", "fp32", "--device", "cpu", "--batch-size", 128]
    return measured(flip_command("embed", *given, "-o", root / folder, *options), cache)


def figures(runs: Sequence[Measured], n: int) -> dict[str, object]:
    seconds, cpu = sum(run.seconds for run in runs), sum(run.cpu_seconds for run in runs)
    return {
        "seconds": round(seconds, 1),
        "processor seconds": round(cpu, 1),
        "rows per second": round(n / seconds),
        "rows per processor second": round(n / cpu),
        "peak memory in MB": max(run.peak_mb for run in runs),
    }


def require_same(file: Path, other: Path) -> None:
    """Check that two tables have the same rows in the same order."""
    with pq.ParquetFile(file) as one, pq.ParquetFile(other) as two:
        assert one.metadata.num_rows == two.metadata.num_rows
        for a, b in zip(one.iter_batches(8192), two.iter_batches(8192), strict=True):
            assert a.equals(b)


def write_photos(folder: Path, n: int) -> Path:
    """Write class folders of photos, each different, unless they are there."""
    done = folder.with_name(f"{folder.name}.done")
    if done.is_file():
        return folder
    for c in range(CLASSES):
        (folder / f"class {c:03}").mkdir(parents=True, exist_ok=True)
    for i, photo in enumerate(photos(range(n))):
        (folder / f"class {i % CLASSES:03}" / f"{i:07}.jpg").write_bytes(photo)
    done.touch()
    return folder


def write_tars(folder: Path, n: int) -> Path:
    """Write tars of such photos with their classes, unless they are there."""
    done = folder.with_name(f"{folder.name}.done")
    if done.is_file():
        return folder
    for begin in range(0, n, A_TAR):
        numbers = range(begin, min(begin + A_TAR, n))
        members: list[tuple[str, bytes]] = []
        for i, photo in zip(numbers, photos(numbers), strict=True):
            members += [(f"{i:07}.jpg", photo), (f"{i:07}.cls", f"class {i % CLASSES:03}".encode())]
        write_tar(folder / f"{begin // A_TAR:05}.tar", members)
    done.touch()
    return folder


def photos(numbers: range) -> Iterator[bytes]:
    """Yield a JPEG for each number: one of a thousand pictures of noise, with the number as its comment."""
    pool = _pictures()
    for i in numbers:
        comment = f"{i:07}".encode()
        yield b"\xff\xd8\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + pool[i % len(pool)][2:]


@functools.cache
def _pictures() -> list[bytes]:
    rng, made = np.random.default_rng(1), []
    for _ in range(1000):
        jpeg = io.BytesIO()
        Image.fromarray(rng.integers(0, 255, (32, 32, 3), np.uint8)).save(jpeg, "JPEG")
        made.append(jpeg.getvalue())
    return made


if __name__ == "__main__":
    main()
