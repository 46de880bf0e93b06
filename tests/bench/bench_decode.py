"""Accuracy and speed of scaled JPEG decoding, beside other decoders.

    python tests/bench/bench_decode.py --model MODEL --data FOLDER [--photos 24] [--megapixels 2 12 48]

Photos of the data, those with most detail, are enlarged to each size (Lanczos, with grain as a camera's), saved as JPEG
of quality 92, and decoded exactly and fast. Cosines are those of the model's embeddings in fp32. Decoders take turns on
each photo; milliseconds are medians per photo on one thread, decoding and resizing together. Those that are not
installed are said and left out: simplejpeg, opencv-python-headless.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from flip.clip.model import load_model
from flip.data.images import decode_image
from flip.data.open import open_dataset
from flip.embed.decoding import FAST, read_pixels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--photos", type=int, default=24)
    parser.add_argument("--timed", type=int, default=4, help="Photos of each size that are timed.")
    parser.add_argument("--megapixels", type=float, nargs="+", default=[2, 12, 48])
    options = parser.parse_args()
    print(json.dumps(measure(options.model, options.data, options.photos, options.timed, options.megapixels), indent=1))


def measure(model_name: str, data: str, photos: int, timed: int, megapixels: list[float]) -> list[dict[str, object]]:
    """Return a row for each size: cosines of fast and exact, and the milliseconds of each decoder."""
    model = load_model(model_name)
    files = most_detailed(data, photos)
    rows: list[dict[str, object]] = []
    for size in megapixels:
        cosines, times = [], {}
        for i, file in enumerate(files):
            encoded = enlarged(file, size, seed=i)
            pixels = [read_pixels(encoded, None, model, fast=fast) for fast in (False, True)]
            a, b = model.encode_images([p.prepared for p in pixels])
            cosines.append(float(a @ b))
            scaled = pixels[1].decoding == FAST
            if i < timed:
                for name, decode in decoders(model).items():
                    start = time.perf_counter()
                    decode(encoded)
                    times.setdefault(name, []).append(1000 * (time.perf_counter() - start))
        ms = {name: round(statistics.median(values), 1) for name, values in times.items()}
        row = {"megapixels": size, "scaled": scaled, "photos": len(files)}
        row |= {"cosine_mean": round(float(np.mean(cosines)), 5), "cosine_min": round(min(cosines), 5), "ms": ms}
        print(row, flush=True)
        rows.append(row)
    return rows


def most_detailed(data: str, count: int) -> list[Path]:
    """Return the photos with the strongest edges among up to 400 of a dataset."""
    dataset = open_dataset(data)
    found = []
    for record in dataset.records[:: max(1, len(dataset) // 400)]:
        file = Path(dataset.file(record))
        image = decode_image(file).convert("L").resize((256, 256))
        found.append((float(np.asarray(image.filter(ImageFilter.FIND_EDGES), float)[2:-2, 2:-2].std()), str(file)))
    return [Path(file) for _, file in sorted(found, reverse=True)[:count]]


def enlarged(file: Path, megapixels: float, seed: int) -> bytes:
    """Return a photo as JPEG of a size, with grain, so that its finest detail is that of a camera's photo."""
    image = decode_image(file)
    factor = (megapixels * 1e6 / (image.width * image.height)) ** 0.5
    size = round(image.width * factor), round(image.height * factor)
    pixels = np.asarray(image.resize(size, Image.Resampling.LANCZOS), np.int16)
    grain = np.random.default_rng(seed).integers(-12, 13, (*pixels.shape[:2], 1), dtype=np.int16)
    written = io.BytesIO()
    Image.fromarray((pixels + grain).clip(0, 255).astype(np.uint8)).save(written, "JPEG", quality=92)
    return written.getvalue()


def decoders(model: object) -> dict[str, Callable[[bytes], object]]:
    """Return the JPEG decoders with resizing, by name."""
    found: dict[str, Callable[[bytes], object]] = {
        "flip exact": lambda data: read_pixels(data, None, model, fast=False),
        "flip fast": lambda data: read_pixels(data, None, model, fast=True),
    }
    side = 224

    def scale_of(width: int, height: int) -> int:
        return next((s for s in (8, 4, 2) if min(width, height) >= 2 * side * s), 1)

    def of_torchvision(data: bytes) -> object:
        import torch
        from torchvision.io import decode_jpeg
        from torchvision.transforms.functional import resize

        pixels = decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8))
        return resize(pixels, [side], antialias=True)

    found["torchvision"] = of_torchvision
    if importlib.util.find_spec("simplejpeg"):
        import simplejpeg

        def of_simplejpeg(data: bytes, scaled: bool) -> object:
            height, width, *_ = simplejpeg.decode_jpeg_header(data)
            factor = scale_of(width, height) if scaled else 1
            least = {"min_height": height // factor, "min_width": width // factor, "min_factor": 1} if scaled else {}
            pixels = simplejpeg.decode_jpeg(data, **least)
            short = min(pixels.shape[:2])
            size = round(side * pixels.shape[1] / short), round(side * pixels.shape[0] / short)
            return Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)

        found["simplejpeg"] = lambda data: of_simplejpeg(data, False)
        found["simplejpeg, scaled"] = lambda data: of_simplejpeg(data, True)
    if importlib.util.find_spec("cv2"):
        import cv2

        cv2.setNumThreads(1)

        def of_opencv(data: bytes, scaled: bool) -> object:
            with Image.open(io.BytesIO(data)) as image:
                factor = scale_of(*image.size) if scaled else 1
            flag = {1: cv2.IMREAD_COLOR, 2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4}
            pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flag.get(factor, cv2.IMREAD_REDUCED_COLOR_8))
            short = min(pixels.shape[:2])
            size = round(side * pixels.shape[1] / short), round(side * pixels.shape[0] / short)
            return cv2.cvtColor(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), cv2.COLOR_BGR2RGB)

        found["OpenCV"] = lambda data: of_opencv(data, False)
        found["OpenCV, scaled"] = lambda data: of_opencv(data, True)
    return found


if __name__ == "__main__":
    main()
