"""Class prompts through the text tower: cut to what is read, against the full context, in turns.

    python -m tests.bench.bench_texts [--repeats 3]

ViT-B/32 with random weights; 200 plain prompts, and a sample of the 16,000 texts of ``--prompts clip`` for 200 classes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from flip.arrays import FloatArray
from flip.clip.model import load_model
from flip.clip.prompts import class_prompts
from flip.sample.species import SPECIES
from tests.bench.bench_start import write_vit_b_32
from tests.bench.processes import load


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--texts", type=int, default=640, help="Of --prompts clip.")
    options = parser.parse_args()
    print(json.dumps(measure(options.repeats, options.texts), indent=1))


def measure(repeats: int = 3, sample: int = 640) -> list[dict[str, Any]]:
    """Return a row for each kind of prompts."""
    names = tuple(f"{SPECIES[i % len(SPECIES)].name} {i // len(SPECIES) or ''}".strip() for i in range(200))
    with tempfile.TemporaryDirectory() as folder:
        model = load_model(str(write_vit_b_32(Path(folder) / "model")), cache=Path(folder))
        rows = []
        for prompts in ("plain", "clip"):
            texts = [text for of_class in class_prompts(prompts, names, names).texts for text in of_class]
            texts = texts[:: max(1, len(texts) // sample)]
            rows.append({"prompts": prompts, **_compare(model, texts, repeats)})
    return rows


def _compare(model: Any, texts: list[str], repeats: int) -> dict[str, Any]:
    times: list[tuple[float, float]] = []
    for _ in range(repeats):
        start = time.perf_counter()
        ours = model.encode_texts(texts)
        middle = time.perf_counter()
        theirs = _full(model, texts)
        times.append((middle - start, time.perf_counter() - middle))
    return {
        "texts": len(texts),
        "cut_s": round(statistics.median(a for a, _ in times), 3),
        "full_s": round(statistics.median(b for _, b in times), 3),
        "full/cut": round(statistics.median(b / a for a, b in times), 2),
        "largest_difference": float(np.abs(ours - theirs).max()),
        "load": load(),
    }


def _full(model: Any, texts: list[str]) -> FloatArray:
    import torch

    with torch.inference_mode():
        parts = [texts[start : start + 64] for start in range(0, len(texts), 64)]
        rows = [model.network.encode_text(model.tokenize(part), normalize=True).numpy() for part in parts]
    return np.concatenate(rows)


if __name__ == "__main__":
    main()
