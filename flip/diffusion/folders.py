"""Load diffusers folders, without running anything that they name."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from flip.clip.weights import weights_hash
from flip.diffusion.saving import INDEX_FILE
from flip.diffusion.weight_files import require_finite, tensor_names
from flip.errors import CheckpointError
from flip.files import JsonObject, is_special
from flip.reading import read_json

if TYPE_CHECKING:
    from flip.diffusion.pipeline import Component, Pipeline

log = logging.getLogger(__name__)

#: Pipelines that draw from a prompt alone, and the one of each that does where a folder names its sibling.
PIPELINES = {
    "StableDiffusionPipeline": "StableDiffusionPipeline",
    "StableDiffusionImg2ImgPipeline": "StableDiffusionPipeline",
    "StableDiffusionXLPipeline": "StableDiffusionXLPipeline",
    "StableDiffusionXLImg2ImgPipeline": "StableDiffusionXLPipeline",
}

#: Classes that a component may be of; a scheduler may be any of diffusers'.
CLASSES = {
    "unet": ("diffusers.UNet2DConditionModel",),
    "vae": ("diffusers.AutoencoderKL", "diffusers.AutoencoderTiny"),
    "text_encoder": ("transformers.CLIPTextModel",),
    "text_encoder_2": ("transformers.CLIPTextModelWithProjection",),
    "tokenizer": ("transformers.CLIPTokenizer", "transformers.CLIPTokenizerFast"),
    "tokenizer_2": ("transformers.CLIPTokenizer", "transformers.CLIPTokenizerFast"),
    "safety_checker": ("stable_diffusion.StableDiffusionSafetyChecker",),
    "feature_extractor": (
        "transformers.CLIPImageProcessor",
        "transformers.CLIPImageProcessorPil",
        "transformers.CLIPFeatureExtractor",
    ),
    "image_encoder": ("transformers.CLIPVisionModelWithProjection",),
}

#: Keys of a configuration by which libraries import Python from beside it.
_CODE = ("auto_map", "trust_remote_code", "custom_pipeline", "custom_pipelines", "_module")

#: Files in the folder and in those of its components by which libraries decide what to import.
_CONFIG_FILES = (
    *(INDEX_FILE, "config.json", "scheduler_config.json", "preprocessor_config.json", "generation_config.json"),
    *("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "adapter_config.json"),
)

_TOKENIZERS = {"tokenizer": "text_encoder", "tokenizer_2": "text_encoder_2"}
_NETWORKS = ("unet", "vae", "text_encoder", "text_encoder_2")
_WEIGHTS = (".safetensors", ".bin")
_WEIGHTS_FILE = re.compile(
    r"(diffusion_pytorch_model|model|pytorch_model)(?:\.([\w-]+))?\.(safetensors|bin)(\.index\.json)?"
)
_SHARD = re.compile(r"-\d{5}-of-\d{5}")
_MOST_CONFIG_BYTES = 1 << 20


def load_folder(folder: Path) -> Pipeline:
    """Load a diffusers folder; no network is touched.

    Raises
    ------
    CheckpointError
        If it is none, names a class or pipeline outside the allowed ones, holds a configuration that imports code, or
        lacks weights.
    """
    from flip.diffusion.diffusers_api import diffusers

    index = read_index(folder)
    drawing = _require_known_classes(folder, index)
    _require_no_code(folder)
    _require_plain_files(folder)
    networks = [kind for kind in _NETWORKS if _is_named(index.get(kind))]
    tokenizers = [kind for kind in _TOKENIZERS if _is_named(index.get(kind))]
    _require_vocabularies(folder, tokenizers)
    files = {kind: _weights_file(folder / kind) for kind in networks}
    variants = {_variant(file) for file in files.values()} - {None}
    try:
        with warnings.catch_warnings():
            # diffusers has another name for torch_dtype since 0.42, and knows no other before.
            warnings.simplefilter("ignore", FutureWarning)
            pipeline = getattr(diffusers, drawing).from_pretrained(
                folder, local_files_only=True, torch_dtype="auto", variant=next(iter(sorted(map(str, variants))), None)
            )
    except Exception as e:
        raise CheckpointError(f"{folder} cannot be loaded as a diffusers folder ({_brief(e)}); fetch it again") from e
    for kind, file in files.items():
        _require_all_weights(getattr(pipeline, kind), file)
    for kind, part in pipeline.components.items():
        if hasattr(part, "named_parameters"):
            require_finite(part.named_parameters(), folder / kind)
            part.eval().requires_grad_(False)
    _require_text_to_image(pipeline, folder)
    _require_matching_vocabularies(pipeline, folder, tokenizers)
    made: Pipeline = pipeline
    return made


def read_index(folder: Path) -> JsonObject:
    """Read ``model_index.json``.

    Raises
    ------
    CheckpointError
        If it is missing or holds no object.
    """
    file = folder / INDEX_FILE
    if not file.is_file():
        raise CheckpointError(f"{folder} is no diffusers folder: it has no {INDEX_FILE}")
    index = _read_json(file)
    if not isinstance(index, dict):
        raise CheckpointError(f"{file} holds a {type(index).__name__}; it must be an object of components")
    return index


def _read_json(file: Path) -> object:
    try:
        return read_json(file, keys_once=False)
    except (OSError, ValueError) as e:
        raise CheckpointError(f"{file} is not JSON ({_brief(e, 120)}); fetch the folder again") from e


def _require_known_classes(folder: Path, index: JsonObject) -> str:
    """Refuse a folder that names another class than the allowed ones; return the pipeline that draws with it."""
    file, pipeline = folder / INDEX_FILE, index.get("_class_name")
    if not isinstance(pipeline, str) or pipeline not in PIPELINES:
        raise CheckpointError(
            f"{file} names the pipeline {_brief(repr(pipeline), 80)}; refused: flip draws with "
            f"{' and '.join(dict.fromkeys(PIPELINES.values()))} alone"
        )
    for kind, value in index.items():
        if not isinstance(value, list) or not _is_named(value):
            continue
        name = ".".join(map(str, value))
        scheduler = kind == "scheduler" and re.fullmatch(r"diffusers\.\w+Scheduler", name)
        if name not in CLASSES.get(kind, ()) and not scheduler:
            raise CheckpointError(
                f"{file} takes {kind} from {_brief(name, 80)}; refused: flip loads no such class there, and "
                "it could run code"
            )
    return PIPELINES[pipeline]


def _is_named(value: object) -> bool:
    return isinstance(value, list) and any(part is not None for part in value)


def _require_no_code(folder: Path) -> None:
    """Refuse a folder of which a configuration names Python code, before any library reads it."""
    for file in (part / name for part in (folder, *sorted(folder.iterdir())) for name in _CONFIG_FILES):
        if not file.is_file():
            continue
        if file.stat().st_size > _MOST_CONFIG_BYTES:
            raise CheckpointError(f"{file} is larger than any configuration; fetch the folder again")
        content = _read_json(file)
        if not isinstance(content, dict):
            raise CheckpointError(
                f"{file} holds a {type(content).__name__}; it must be an object; fetch the folder again"
            )
        found = next((key for key in _keys(content) if key in _CODE), None)
        if found is not None:
            raise CheckpointError(f"{file} holds {found!r}, by which code in the folder would run; refused")


def _require_plain_files(folder: Path) -> None:
    """Refuse a folder with a FIFO or a device in it, for which a library would wait."""
    special = next((file for file in sorted(folder.rglob("*")) if is_special(file)), None)
    if special is not None:
        raise CheckpointError(f"{special} is no plain file; fetch the folder again")


def _keys(content: object) -> Iterator[str]:
    waiting = [content]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            yield from map(str, item)
            waiting += item.values()
        elif isinstance(item, list):
            waiting += item


def _weights_file(part: Path) -> Path:
    """Return the weights file of a component that is loaded: the plain one, else that of a variant such as fp16."""
    found = [f for f in sorted(part.glob("*")) if _WEIGHTS_FILE.fullmatch(f.name) and not _SHARD.search(f.name)]
    if not found:
        raise CheckpointError(f"{part} holds no weights; fetch the folder again")
    dangling = next((file for file in found if not file.is_file()), None)
    if dangling is not None:
        raise CheckpointError(f"{dangling} is a link to a file that is not there; fetch the folder again")
    # As diffusers chooses: plain before a variant, safetensors before pickles.
    return min(found, key=lambda f: (_variant(f) is not None, ".bin" in f.name, _variant(f) != "fp16", f.name))


def _variant(file: Path) -> str | None:
    matched = _WEIGHTS_FILE.fullmatch(file.name)
    return matched[2] if matched else None


def _require_all_weights(part: Component, file: Path) -> None:
    """Raise a CheckpointError if a weight of a network is not in its file: it would be random."""
    names = {_plain_name(name) for name in tensor_names(file)}
    missing = [name for name, _ in part.named_parameters() if _plain_name(name) not in names]
    if missing:
        raise CheckpointError(
            f"{file} lacks {len(missing)} of its {len(list(part.named_parameters()))} weights, the first {missing[0]}; "
            "fetch the folder again"
        )


def _plain_name(name: str) -> str:
    """Return a weight's name as any version of the libraries has it."""
    name = name.removeprefix("text_model.")
    for old, new in (("query", "to_q"), ("key", "to_k"), ("value", "to_v"), ("proj_attn", "to_out.0")):
        name = re.sub(rf"(attentions\.\d+)\.{old}\.", rf"\1.{new}.", name)
    return name


def _require_vocabularies(folder: Path, tokenizers: Iterable[str]) -> None:
    """Raise a CheckpointError if a tokenizer has no vocabulary: transformers would make an empty one."""
    for kind in tokenizers:
        part = folder / kind
        if not (part / "tokenizer.json").is_file() and not all(
            (part / f).is_file() for f in ("vocab.json", "merges.txt")
        ):
            raise CheckpointError(
                f"{part} holds neither tokenizer.json nor vocab.json and merges.txt; fetch the folder again"
            )


def _require_matching_vocabularies(pipeline: Component, folder: Path, tokenizers: Iterable[str]) -> None:
    for kind in tokenizers:
        has, known = len(getattr(pipeline, kind)), getattr(pipeline, _TOKENIZERS[kind]).config.vocab_size
        if has > known:
            raise CheckpointError(
                f"{folder / kind}: the tokenizer gives {has} tokens and its text encoder knows {known}; fetch the "
                "folder again"
            )


def _require_text_to_image(pipeline: Component, folder: Path) -> None:
    channels, latents = pipeline.unet.config.in_channels, pipeline.vae.config.latent_channels
    if channels != latents:
        what = "an inpainting model" if channels == 2 * latents + 1 else "a model that reads an image too"
        raise CheckpointError(
            f"{folder} is {what}: its U-Net reads {channels} channels where latents have {latents}; pass a "
            "text-to-image model"
        )


def folder_fingerprint(folder: Path, cache: Path) -> str:
    """Hash the weights of a folder: 16 hex digits."""
    digest = hashlib.sha256()
    for file in sorted(f for f in folder.rglob("*") if f.suffix in _WEIGHTS):
        digest.update(f"{file.relative_to(folder)}={weights_hash(file, cache)}".encode())
    return digest.hexdigest()[:16]


def fetch(name: str) -> Path:
    """Return the folder of a hub model, from this machine if it is here.

    Raises
    ------
    CheckpointError
        If it is not here and cannot be fetched.
    """
    from flip.diffusion.diffusers_api import diffusers

    try:
        return Path(diffusers.DiffusionPipeline.download(name, local_files_only=True))
    except Exception as absent:
        try:
            return Path(diffusers.DiffusionPipeline.download(name))
        except Exception as e:
            offline = bool(os.environ.get("HF_HUB_OFFLINE"))
            reason = "HF_HUB_OFFLINE is set" if offline else _brief(e if str(e) else absent, 160)
            raise CheckpointError(
                f"{name} is not on this machine and could not be fetched ({reason}); with network: check the name; "
                f"without: copy the folder of https://huggingface.co/{name} here and pass --ckpt FOLDER"
            ) from e


def _brief(text: object, most: int = 200) -> str:
    return " ".join(str(text).split())[:most]
