"""Configurations are read and checked before any library sees them: a model folder never runs code.

transformers imports Python from a folder whose configuration has an ``auto_map``, and asks on stdin whether it may;
open_clip hands ``tokenizer_kwargs`` and names of text towers on to it, and ``timm_model_name`` to timm.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from flip.clip.ranges import check_plain, check_preprocessing, check_tower, check_whole
from flip.errors import ModelError
from flip.files import JsonObject
from flip.reading import parse_json, read_bytes

#: Most configurations have a few kilobytes; those of tokenizers list every special token.
_LARGEST = 32_000_000

#: Keys that make a library run code of the model's, or fetch code.
_CODE = ("auto_map", "trust_remote_code", "custom_code", "code_revision", "custom_pipelines")
_MODEL_KEYS = (
    "embed_dim",
    "vision_cfg",
    "text_cfg",
    "multimodal_cfg",
    "quick_gelu",
    "custom_text",
    "init_logit_scale",
    "init_logit_bias",
    "nonscalar_logit_scale",
)
#: Keyword arguments of open_clip's tokenizers that only change how text is cleaned and cut.
_TOKENIZER_KEYS = ("clean", "strip_sep_token", "language", "additional_special_tokens", "reduction_mask")
#: An architecture of timm, with a tag or without.
_ARCHITECTURE = re.compile(r"([A-Za-z0-9][\w-]*(\.[\w-]+)*)?")
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def read_json(file: Path) -> JsonObject:
    """Return the object that a JSON file holds.

    Raises
    ------
    ModelError
        If it is not a JSON object, or larger than any configuration.
    """
    try:
        if file.stat().st_size > _LARGEST:
            raise ModelError(f"{file} is larger than any configuration ({file.stat().st_size:,} bytes)")
        content = parse_json(read_bytes(file), keys_once=False)
    except (OSError, ValueError) as e:
        reason = str(e).splitlines()[0][:120] if str(e) else type(e).__name__
        raise ModelError(f"{file} is not a configuration ({reason}); fetch it again") from e
    if not isinstance(content, dict):
        raise ModelError(f"{file} holds a {type(content).__name__}; a configuration is a JSON object")
    return content


def refuse_code(content: object, file: Path) -> None:
    """Refuse a configuration that would make a library run code, however deep in it.

    Raises
    ------
    ModelError
        The message names the key; nothing was run.
    """
    if isinstance(content, Mapping):
        for key, value in content.items():
            if key in _CODE and value not in (None, False, "", {}, []):
                raise ModelError(
                    f"{file} has {key}, which would run code of the model's; nothing of it was run; "
                    "flip reads models of open_clip and transformers' own classes only"
                )
            refuse_code(value, file)
    elif isinstance(content, list):
        for value in content:
            refuse_code(value, file)


def check_model_cfg(model_cfg: object, file: Path, *, vision: Iterable[str], text: Iterable[str]) -> JsonObject:
    """Return open_clip's ``model_cfg`` if it holds known keys and plain values only.

    Parameters
    ----------
    model_cfg : object
        As read from a file.
    file : Path
        For messages.
    vision, text : iterables of str
        The keys that ``vision_cfg``, and ``text_cfg`` and ``multimodal_cfg``, may have.

    Raises
    ------
    ModelError
        The message names the key.
    """
    if not isinstance(model_cfg, dict) or not {"embed_dim", "vision_cfg", "text_cfg"} <= model_cfg.keys():
        raise ModelError(
            f"{file} is not an open_clip configuration; it needs a model_cfg with embed_dim and two towers"
        )
    refuse_code(model_cfg, file)
    _known_keys(model_cfg, _MODEL_KEYS, "model_cfg", file)
    for part, known in (("vision_cfg", vision), ("text_cfg", text), ("multimodal_cfg", text)):
        if part in model_cfg:
            _check_part(model_cfg[part], part, known, file)
    for key, value in model_cfg.items():
        if not key.endswith("_cfg"):
            check_plain(key, value, "model_cfg", file)
            check_whole(key, value, "model_cfg", file)
    return model_cfg


def check_preprocess_cfg(preprocess_cfg: object, file: Path) -> JsonObject:
    """Return open_clip's ``preprocess_cfg`` if it holds plain values only; keys that it does not know are left out.

    Raises
    ------
    ModelError
        The message names the key.
    """
    if not isinstance(preprocess_cfg, dict):
        raise ModelError(f"{file}: preprocess_cfg is a {type(preprocess_cfg).__name__}; it must be an object")
    for key, value in preprocess_cfg.items():
        check_plain(key, value, "preprocess_cfg", file)
    check_preprocessing(preprocess_cfg, file)
    return preprocess_cfg


def check_repository(name: object, key: str, file: Path | str) -> str:
    """Return the name of a repository on the hub.

    Raises
    ------
    ModelError
        If it is anything else, such as a folder.
    """
    if not isinstance(name, str) or not _REPOSITORY.fullmatch(name) or ".." in name:
        raise ModelError(f"{file}: {key} is {name!r}; only the name of a repository (ORG/NAME) is allowed there")
    return name


def _check_part(part: object, where: str, known: Iterable[str], file: Path) -> None:
    if not isinstance(part, dict):
        raise ModelError(f"{file}: {where} is a {type(part).__name__}; it must be an object")
    _known_keys(part, known, where, file)
    for key, value in part.items():
        if key == "tokenizer_kwargs" and value is not None:
            if not isinstance(value, dict):
                raise ModelError(f"{file}: {where}.{key} is a {type(value).__name__}; it must be an object")
            _known_keys(value, _TOKENIZER_KEYS, f"{where}.{key}", file)
        if key == "timm_model_name" and not _ARCHITECTURE.fullmatch(str(value or "")):
            raise ModelError(f"{file}: {where}.{key} is {value!r}; only the name of an architecture is allowed there")
        if key in ("tokenizer_kwargs", "act_kwargs", "norm_kwargs") and isinstance(value, dict):
            for inner, setting in value.items():
                check_plain(inner, setting, f"{where}.{key}", file)
        else:
            check_plain(key, value, where, file)
    check_tower(part, where, file)


def _known_keys(part: Mapping[str, object], known: Iterable[str], where: str, file: Path) -> None:
    unknown = sorted(set(part) - set(known))
    if unknown:
        raise ModelError(f"{file}: {where} has {unknown[0]!r}, which open_clip does not know; remove it")
