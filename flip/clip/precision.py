"""The number format that ``--precision auto`` means for a model on this machine: measured once, then remembered."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import os
import platform
import time
from pathlib import Path

from flip.clip.encoder import PlaceableEncoder
from flip.device import Placement, cpu_count, processor_name, resolve_precision
from flip.errors import ConfigError
from flip.files import write_json
from flip.reading import read_json

#: bf16 moves single photos, and two timings of the same work differ by some percent: it has to gain more than that.
_WORTH_IT = 0.85

#: What decides which device "auto" is, as far as it can be told without importing torch.
_ENVIRONMENT = ("CUDA_VISIBLE_DEVICES", "ACCELERATE_USE_CPU", "OMP_NUM_THREADS", "ATEN_CPU_CAPABILITY")
_GPUS = ("/dev/nvidiactl", "/dev/kfd")


def recall_precision(fingerprint: str, device: str, cache: Path) -> str | None:
    """Return what ``auto`` was found to mean before on this machine, or None; imports no torch.

    Parameters
    ----------
    fingerprint : str
        The model's.
    device : str
        As ``--device`` was given.
    cache : Path
    """
    return _read(_machine_file(fingerprint, device, cache))


def choose_precision(model: PlaceableEncoder, placement: Placement, device: str, cache: Path) -> str:
    """Return "fp32" or "bf16", whichever ``auto`` means on a placement, and remember it.

    On a CPU that has bf16 in hardware it is bf16 where that was clearly faster than fp32 when both were first timed
    with this model: another choice would mean other embeddings.
    """

    def measure() -> str:
        name = f"{model.fingerprint}-{processor_name(placement.device)}".replace(" ", "-")
        file = cache / "precision" / f"{name}.json"
        known = _read(file)
        if known is not None:
            return known
        seconds = {name: seconds_per_batch(model, placement, name) for name in ("fp32", "bf16")}
        faster = "bf16" if seconds["bf16"] < _WORTH_IT * seconds["fp32"] else "fp32"
        _write(file, {"precision": faster, "seconds_for_8_photos": seconds})
        return faster

    chosen = resolve_precision("auto", placement, measure=measure)
    _write(_machine_file(model.fingerprint, device, cache), {"precision": chosen})
    return chosen


def seconds_per_batch(model: PlaceableEncoder, placement: Placement, precision: str) -> float:
    """Return the seconds that 8 photos take, the least of three times."""
    from PIL import Image

    encoder = model.placed(placement, precision)
    batch = [encoder.prepare(Image.new("RGB", (256, 256), (90, 120, 60)))] * 8
    encoder.encode_images(batch)
    times = []
    for _ in range(3):
        start = time.perf_counter()
        encoder.encode_images(batch)
        times.append(time.perf_counter() - start)
    return min(times)


def _machine_file(fingerprint: str, device: str, cache: Path) -> Path:
    machine = [platform.node(), platform.machine(), cpu_count(), importlib.metadata.version("torch")]
    machine += [os.environ.get(name) for name in _ENVIRONMENT] + [Path(gpu).exists() for gpu in _GPUS]
    digest = hashlib.sha256(json.dumps(machine).encode()).hexdigest()[:12]
    return cache / "precision" / f"{fingerprint}-{device}-{digest}.json"


def _read(file: Path) -> str | None:
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        precision = read_json(file)["precision"]
        return precision if precision in ("fp32", "bf16") else None
    return None


def _write(file: Path, content: dict[str, object]) -> None:
    with contextlib.suppress(ConfigError):
        write_json(file, content)
