"""Model folders, as open_clip's ``local-dir`` reads them. Standard library only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from flip.errors import ModelError

CONFIG_FILE, WEIGHTS_FILE = "open_clip_config.json", "open_clip_model.safetensors"

#: What a tokenizer of Hugging Face consists of; open_clip reads it from the model's own folder.
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
)

_PREFERRED = (
    WEIGHTS_FILE,
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
    "model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.pth",
    "model.pth",
)


def find_weights(folder: Path) -> Path | None:
    """Return the weights file of a folder that open_clip would choose, or None."""
    found = sorted(file for suffix in (".safetensors", ".bin", ".pth") for file in folder.glob(f"*{suffix}"))
    found.sort(key=lambda file: file.suffix != ".safetensors")
    named = {file.name: file for file in found}
    preferred = [named[name] for name in _PREFERRED if name in named]
    return next(iter(preferred or found), None)


def folder_files(folder: Path) -> tuple[Path, Path]:
    """Return the configuration and the weights file of a folder.

    Raises
    ------
    ModelError
        If one of them is missing.
    """
    config = folder / CONFIG_FILE
    if not config.is_file():
        raise ModelError(
            f"{folder} is not a model folder: it has no {CONFIG_FILE}; pass ARCH/TAG or what flip finetune wrote"
        )
    weights = find_weights(folder)
    if weights is None:
        read_model_config(config)
        raise ModelError(f"{folder} has {CONFIG_FILE} but no weights; put {WEIGHTS_FILE} beside it")
    return config, weights


def read_model_config(config_file: Path) -> dict[str, Any]:
    """Return the ``model_cfg`` of a configuration.

    Raises
    ------
    ModelError
        If the file is no such configuration.
    """
    try:
        model_cfg: dict[str, Any] = json.loads(config_file.read_text(encoding="utf-8"))["model_cfg"]
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise ModelError(f"{config_file} is not an open_clip configuration ({e}); it needs a model_cfg") from e
    return model_cfg
