"""The folder of a run: a model that open_clip alone can read, and what it takes to trust and repeat it."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from flip.clip.model import CONFIG_FILE, TOKENIZER_FILES, WEIGHTS_FILE, ClipModel
from flip.config import FinetuneConfig
from flip.errors import CheckpointError, ConfigError
from flip.files import plain, write_json, write_text
from flip.results import versions
from flip.training.clip.checkpoint import sync

CHECKPOINTS, METRICS, CONFIG, ENVIRONMENT, RESULT = (
    "checkpoints",
    "metrics.jsonl",
    "config.json",
    "environment.json",
    "result.json",
)

#: Fields that may differ when a run is gone on with: where it writes, what it says, and what it does when it is done.
FREE_FIELDS = frozenset(
    [
        "output",
        "format",
        "quiet",
        "verbose",
        "strict",
        "resume",
        "overwrite",
        "save_every",
        "workers",
        "cache",
        "wise",
        "retain",
        "no_scores",
    ]
)


def save_model(model: ClipModel, weights: dict[str, torch.Tensor], folder: Path) -> None:
    """Write a model as open_clip's ``local-dir`` folder: configuration, weights, and tokenizer files where it has any.

    Parameters
    ----------
    model : ClipModel
        Where configuration and tokenizer come from.
    weights : dict of str to tensor
        Under open_clip's names.
    folder : Path

    Raises
    ------
    CheckpointError
        If the weights cannot be written; a file that was there is left as it was.
    """
    aside = folder / f".{WEIGHTS_FILE}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}, aside)
        sync(aside)
        aside.chmod(0o644)
        aside.replace(folder / WEIGHTS_FILE)
    except (OSError, SafetensorError) as e:
        aside.unlink(missing_ok=True)
        reason = getattr(e, "strerror", None) or str(e).splitlines()[0]
        raise CheckpointError(
            f"{folder / WEIGHTS_FILE} cannot be written ({reason}); make room and go on with --resume"
        ) from e
    _copy_tokenizer(model, folder)
    preprocess = {k: v for k, v in model.config["preprocess_cfg"].items() if k not in ("size", "mode")}
    write_json(folder / CONFIG_FILE, {"model_cfg": model.config["model_cfg"], "preprocess_cfg": preprocess})


def _copy_tokenizer(model: ClipModel, folder: Path) -> None:
    source = Path(model.name.removeprefix("local-dir:"))
    if source.is_dir():
        for name in TOKENIZER_FILES:
            if (source / name).is_file() and source.resolve() != folder.resolve():
                shutil.copyfile(source / name, folder / name)
    elif hasattr(model.tokenize, "tokenizer") and hasattr(model.tokenize.tokenizer, "save_pretrained"):
        model.tokenize.tokenizer.save_pretrained(str(folder))


def write_metrics(folder: Path, rows: list[dict[str, Any]]) -> None:
    """Write one line an epoch."""
    write_text(folder / METRICS, "".join(json.dumps(plain(row)) + "\n" for row in rows))


def check_folder(folder: Path, config: FinetuneConfig, fingerprints: dict[str, str]) -> None:
    """Refuse a folder that holds other work, and another run when resuming; nothing is written.

    Parameters
    ----------
    folder : Path
    config : FinetuneConfig
    fingerprints : dict of str to str
        Of data and model.

    Raises
    ------
    ConfigError
        If the folder holds something and neither ``--resume`` nor ``--overwrite`` is given, there is nothing to resume,
        or what is there was begun with another configuration, data or model; the message names the first difference.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"-o {folder} is a file; pass a folder")
    if config.model and os.path.realpath(config.model) == os.path.realpath(folder):
        raise ConfigError(f"-o {folder} is the folder of --model itself; pass another folder")
    if config.resume:
        _require_same(folder, plain(_decisive(config) | fingerprints))
    elif folder.is_dir() and any(folder.iterdir()) and not config.overwrite:
        raise ConfigError(
            f"-o {folder} already holds files; pass --resume to go on with that run, --overwrite to replace it, "
            "or another folder"
        )


def begin_folder(folder: Path, config: FinetuneConfig, fingerprints: dict[str, str]) -> None:
    """Write what a new run begins with; of an earlier run only its own files are removed."""
    for name in (WEIGHTS_FILE, CONFIG_FILE, METRICS, CONFIG, ENVIRONMENT, RESULT, *TOKENIZER_FILES):
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
    write_json(folder / CONFIG, asdict(config))
    decisive = plain(_decisive(config) | fingerprints)
    write_json(folder / ENVIRONMENT, {"versions": versions(), **fingerprints, "decisive": decisive})


def _decisive(config: FinetuneConfig) -> dict[str, Any]:
    return {name: value for name, value in asdict(config).items() if name not in FREE_FIELDS}


def _require_same(folder: Path, known: dict[str, Any]) -> None:
    try:
        before = json.loads((folder / ENVIRONMENT).read_text(encoding="utf-8"))["decisive"]
    except (OSError, ValueError, KeyError) as e:
        raise ConfigError(f"--resume: {folder} holds no run of flip finetune; leave --resume out to begin one") from e
    for name, value in known.items():
        if before.get(name) != value:
            flag = "--" + name.replace("_", "-")
            raise ConfigError(
                f"--resume: {flag} is {value} and was {before.get(name)} when the run in {folder} began; "
                "pass it as it was, or begin a new run in another folder"
            )
