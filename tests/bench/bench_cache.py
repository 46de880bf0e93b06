"""A second run on an unchanged folder, and memory as the folder grows.

    python tests/bench/bench_cache.py [--photos 12000 100000]

For each number of photos: writes that many tiny JPEG files, embeds them with a two-layer model, then runs again. Prints
the seconds of the second run beyond imports and the peak memory of a process that embeds them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[2]

PROGRAM = """
import json, resource, sys, time
import torch, open_clip, accelerate, pyarrow.parquet
from pathlib import Path
from flip.embed.extractor import make_extractor
from flip.clip.model import load_model
from flip.config import ReadConfig
from flip.data.open import open_dataset
start = time.perf_counter()
cache = Path(sys.argv[3])
config = ReadConfig(cache=cache, device="cpu", precision="fp32")
extractor = make_extractor(load_model(sys.argv[1], cache=cache), config)
dataset = open_dataset(sys.argv[2])
known = extractor.count_known(dataset)
features = extractor.features(dataset)
print(json.dumps({"seconds": time.perf_counter() - start, "known": known, "n": len(features),
                  "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, nargs="+", default=[1000, 12000])
    arguments = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    from tests.conftest import write_model

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        model = write_model(root / "model")
        for photos in arguments.photos:
            data = root / f"data{photos}"
            _write_photos(data, photos)
            for turn in ("first", "again"):
                command = [sys.executable, "-c", PROGRAM, str(model), str(data), str(root / f"cache{photos}")]
                start = time.perf_counter()
                figures = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
                all_seconds = time.perf_counter() - start
                print(
                    f"{photos:8} photos, {turn:5}: {figures['seconds']:7.2f} s beyond imports, "
                    f"{all_seconds:7.2f} s in all, {figures['known']} known, peak {figures['peak_mb']:.0f} MB"
                )


def _write_photos(folder: Path, photos: int) -> None:
    for split in ("train", "test"):
        for c in range(10):
            (folder / split / f"class{c}").mkdir(parents=True)
    for i in range(photos):
        split = "train" if i % 2 else "test"
        colour = (i % 256, i // 256 % 256, 90)
        Image.new("RGB", (32, 32), colour).save(folder / split / f"class{i // 2 % 10}" / f"{i}.jpg")


if __name__ == "__main__":
    main()
