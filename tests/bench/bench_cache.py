"""The cache as it grows: naming photos, a second run, a moved folder, the index, merging, and memory.

    python -m tests.bench.bench_cache [--rows 1000000] [--photos 3200] [--runs 3]

A small model with embeddings of width 512, tiny JPEG files, and a cache that holds ``--rows`` rows of other photos.
``flip zeroshot -`` names the photos from stdin with that cache and with an empty one, in turn, as whole processes; the
ratio of the medians is what the cache costs. Besides seconds it prints processor seconds, from which other processes on
the machine take nothing. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import numpy as np
from PIL import Image

from flip.clip.model import load_model
from flip.embed.extractor import FeatureExtractor
from flip.embed.keys import FileKey, Source, file_key
from flip.embed.rows import NewRow, photo_table
from flip.embed.settings import EmbedSettings

DIM = 512
ROWS_A_PART = 20_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--photos", type=int, default=3200)
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        print(json.dumps(measure(Path(name), arguments.rows, arguments.photos, arguments.runs), indent=2))


def measure(root: Path, rows: int, photos: int, runs: int) -> dict[str, object]:
    model = write_model(root / "model")
    files = write_photos(root / "photos", photos)
    full, empty = root / "full", root / "empty"
    figures: dict[str, object] = {"rows": rows, "photos": photos}
    figures["rows written and indexed per second"] = round(rows / seconds(lambda: fill(full, model, rows)))
    # Model and text caches are warm in both.
    for cache in (full, empty):
        name_photos(model, cache, files[:1])
    kept = {cache: shutil.copytree(cache, cache.with_name(f"{cache.name}-kept")) for cache in (empty,)}
    index = next(path for path in full.glob("*/images.sqlite") if path.stat().st_size > 1 << 20)
    index_kept = shutil.copyfile(index, root / "index")
    parts = set(index.parent.glob("images/*"))
    taken: dict[str, list[tuple[float, float]]] = {"full": [], "empty": [], "cached": []}
    for _ in range(runs):
        shutil.rmtree(empty)
        shutil.copytree(kept[empty], empty)
        taken["empty"].append(name_photos(model, empty, files))
        for part in set(index.parent.glob("images/*")) - parts:
            part.unlink()
        shutil.copyfile(index_kept, index)
        taken["full"].append(name_photos(model, full, files))
        taken["cached"].append(name_photos(model, full, files))
    for k, clock in enumerate(("seconds", "processor seconds")):
        medians = {name: statistics.median(times[k] for times in runs) for name, runs in taken.items()}
        figures[f"{clock} to name new photos with an empty cache"] = [times[k] for times in taken["empty"]]
        figures[f"{clock} to name new photos with the full cache"] = [times[k] for times in taken["full"]]
        figures[f"{clock}: ratio of the medians"] = round(medians["full"] / medians["empty"], 3)
        figures[f"{clock} to name the same photos again"] = [times[k] for times in taken["cached"]]
    figures |= look_ups(full, model, files, rows)
    figures["peak memory of this process in MB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return figures


def look_ups(cache: Path, model: Path, files: list[str], rows: int) -> dict[str, object]:
    """Return seconds of single look-ups in this process."""
    extractor = extractor_of(model, cache)
    new = [file_key(Source(file)) for file in files]
    known = [key_of(i) for i in np.random.default_rng(0).integers(0, rows, len(files))]
    found = {}
    with extractor.open_cache() as opened:
        found["seconds to open the cache and look one photo up"] = seconds(lambda: opened.look_up(new[:1]))
        found["seconds to look the photos up, 32 at a time"] = seconds(lambda: in_batches(opened.look_up, new))
        found["seconds to read as many rows from anywhere, 32 at a time"] = seconds(
            lambda: in_batches(opened.look_up, known)
        )
        all_keys = [key_of(i) for i in range(rows)]
        found["seconds to read all rows"] = seconds(lambda: opened.look_up(all_keys))
    (extractor.folder / extractor.fingerprint / "images.sqlite").unlink()
    with extractor.open_cache() as opened:
        found["seconds to make the index anew"] = seconds(lambda: opened.look_up(new[:1]))
    return {name: round(value, 3) for name, value in found.items()}


def in_batches(look_up: Callable[[list[FileKey]], object], keys: list[FileKey]) -> None:
    for start in range(0, len(keys), 32):
        look_up(keys[start : start + 32])


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def key_of(i: int) -> FileKey:
    return FileKey(f"/photos/of/others/class{i % 200:03d}/{i}.jpg", 100_000 + i, 10**18 + i, 10**18 + i)


def fill(cache: Path, model: Path, rows: int) -> None:
    """Write rows of photos that are nowhere."""
    rng = np.random.default_rng(0)
    with extractor_of(model, cache).open_cache() as opened:
        for start in range(0, rows, ROWS_A_PART):
            n = min(ROWS_A_PART, rows - start)
            matrix = rng.standard_normal((n, DIM), np.float32)
            matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
            new = [NewRow(key_of(start + i), row, None, f"{start + i:064x}") for i, row in enumerate(matrix)]
            opened.store.add(photo_table(new, DIM))


def extractor_of(model: Path, cache: Path) -> FeatureExtractor:
    settings = EmbedSettings(device="cpu", precision="fp32")
    return FeatureExtractor(load_model(str(model), cache=cache), settings, cache)


def name_photos(model: Path, cache: Path, files: list[str]) -> tuple[float, float]:
    """Return the seconds, and the processor seconds, that ``flip zeroshot -`` takes as a whole process."""
    command = [sys.executable, "-m", "flip", "zeroshot", "-", "--model", str(model), "--cache", str(cache)]
    command += ["--precision", "fp32", "--device", "cpu", "--format", "jsonl", "--classes", str(model / "classes.txt")]
    text = "".join(f"{file}\n" for file in files)
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, input=text, capture_output=True, text=True)
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == len(files), done.stderr
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return round(seconds, 2), round(used, 2)


def write_model(folder: Path) -> Path:
    """Write a two-layer model with embeddings of width 512."""
    import open_clip
    from safetensors.torch import save_file

    from tests.conftest import TINY_CONFIG

    config = deepcopy(TINY_CONFIG)
    config["model_cfg"]["embed_dim"] = DIM
    # Texts that surely fit are not counted with the tokenizer, which needs the network's library.
    config["model_cfg"]["text_cfg"]["context_length"] = 77
    folder.mkdir(parents=True)
    save_file(open_clip.CLIP(**config["model_cfg"]).state_dict(), folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    (folder / "classes.txt").write_text("red fox\nblue jay\ngreen frog\n")
    return folder


def write_photos(folder: Path, photos: int) -> list[str]:
    rng = np.random.default_rng(1)
    files = []
    for i in range(photos):
        file = folder / f"class{i % 20}" / f"{i}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (48, 64, 3), np.uint8)).save(file)
        files.append(str(file))
    return files


if __name__ == "__main__":
    main()
