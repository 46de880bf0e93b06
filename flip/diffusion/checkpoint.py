"""Load a diffusion model from a file, a folder or the hub, without running anything that a checkpoint names."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flip.clip.weights import weights_hash
from flip.diffusion import ldm, lora, single_file
from flip.diffusion.folders import fetch, folder_fingerprint, load_folder
from flip.diffusion.saving import INDEX_FILE, save_pipeline
from flip.diffusion.settings import require_prediction
from flip.diffusion.weight_files import read_metadata, read_state
from flip.errors import CheckpointError, ConfigError, near_names
from flip.files import cache_folder
from flip.reading import what_is
from flip.sample import weights as sample

if TYPE_CHECKING:
    import torch

    from flip.diffusion.pipeline import Pipeline

__all__ = ["INDEX_FILE", "Loaded", "load_pipeline", "save_pipeline"]

log = logging.getLogger(__name__)

ACCEPTED = "a .ckpt or .safetensors file, a diffusers folder, a LoRA file with --base, ORG/NAME of the hub, or sample"

#: Names of a LoRA file in a folder of its own, as diffusers and peft write them.
_LORA_FILES = ("pytorch_lora_weights.safetensors", "adapter_model.safetensors", "adapter_model.bin")

#: Weights of other things than a whole model, by a name among them.
_OTHER_FILES = {
    "emb_params": "a textual inversion",
    "string_to_param": "a textual inversion",
    "clip_l": "a textual inversion",
    "control_model.input_hint_block.0.weight": "a ControlNet",
    "controlnet_cond_embedding.conv_in.weight": "a ControlNet",
    "decoder.conv_in.weight": "an autoencoder alone",
    "down_blocks.0.resnets.0.conv1.weight": "a U-Net of a diffusers folder, without the rest of the folder",
}


@dataclass(frozen=True)
class Loaded:
    """A pipeline on the CPU, in the number format of its files, and its origin.

    Attributes
    ----------
    pipeline : diffusers pipeline
    name : str
        The model as ``--ckpt`` names it.
    fingerprint : str
        16 hex digits over every weight, and whether averaged weights were taken.
    """

    pipeline: Pipeline
    name: str
    fingerprint: str


def load_pipeline(
    ckpt: str | Path,
    *,
    base: str | Path | None = None,
    ema: bool = True,
    prediction: str | None = None,
    cache: Path | None = None,
) -> Loaded:
    """Load a diffusion model; no network is touched for files and folders.

    Parameters
    ----------
    ckpt : str or Path
        A CompVis/latent-diffusion ``.ckpt`` of Stable Diffusion 1, 2 or XL, the same as ``.safetensors``, a diffusers
        folder, a LoRA file, a hub name, or ``sample``.
    base : str or Path, optional
        The model that a LoRA file is added to; for a ``.ckpt`` the diffusers folder that gives what the file lacks, and
        whose configuration counts.
    ema : bool
        Take the averaged weights of a ``.ckpt`` that has them.
    prediction : {"epsilon", "v_prediction"}, optional
        What the U-Net predicts, where the file does not say it or says it wrongly.
    cache : Path, optional
        Where a pickle's tensors are kept as safetensors after the first reading; the platform's cache when absent.

    Raises
    ------
    CheckpointError
        If the file could run code (nothing of it is run), is truncated, holds NaN or infinity, or is of no format or
        family that flip draws with.
    ConfigError
        If a LoRA file comes without ``base``, or ``prediction`` is unknown.
    """
    require_prediction(prediction)
    loaded = _load(ckpt, base, ema, prediction, cache_folder(cache))
    log.debug("checkpoint %s (%s)", loaded.name, loaded.fingerprint)
    return loaded


def _load(ckpt: str | Path, base: str | Path | None, ema: bool, prediction: str | None, cache: Path) -> Loaded:
    path = sample.diffusion_folder() if str(ckpt) == sample.NAME else Path(ckpt).expanduser()
    if path.is_dir():
        adapter = _lora_in(path)
        if adapter is not None:
            return _load_file(str(ckpt), adapter, base, ema, prediction, cache)
        return _load_folder(str(ckpt), path, prediction, cache)
    if path.is_file():
        return _load_file(str(ckpt), path, base, ema, prediction, cache)
    if re.fullmatch(r"[\w.-]+/[\w.-]+", str(ckpt)) and not path.suffix and not path.parent.is_dir():
        return _load_folder(str(ckpt), fetch(str(ckpt)), prediction, cache)
    if kind := what_is(path):
        raise CheckpointError(f"{ckpt} is {kind}; pass {ACCEPTED}")
    there = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    raise CheckpointError(f"no file or folder {ckpt}{near_names(path.name, there)}; pass {ACCEPTED}")


def _lora_in(folder: Path) -> Path | None:
    """Return the LoRA file of a folder that holds one and no whole model."""
    if (folder / INDEX_FILE).is_file():
        return None
    return next((folder / name for name in _LORA_FILES if (folder / name).is_file()), None)


def _load_folder(name: str, folder: Path, prediction: str | None, cache: Path) -> Loaded:
    if not (folder / INDEX_FILE).is_file():
        raise CheckpointError(f"{folder} is no diffusers folder: it has no {INDEX_FILE}; pass {ACCEPTED}")
    pipeline = load_folder(folder)
    fingerprint = folder_fingerprint(folder, cache)
    said = pipeline.scheduler.config.get("prediction_type", "epsilon")
    if prediction is not None and prediction != said:
        pipeline.scheduler = type(pipeline.scheduler).from_config(pipeline.scheduler.config, prediction_type=prediction)
        fingerprint = _combined(fingerprint, prediction)
    return Loaded(pipeline, name, fingerprint)


def _load_file(
    name: str, file: Path, base: str | Path | None, ema: bool, prediction: str | None, cache: Path
) -> Loaded:
    digest = weights_hash(file, cache)
    state = read_state(file, digest, ema, cache)
    if not ldm.is_ldm(state) and lora.is_lora(state):
        return _add_lora(name, file, digest, state, base, ema, prediction, cache)
    if not ldm.is_ldm(state):
        raise CheckpointError(f"{file} {_describe(state)}; pass {ACCEPTED}")
    whole = None if base is None else _load(base, None, ema, None, cache).pipeline
    pipeline = single_file.make_pipeline(state, file, whole, prediction)
    fingerprint = _combined(digest, str(ema))
    return Loaded(pipeline, name, fingerprint if prediction is None else _combined(fingerprint, prediction))


def _describe(state: Mapping[str, torch.Tensor]) -> str:
    """Say what a file holds that is neither a model nor a LoRA."""
    for key, kind in _OTHER_FILES.items():
        if key in state:
            return f"is {kind}"
    from flip.diffusion.diffusers_api import convert

    try:
        kind = convert.infer_diffusers_model_type(state)
    except Exception:  # of weights that it does not expect
        kind = "v1"
    if kind != "v1":  # which it says of everything that it does not know
        return f"is a model of the family {kind}, with which flip does not draw"
    some = ", ".join(list(state)[:3])
    return f"is in no known format (its first weights: {some[:120]})"


def _add_lora(
    name: str,
    file: Path,
    digest: str,
    state: Mapping[str, torch.Tensor],
    base: str | Path | None,
    ema: bool,
    prediction: str | None,
    cache: Path,
) -> Loaded:
    if base is None:
        raise ConfigError(f"{file} is a LoRA, which changes another model; pass that model with --base")
    whole = _load(base, None, ema, prediction, cache)
    lora.add_lora(whole.pipeline, state, file, str(base), read_metadata(file))
    return Loaded(whole.pipeline, name, _combined(digest, whole.fingerprint))


def _combined(*parts: str) -> str:
    return hashlib.sha256("/".join(parts).encode()).hexdigest()[:16]
