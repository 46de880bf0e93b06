"""Photos a second: flip's whole way from files to cached features, the encoder alone, and peers, in turns in one run.

    python -m tests.bench.bench_embed --model MODEL --data FOLDER [--photos 256] [--repeats 3] [--precision fp32]

"encoder" feeds batches that already lie in memory. "flip" reads, decodes and resizes the files and writes the cache,
another one each time. "open_clip" is open_clip's own preprocessing behind torch's DataLoader with a worker for each
CPU, as its examples have it. "again" finds everything in the cache. With ``--megapixels`` the photos are enlarged
first, and "exact" is flip with ``--decode exact``.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from flip.clip.model import load_model
from flip.data.open import open_dataset
from flip.embed.extractor import FeatureExtractor
from flip.embed.settings import EmbedSettings
from tests.bench.bench_decode import enlarged
from tests.bench.processes import load


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="A folder with open_clip_config.json.")
    parser.add_argument("--data", required=True)
    parser.add_argument("--photos", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--megapixels", type=float)
    options = parser.parse_args()
    print(json.dumps(measure(**vars(options)), indent=1))


def measure(
    model: str,
    data: str,
    photos: int = 256,
    repeats: int = 3,
    precision: str = "fp32",
    device: str = "auto",
    megapixels: float | None = None,
) -> dict[str, Any]:
    """Return photos a second of each way, and ratios that are medians over the turns."""
    dataset = open_dataset(data)
    files = [str(dataset.file(r)) for r in dataset.records[:: max(1, len(dataset) // photos)][:photos]]
    with tempfile.TemporaryDirectory() as folder:
        if megapixels:
            files = [_enlarge(Path(file), megapixels, Path(folder), i) for i, file in enumerate(files)]
        encoder = load_model(model)
        settings = EmbedSettings(precision=precision, device=device)
        ways: dict[str, Callable[[int], None]] = {}
        alone = FeatureExtractor(encoder, settings, Path(folder) / "alone")
        size = encoder.geometry.height, encoder.geometry.width
        batch = list(np.random.default_rng(0).integers(0, 255, (settings.batch_size, *size, 3), dtype=np.uint8))
        ways["encoder"] = lambda turn: _encode(alone.encoder, batch, len(files))
        ways["flip"] = lambda turn: _embed(encoder, settings, files, Path(folder) / f"c{turn}")
        ways["again"] = lambda turn: _embed(encoder, settings, files, Path(folder) / f"c{turn}")
        if megapixels:
            exact = replace(settings, decode="exact")
            ways["exact"] = lambda turn: _embed(encoder, exact, files, Path(folder) / f"e{turn}")
        ways["open_clip"] = lambda turn: _plain(model, files, precision, alone.placement.device)
        times: dict[str, list[float]] = {name: [] for name in ways}
        alone.encoder.encode_images(batch)
        for turn in range(repeats):
            for name, way in ways.items():
                start = time.perf_counter()
                way(turn)
                times[name].append(time.perf_counter() - start)
    found: dict[str, Any] = {"photos": len(files), "precision": precision, "load": load()}
    found |= {"megapixels": megapixels} if megapixels else {}
    found |= {f"{name}_per_s": round(len(files) / statistics.median(t), 2) for name, t in times.items()}
    for name in times.keys() - {"flip", "again"}:
        ratios = [other / own for other, own in zip(times[name], times["flip"], strict=True)]
        found[f"flip/{name}"] = round(statistics.median(ratios), 3)
    return found


def _enlarge(file: Path, megapixels: float, folder: Path, i: int) -> str:
    target = folder / f"{i}.jpg"
    target.write_bytes(enlarged(file, megapixels, seed=i))
    return str(target)


def _encode(encoder: Any, batch: list[Any], photos: int) -> None:
    for start in range(0, photos, len(batch)):
        encoder.encode_images(batch[: min(len(batch), photos - start)])


def _embed(model: Any, settings: EmbedSettings, files: Sequence[str], cache: Path) -> None:
    for _ in FeatureExtractor(model, settings, cache).stream(files):
        pass


class _Photos:
    """Files as a dataset of torch."""

    def __init__(self, files: Sequence[str], preprocess: Any) -> None:
        self.files, self.preprocess = files, preprocess

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int) -> Any:
        from PIL import Image

        with Image.open(self.files[i]) as image:
            return self.preprocess(image.convert("RGB"))


def _plain(model: str, files: Sequence[str], precision: str, device: Any) -> None:
    import torch

    network, preprocess = _loaded(model)
    kind = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    network = network.to(device)
    loader: Any = torch.utils.data.DataLoader(
        _Photos(files, preprocess), batch_size=32, num_workers=os.cpu_count() or 1, multiprocessing_context="fork"
    )
    with torch.inference_mode(), torch.autocast(device.type, kind, enabled=precision != "fp32"):
        for pixels in loader:
            network.encode_image(pixels.to(device), normalize=True).float().cpu().numpy()


_LOADED: dict[str, Any] = {}


def _loaded(model: str) -> Any:
    if model not in _LOADED:
        import open_clip

        network, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{model}")
        _LOADED[model] = network.eval(), preprocess
    return _LOADED[model]


if __name__ == "__main__":
    main()
