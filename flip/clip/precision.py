"""The number format that ``--precision auto`` means for a model on this machine: measured once, then remembered."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import os
import platform
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING

from flip.clip.encoder import PlaceableEncoder
from flip.device import Placement, cpu_count, has_matrix_unit, processor_name, resolve_precision
from flip.errors import ConfigError
from flip.files import write_json
from flip.reading import read_json

if TYPE_CHECKING:
    from PIL.Image import Image

#: bf16 moves single photos, so it has to gain clearly: up to the first of these parts of fp32's time it is taken, from
#: the second on it is not, and between them what the processor has decides, which is the same each time.
_WORTH_IT, _NOT_WORTH_IT = 0.75, 0.95

_ROUNDS = 5

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

    On a CPU that has bf16 in hardware it is bf16 where that clearly takes less time than fp32 with this model. The
    measurement is made once; another choice would mean other embeddings, so it is one that a busy machine does not tip.
    """

    def measure() -> str:
        name = f"{model.fingerprint}-{processor_name(placement.device)}".replace(" ", "-")
        file = cache / "precision" / f"{name}.json"
        known = _read(file)
        if known is not None:
            return known
        ratio = relative_time(model, placement)
        is_worth_it = ratio <= _WORTH_IT or (ratio < _NOT_WORTH_IT and has_matrix_unit())
        faster = "bf16" if is_worth_it else "fp32"
        _write(file, {"precision": faster, "time_of_bf16_to_fp32": ratio})
        return faster

    chosen = resolve_precision("auto", placement, measure=measure)
    _write(_machine_file(model.fingerprint, device, cache), {"precision": chosen})
    return chosen


def seconds_per_batch(model: PlaceableEncoder, placement: Placement, precision: str) -> float:
    """Return the seconds that 8 photos take, the least of three times."""
    encoder = model.placed(placement, precision)
    batch = [encoder.prepare(_plain_image())] * 8
    encoder.encode_images(batch)
    times = []
    for _ in range(3):
        start = time.perf_counter()
        encoder.encode_images(batch)
        times.append(time.perf_counter() - start)
    return min(times)


def relative_time(model: PlaceableEncoder, placement: Placement) -> float:
    """Return the time of bf16 by that of fp32 for 8 photos: the median over several rounds of both.

    It is the processor's time, of which others on the machine take nothing, and the two alternate, so that what slows
    one of them slows the other.
    """
    encoders = [model.placed(placement, name) for name in ("bf16", "fp32")]
    batches = [[encoder.prepare(_plain_image())] * 8 for encoder in encoders]
    ratios = []
    for round_number in range(_ROUNDS + 1):
        seconds = []
        for encoder, batch in zip(encoders, batches, strict=True):
            start = time.process_time()
            encoder.encode_images(batch)
            seconds.append(time.process_time() - start)
        # The first round prepares kernels.
        if round_number:
            ratios.append(seconds[0] / max(seconds[1], 1e-9))
    return statistics.median(ratios)


def _plain_image() -> Image:
    from PIL import Image

    return Image.new("RGB", (256, 256), (90, 120, 60))


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
