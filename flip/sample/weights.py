"""Where the files of the sample's small models are."""

from __future__ import annotations

from pathlib import Path

#: What ``--model`` and ``--ckpt`` call them.
NAME = "sample"

_MODELS = Path(__file__).parent / "models"


def clip_folder() -> Path:
    """Return the folder of the tiny CLIP, which open_clip reads as ``local-dir``."""
    return _MODELS / "clip"


def diffusion_folder() -> Path:
    """Return the folder of the tiny diffusion model, which diffusers reads."""
    return _MODELS / "diffusion"


def scratch_config(target: str) -> Path:
    """Return the configuration from which a sample model was trained: what ``--from-scratch sample`` means.

    Parameters
    ----------
    target : str
        "clip" or "diffusion", as ``--target``.
    """
    return clip_folder() / "open_clip_config.json" if target == "clip" else diffusion_folder() / "scratch.json"
