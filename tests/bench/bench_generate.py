"""Throughput and peak memory of ``flip generate`` against the diffusers pipeline called in a plain loop.

Both draw the same prompts at the same batch in one run; each takes its turns, and the best of each counts. Memory is
the most that a process of its own ever held.

    python -m tests.bench.bench_generate [--size 64] [--batch 4] [--pictures 16] [--steps 10] [--rounds 3]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from flip.device import resolve_device
from flip.diffusion.checkpoint import Loaded
from flip.diffusion.generate import generate
from flip.diffusion.settings import SamplerSettings
from tests.diffusion.tiny import make_pipeline


def with_flip(pipeline: Any, a: argparse.Namespace, folder: Path) -> float:
    """Return the seconds that flip takes for all pictures, files included."""
    settings = SamplerSettings(sampler="ddim", steps=a.steps, guidance=7.5, size=str(a.size))
    loaded = Loaded(pipeline, "tiny", "bench")
    start = time.perf_counter()
    generate(["a bird"], loaded, folder, n=a.pictures, settings=settings, batch_size=a.batch)
    return time.perf_counter() - start


def with_a_loop(pipeline: Any, a: argparse.Namespace, folder: Path) -> float:
    """Return the seconds of the loop that a script would hold."""
    import torch

    folder.mkdir(parents=True)
    pipeline.to(resolve_device().device)
    start = time.perf_counter()
    for first in range(0, a.pictures, a.batch):
        images = pipeline(
            ["a bird"] * a.batch,
            negative_prompt=[""] * a.batch,
            num_inference_steps=a.steps,
            guidance_scale=7.5,
            width=a.size,
            height=a.size,
            generator=[torch.Generator("cpu").manual_seed(first + i) for i in range(a.batch)],
        ).images
        for i, image in enumerate(images):
            image.save(folder / f"{first + i}.png")
    return time.perf_counter() - start


def peak_megabytes() -> float:
    """Return the most memory this process held; getrusage would count its parent's from before it was started."""
    status = Path("/proc/self/status").read_text()
    return float(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) / 1024


CONTENDERS = {"flip": with_flip, "loop": with_a_loop}


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser()
    for name, value in (("size", 64), ("batch", 4), ("pictures", 16), ("steps", 10), ("rounds", 3)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--memory-of", choices=CONTENDERS)
    a = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if a.memory_of:
            CONTENDERS[a.memory_of](make_pipeline(), a, Path(folder, "once"))
            print(peak_megabytes())
            return
        pipeline = make_pipeline()
        for contender in CONTENDERS.values():  # both warm
            contender(
                pipeline, argparse.Namespace(**{**vars(a), "pictures": a.batch}), Path(folder, contender.__name__)
            )
        seconds: dict[str, list[float]] = {name: [] for name in CONTENDERS}
        for turn in range(a.rounds):
            for name, contender in CONTENDERS.items():
                seconds[name].append(contender(pipeline, a, Path(folder, f"{name}{turn}")))
    speed = {name: a.pictures / min(taken) for name, taken in seconds.items()}
    call = [sys.executable, "-m", "tests.bench.bench_generate", *sys.argv[1:], "--memory-of"]
    memory = {name: float(subprocess.check_output([*call, name], text=True).split()[-1]) for name in CONTENDERS}
    result = {"pictures_per_second": speed, "ratio": speed["flip"] / speed["loop"], "peak_megabytes": memory}
    print(json.dumps({**vars(a), **result}, indent=2))


if __name__ == "__main__":
    main()
