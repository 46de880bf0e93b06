"""Training speed and memory of ``flip finetune`` against a bare loop: forward, backward, step on tensors in memory.

    python tests/bench/bench_finetune.py --data FOLDER --model FOLDER [--batch 32] [--steps 8] [--rounds 2]

Each measurement is a process of its own, in turn, so that both meet the same load; the first step of each is left out.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))


def subset(data: str, photos: int) -> Any:
    """Return this many training photos, classes in turn."""
    import numpy as np

    from flip.data.open import open_dataset

    dataset = open_dataset(data).select("train")
    labels = dataset.labels
    place = np.empty(len(labels), np.int64)
    for c in np.unique(labels):
        rows = np.flatnonzero(labels == c)
        place[rows] = np.arange(len(rows))
    return dataset.take(np.lexsort((labels, place))[:photos])


def bare(options: argparse.Namespace) -> float:
    """Return the photos a second of a loop that decodes nothing."""
    import torch

    from flip.clip.model import load_model
    from flip.data.images import decode_image
    from flip.training.clip.loss import contrastive_loss

    model = load_model(options.model)
    network: Any = model.network.requires_grad_(True).to(memory_format=torch.channels_last)
    dataset = subset(options.data, options.batch * options.steps)
    pixels = torch.stack([model.preprocess(decode_image(dataset.file(r))) for r in dataset.records])
    pixels = pixels.contiguous(memory_format=torch.channels_last)
    tokens = model.tokenize([f"a photo of a {dataset.classnames[r.label]}." for r in dataset.records])
    labels = torch.from_numpy(dataset.labels)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-5)
    start = 0.0
    for step in range(options.steps):
        if step == 1:
            start = time.perf_counter()
        rows = slice(step * options.batch, (step + 1) * options.batch)
        loss = contrastive_loss(
            network.encode_image(pixels[rows], normalize=True),
            network.encode_text(tokens[rows], normalize=True),
            labels[rows],
            network.logit_scale.exp(),
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return (options.steps - 1) * options.batch / (time.perf_counter() - start)


def flip(options: argparse.Namespace) -> float:
    """Return the photos a second of flip's loop, which decodes and augments them."""
    from flip.training.clip.finetune import finetune
    from flip.training.listener import Listener, StepReport
    from flip.training.settings import ClipSettings, Hardware

    times: list[float] = []

    def on_step(report: StepReport) -> None:
        times.append(time.perf_counter())

    dataset = subset(options.data, options.batch * options.steps)
    settings = ClipSettings(epochs=1, batch_size=options.batch, save_every=10**6, val_fraction=0, no_scores=True)
    with tempfile.TemporaryDirectory() as folder:
        run, hardware = Path(folder) / "run", Hardware(precision="fp32")
        finetune(dataset, options.model, run, settings, hardware=hardware, listener=Listener(on_step))
    return (len(times) - 1) * options.batch / (times[-1] - times[0])


def main() -> None:
    """Print what each process measured, and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--only", choices=["bare", "flip"])
    options = parser.parse_args()
    if options.only:
        speed = {"bare": bare, "flip": flip}[options.only](options)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        print(json.dumps({"photos_per_second": speed, "peak_gigabytes": peak}))
        return
    results: dict[str, list[dict[str, float]]] = {"bare": [], "flip": []}
    for _ in range(options.rounds):
        for name, rows in results.items():
            done = subprocess.run(
                [sys.executable, *sys.argv, "--only", name], capture_output=True, text=True, check=True
            )
            rows.append(json.loads(done.stdout.splitlines()[-1]))
            print(f"{name}: {rows[-1]['photos_per_second']:.2f} photos/s, peak {rows[-1]['peak_gigabytes']:.2f} GB")
    speed = {name: max(row["photos_per_second"] for row in rows) for name, rows in results.items()}
    memory = {name: min(row["peak_gigabytes"] for row in rows) for name, rows in results.items()}
    print(f"speed, flip / bare: {speed['flip'] / speed['bare']:.3f} (best of {options.rounds} each)")
    print(f"peak memory, flip / bare: {memory['flip'] / memory['bare']:.3f}")


if __name__ == "__main__":
    main()
