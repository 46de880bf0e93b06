"""How close embedding photo files comes to what the encoder alone does: two figures and their ratio, in one run.

    python tests/bench/bench_embed.py --model MODEL --data FOLDER [--photos 256] [--repeats 3]

"encoder" feeds batches that already lie in memory; "files" reads, decodes and resizes JPEG files and writes the cache,
in another cache folder each time. Both use the same processor cores, number format and memory format. The two take
turns, and the ratio of the medians counts. "again" is a run that finds everything in the cache.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from flip.config import ReadConfig

from flip.clip.model import load_model
from flip.data.open import open_dataset
from flip.embed.extractor import make_extractor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--photos", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()

    dataset = open_dataset(arguments.data)
    dataset = dataset.take(range(min(arguments.photos, len(dataset))))
    model = load_model(arguments.model)
    alone, files, again = [], [], []
    for _ in range(arguments.repeats):
        with tempfile.TemporaryDirectory() as folder:
            config = ReadConfig(cache=Path(folder), precision=arguments.precision, device=arguments.device)
            extractor = make_extractor(model, config)
            alone.append(_encoder_alone(extractor, len(dataset)))
            files.append(_seconds(lambda e=extractor: e.features(dataset)))
            again.append(_seconds(lambda e=extractor: e.features(dataset)))
    n = len(dataset)
    print(f"{n} photos, {extractor.precision}, {extractor.placement.device}, {extractor.workers} decoding threads")
    for name, seconds in (("encoder", alone), ("files", files), ("again", again)):
        middle = statistics.median(seconds)
        print(f"{name:8} {n / middle:8.1f} images/s   median {middle:6.2f} s, {min(seconds):.2f} to {max(seconds):.2f}")
    print(f"files / encoder = {statistics.median(alone) / statistics.median(files):.3f} of the encoder's speed")


def _encoder_alone(extractor, photos: int) -> float:
    height, width = 224, 224
    size = extractor.model.config["preprocess_cfg"]["size"]
    if size:
        height, width = (size, size) if isinstance(size, int) else size
    batch = list(np.random.default_rng(0).integers(0, 255, (extractor.batch_size, height, width, 3), dtype=np.uint8))
    extractor.encoder.encode(batch)

    def encode() -> None:
        for start in range(0, photos, extractor.batch_size):
            extractor.encoder.encode(batch[: min(extractor.batch_size, photos - start)])

    return _seconds(encode)


def _seconds(work) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
