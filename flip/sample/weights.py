"""The files of the sample's small models.

``python -m flip.sample.weights RUN clip`` (or ``diffusion``) puts what ``flip finetune`` wrote in their place.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from flip.names import SAMPLE

#: The word for them in ``--model`` and ``--ckpt``.
NAME = SAMPLE

_MODELS = Path(__file__).parent / "models"
_NOT_THE_MODEL = ("checkpoints", "start", "tokenizer", "tokenizer_config.json", "open_clip_config.json")


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


def store(run: Path, folder: Path) -> None:
    """Copy a trained model's safetensors into a folder of the package in half precision: the last step of the recipe.

    Parameters
    ----------
    run : Path
        What ``flip finetune`` wrote.
    folder : Path
        ``clip_folder()`` or ``diffusion_folder()``.
    """
    import numpy as np
    from safetensors.numpy import load_file, save_file

    for file in sorted([*run.rglob("*.safetensors"), *run.rglob("*config.json"), *run.glob("model_index.json")]):
        place = file.relative_to(run)
        if place.parts[0] in _NOT_THE_MODEL or (place.name == "config.json" and len(place.parts) == 1):
            continue
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        if file.suffix == ".json":
            settings = json.loads(file.read_text(encoding="utf-8"))
            settings.pop("_name_or_path", None)  # where it was trained
            (folder / place).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
            continue
        tensors = {
            name: np.ascontiguousarray(values.astype(np.float16) if values.dtype.kind == "f" else values)
            for name, values in load_file(file).items()
        }
        save_file(tensors, folder / place, metadata={"format": "pt"})
        (folder / place).chmod(0o644)


if __name__ == "__main__":
    store(Path(sys.argv[1]), {"clip": clip_folder(), "diffusion": diffusion_folder()}[sys.argv[2]])
