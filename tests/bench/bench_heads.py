"""How long each head takes to fit, with all it chooses by cross-validation, and the most memory its process ever held.

    python tests/bench/bench_heads.py [--rows 5994] [--width 512] [--classes 200] [--heads gda,tip,linear]
    python tests/bench/bench_heads.py --rows 1000000 --heads gda,linear

Synthetic unit features around class means that lie close together, and the text side of ``--text prompts``: zero-shot
logits, and a text feature as wide as the image feature. Each head is fitted in a process of its own.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import time

import numpy as np

from flip.classify.heads import Inputs, build_head
from flip.classify.text_side import build_text_side
from flip.names import HEADS

CHUNK = 50_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=5_994)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--classes", type=int, default=200)
    parser.add_argument("--heads", default=",".join(HEADS))
    parser.add_argument("--no-text", action="store_true", help="image features alone")
    arguments = parser.parse_args()

    print(f"{arguments.rows:,} × {arguments.width}, {arguments.classes} classes")
    columns = ("head", "fit, s", "processor, s", "top-1", "inputs, GB", "peak, GB", "beyond the inputs, GB")
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    for name in arguments.heads.split(","):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            shape = (arguments.rows, arguments.width, arguments.classes)
            seconds, busy, top1, inputs, peak = pool.apply(measure, (name, *shape, not arguments.no_text))
        print(
            f"| {name} | {seconds:.1f} | {busy:.1f} | {top1:.1f} | {inputs:.2f} | {peak:.2f} | {peak - inputs:.2f} |",
            flush=True,
        )


def measure(name: str, rows: int, width: int, classes: int, text: bool) -> tuple[float, float, float, float, float]:
    """Return seconds, processor seconds, top-1 on 1,000 other rows, and gigabytes of the inputs and at the peak."""
    means = np.random.default_rng(0).normal(size=(classes, width)).astype(np.float32)
    inputs, labels = synthetic(rows, means, text, seed=1)
    size = sum(block.nbytes for _, block in inputs.blocks()) / 1e9
    start, busy = time.perf_counter(), time.process_time()
    head = build_head(name, classes).fit(inputs, labels)
    seconds, busy = time.perf_counter() - start, time.process_time() - busy
    others, truth = synthetic(1_000, means, text, seed=2)
    top1 = 100.0 * float((head.predict(others) == truth).mean())
    return seconds, busy, top1, size, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def synthetic(rows: int, means: np.ndarray, text: bool, seed: int) -> tuple[Inputs, np.ndarray]:
    """Draw unit features, chunk by chunk, and zero-shot logits from a distorted copy of the class means."""
    rng = np.random.default_rng(seed)
    classes, width = means.shape
    labels = rng.integers(0, classes, rows)
    labels[: min(rows, classes)] = np.arange(min(rows, classes))
    image = np.empty((rows, width), np.float32)
    for start in range(0, rows, CHUNK):
        part = labels[start : start + CHUNK]
        block = means[part] + 4.0 * rng.standard_normal((len(part), width), dtype=np.float32)
        image[start : start + CHUNK] = block / np.linalg.norm(block, axis=1, keepdims=True)
    if not text:
        return build_text_side(image), labels
    names = means + 2.0 * np.random.default_rng(3).standard_normal(means.shape, dtype=np.float32)
    return build_text_side(image, names / np.linalg.norm(names, axis=1, keepdims=True), logit_scale=100.0), labels


if __name__ == "__main__":
    main()
