"""Load a diffusion model from a file, a folder or the hub, without running anything that a checkpoint names."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flip.clip.weights import weights_hash
from flip.diffusion import ldm
from flip.diffusion.pickles import read_pickled_tensors
from flip.diffusion.tokenizer import make_tokenizer
from flip.errors import CheckpointError, ConfigError, near_names
from flip.files import cache_folder, claim_folder, folder_aside, written_aside
from flip.sample import weights as sample

if TYPE_CHECKING:
    import torch

    from flip.diffusion.pipeline import Pipeline

INDEX_FILE = "model_index.json"
ACCEPTED = "a .ckpt or .safetensors file, a diffusers folder, a LoRA file with --base, ORG/NAME of the hub, or sample"

#: Libraries whose classes a diffusers folder may name; "stable_diffusion" is where the safety checker lives.
_LIBRARIES = ("diffusers", "transformers", "stable_diffusion")
_WEIGHTS = (".safetensors", ".bin")

#: What diffusers and transformers write into the folder of a component.
_PART_FILE = re.compile(
    r"(config|scheduler_config|preprocessor_config|generation_config|tokenizer_config|tokenizer|vocab|added_tokens"
    r"|special_tokens_map)\.json|merges\.txt|(diffusion_pytorch_)?(pytorch_)?model[\w.-]*\.(safetensors|bin|json)"
)


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
    ckpt: str | Path, *, base: str | Path | None = None, ema: bool = True, cache: Path | None = None
) -> Loaded:
    """Load a diffusion model; no network is touched for files and folders.

    Parameters
    ----------
    ckpt : str or Path
        A CompVis/latent-diffusion ``.ckpt`` of Stable Diffusion v1, the same as ``.safetensors``, a diffusers folder, a
        LoRA file, a hub name, or ``sample``.
    base : str or Path, optional
        What a LoRA file is added to; for a ``.ckpt`` the diffusers folder that gives what the file lacks.
    ema : bool
        Take the averaged weights of a ``.ckpt`` that has them.
    cache : Path, optional
        Where a pickle's tensors are kept as safetensors after the first reading; the platform's cache when absent.

    Raises
    ------
    CheckpointError
        If the file could run code (nothing of it is run), is truncated, holds NaN or infinity, or is no known format.
    ConfigError
        If a LoRA file comes without ``base``.
    """
    path = sample.diffusion_folder() if str(ckpt) == sample.NAME else Path(ckpt).expanduser()
    kept = cache_folder(cache)
    if path.is_dir():
        return _load_folder(str(ckpt), path, kept)
    if path.is_file():
        return _load_file(str(ckpt), path, base, ema, kept)
    if re.fullmatch(r"[\w.-]+/[\w.-]+", str(ckpt)) and not path.suffix and not path.parent.is_dir():
        return _load_folder(str(ckpt), _fetch(str(ckpt)), kept)
    there = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    raise CheckpointError(f"no file or folder {ckpt}{near_names(path.name, there)}; pass {ACCEPTED}")


def save_pipeline(pipeline: Pipeline, folder: Path, *, overwrite: bool = False) -> None:
    """Write a pipeline as a diffusers folder of safetensors.

    Parameters
    ----------
    pipeline : diffusers pipeline
    folder : Path
    overwrite : bool
        Replace the model that the folder holds: the files that diffusers writes, and no others.

    Raises
    ------
    ConfigError
        If the folder holds something else, or cannot be written.
    """
    # Only another model is ever replaced: what else a folder may hold is not this function's to delete.
    claim_folder(folder, overwrite=overwrite and (folder / INDEX_FILE).is_file(), flag="--save-as")
    staged = folder / ".flip-model"
    try:
        with folder_aside(staged) as aside:
            pipeline.save_pretrained(aside, safe_serialization=True)
        for file in _model_files(folder):
            file.unlink()
        # The index last: without it the folder is no model.
        files = [file for file in staged.rglob("*") if file.is_file()]
        for file in sorted(files, key=lambda file: file.name == INDEX_FILE):
            target = folder / file.relative_to(staged)
            target.parent.mkdir(parents=True, exist_ok=True)
            file.replace(target)
    except OSError as e:
        raise ConfigError(f"{folder} cannot be written ({e.strerror or e}); pass a folder that can") from e
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _model_files(folder: Path) -> list[Path]:
    """Return the files of a diffusers folder, its index first, and none that diffusers does not write."""
    index = folder / INDEX_FILE
    if not index.is_file():
        return []
    try:
        content = json.loads(index.read_text(encoding="utf-8"))
        parts = [name for name, value in content.items() if isinstance(value, list) and Path(name).name == name]
    except (ValueError, AttributeError, RecursionError):
        parts = []
    files = [file for part in parts for file in (folder / part).glob("*") if _PART_FILE.fullmatch(file.name)]
    return [index, *files]


def _load_file(name: str, file: Path, base: str | Path | None, ema: bool, cache: Path) -> Loaded:
    digest = weights_hash(file, cache)
    state = _read_state(file, digest, ema, cache)
    if any("lora" in key for key in state):
        return _add_lora(name, file, digest, state, base, ema, cache)
    if not ldm.is_ldm(state):
        some = ", ".join(list(state)[:3])
        raise CheckpointError(f"{file} is in no known format (its first weights: {some}); pass {ACCEPTED}")
    pipeline = _from_ldm(ldm.select_weights(state, ema=ema), file, base)
    return Loaded(pipeline, name, hashlib.sha256(f"{digest}/{ema}".encode()).hexdigest()[:16])


def _read_state(file: Path, digest: str, ema: bool, cache: Path) -> Mapping[str, torch.Tensor]:
    """Return a file's tensors; those of a pickle from the copy in the cache, which is made at the first reading."""
    if _is_safetensors(file):
        state = _read_safetensors(file)
        require_finite(state.items(), file)
        return state
    kept = cache / "diffusion" / f"{digest[:32]}-{'ema' if ema else 'plain'}.safetensors"
    if kept.is_file():
        try:
            return _read_safetensors(kept)
        except CheckpointError:
            kept.unlink()
    tensors = read_pickled_tensors(file)
    if ldm.is_ldm(tensors):
        tensors = ldm.select_weights(tensors, ema=ema)
    require_finite(tensors.items(), file)
    _keep(tensors, kept, digest)
    return _read_safetensors(kept)


def _is_safetensors(file: Path) -> bool:
    with file.open("rb") as stream:
        head = stream.read(9)
    return head[8:9] == b"{" or (file.suffix == ".safetensors" and not head.startswith((b"PK", b"\x80")))


def _read_safetensors(file: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(file)
    except (SafetensorError, OSError, ValueError) as e:
        reason = " ".join(str(e).split())[:120]
        raise CheckpointError(f"{file} is truncated or no safetensors file ({reason}); fetch it again") from e


def _keep(tensors: Mapping[str, torch.Tensor], kept: Path, digest: str) -> None:
    from safetensors.torch import save_file

    contiguous = {name: value.contiguous() for name, value in _unshared(tensors)}
    with written_aside(kept, "pass --cache with a folder that can hold it") as aside:
        save_file(contiguous, aside, {"source_sha256": digest})


def _unshared(tensors: Mapping[str, torch.Tensor]) -> Iterable[tuple[str, torch.Tensor]]:
    """Yield tensors with memory of their own where two names share it, which safetensors does not write."""
    seen = set()
    for name, value in tensors.items():
        place = (value.untyped_storage().data_ptr(), value.storage_offset())
        yield name, value.clone() if place in seen else value
        seen.add(place)


def require_finite(tensors: Iterable[tuple[str, torch.Tensor]], source: str | Path) -> None:
    """Raise a CheckpointError that names the first weight holding NaN or infinity."""
    import torch

    for name, value in tensors:
        if not bool(torch.isfinite(value).all()):
            raise CheckpointError(f"{source} holds NaN or infinity in {name}; take an earlier checkpoint")


def _from_ldm(state: Mapping[str, torch.Tensor], file: Path, base: str | Path | None) -> Any:
    from flip.diffusion.diffusers_api import diffusers

    absent = [kind for kind, key in ldm.COMPONENTS.items() if key not in state]
    if absent and base is None:
        raise CheckpointError(
            f"{file} has no {' and no '.join(absent)} ({ldm.COMPONENTS[absent[0]]} is missing); pass --base with a "
            "diffusers folder that has it, or a whole Stable Diffusion v1 checkpoint"
        )
    parts = {kind: ldm.build_component(kind, state, file) for kind in ldm.COMPONENTS if kind not in absent}
    if base is not None:
        whole = load_pipeline(base).pipeline
        scheduler, tokenizer = whole.scheduler, whole.tokenizer
        parts |= {kind: getattr(whole, kind) for kind in absent}
    else:
        scheduler = diffusers.DDIMScheduler.from_config(ldm.SCHEDULER)
        tokenizer = make_tokenizer(parts["text_encoder"].config.max_position_embeddings)
    return diffusers.StableDiffusionPipeline(
        **parts,
        tokenizer=tokenizer,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _add_lora(
    name: str, file: Path, digest: str, state: Mapping[str, Any], base: str | Path | None, ema: bool, cache: Path
) -> Loaded:
    if base is None:
        raise ConfigError(f"{file} is a LoRA, which changes another model; pass that model with --base")
    whole = load_pipeline(base, ema=ema, cache=cache)
    pipeline: Any = whole.pipeline
    try:
        pipeline.load_lora_weights(dict(state))
        pipeline.fuse_lora()
        pipeline.unload_lora_weights()
    except Exception as e:
        reason = " ".join(str(e).split())[:160]
        raise CheckpointError(f"{file} does not fit {base} ({reason}); pass the --base that it was trained on") from e
    return Loaded(whole.pipeline, name, hashlib.sha256(f"{digest}/{whole.fingerprint}".encode()).hexdigest()[:16])


def _load_folder(name: str, folder: Path, cache: Path) -> Loaded:
    from flip.diffusion.diffusers_api import diffusers

    index = _read_index(folder)
    _require_known_classes(folder, index)
    try:
        with warnings.catch_warnings():
            # diffusers has another name for torch_dtype since 0.42, and knows no other before.
            warnings.simplefilter("ignore", FutureWarning)
            pipeline = diffusers.DiffusionPipeline.from_pretrained(folder, local_files_only=True, torch_dtype="auto")
    except Exception as e:
        reason = " ".join(str(e).split())[:200]
        raise CheckpointError(f"{folder} cannot be loaded as a diffusers folder ({reason}); fetch it again") from e
    for kind, part in pipeline.components.items():
        if hasattr(part, "named_parameters"):
            require_finite(part.named_parameters(), folder / kind)
            part.eval().requires_grad_(False)
    return Loaded(pipeline, name, _folder_fingerprint(folder, cache))


def _read_index(folder: Path) -> dict[str, Any]:
    file = folder / INDEX_FILE
    if not file.is_file():
        raise CheckpointError(f"{folder} is no diffusers folder: it has no {INDEX_FILE}; pass {ACCEPTED}")
    try:
        index = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as e:
        raise CheckpointError(f"{file} is not JSON ({e}); fetch the folder again") from e
    if not isinstance(index, dict):
        raise CheckpointError(f"{file} holds a {type(index).__name__}; it must be an object of components")
    return index


def _require_known_classes(folder: Path, index: Mapping[str, Any]) -> None:
    """Refuse a folder that names a class outside the libraries: loading it would import and call that."""
    from flip.diffusion.diffusers_api import diffusers

    pipeline = index.get("_class_name")
    if not isinstance(pipeline, str) or not hasattr(diffusers, pipeline):
        raise CheckpointError(
            f"{folder / INDEX_FILE} names the pipeline {pipeline!r}, which is none of diffusers' own; refused"
        )
    for kind, value in index.items():
        named = isinstance(value, list) and len(value) == 2 and not kind.startswith("_")
        if named and value[0] is not None and value[0] not in _LIBRARIES:
            raise CheckpointError(
                f"{folder / INDEX_FILE} takes {kind} from {value[0]}.{value[1]}, which could run code; refused; "
                f"only classes of {', '.join(_LIBRARIES)} are loaded"
            )


def _folder_fingerprint(folder: Path, cache: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(f for f in folder.rglob("*") if f.suffix in _WEIGHTS):
        digest.update(f"{file.relative_to(folder)}={weights_hash(file, cache)}".encode())
    return digest.hexdigest()[:16]


def _fetch(name: str) -> Path:
    """Return the folder of a hub model, from this machine if it is here."""
    from flip.diffusion.diffusers_api import diffusers

    try:
        return Path(diffusers.DiffusionPipeline.download(name, local_files_only=True))
    except Exception as absent:
        try:
            return Path(diffusers.DiffusionPipeline.download(name))
        except Exception as e:
            offline = bool(os.environ.get("HF_HUB_OFFLINE"))
            reason = "HF_HUB_OFFLINE is set" if offline else " ".join(str(e or absent).split())[:160]
            raise CheckpointError(
                f"{name} is not on this machine and could not be fetched ({reason}); with network: check the name; "
                f"without: copy the folder of https://huggingface.co/{name} here and pass --ckpt FOLDER"
            ) from e
