"""Provenance of a result: package versions, machine, and the command line."""

from __future__ import annotations

import os
import platform
import sys
from datetime import UTC, datetime
from pathlib import Path

from flip.device import cpu_count
from flip.files import JsonObject

#: The packages whose versions decide a number.
PACKAGES = (
    *("flip-clip", "torch", "torchvision", "open_clip_torch", "timm", "transformers", "tokenizers", "diffusers"),
    *("accelerate", "numpy", "scipy", "scikit-learn", "faiss-gpu", "faiss-gpu-cu12", "faiss-cpu", "pyarrow", "pillow"),
)


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that decide a number."""
    from importlib import metadata

    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def surroundings() -> JsonObject:
    """Return when, where and by which command something is made.

    ``gpu``, ``cuda`` and the number of threads are those of torch where it is loaded: it is not loaded to ask it.
    """
    return {
        "command_line": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "host": platform.node(),
        "system": platform.platform(),
        "processor": _processor(),
        "cores": cpu_count(),
        **_torch(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def _torch() -> JsonObject:
    torch = sys.modules.get("torch")
    if torch is None:
        return {"threads": os.environ.get("OMP_NUM_THREADS"), "gpu": None, "cuda": None}
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"threads": torch.get_num_threads(), "gpu": gpu, "cuda": torch.version.cuda}
