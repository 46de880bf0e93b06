"""The folder of a fine-tuned CLIP model, as open_clip alone can read it."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch

from flip.clip.encoder import OpenClipEncoder
from flip.clip.folder import CONFIG_FILE, TOKENIZER_FILES, WEIGHTS_FILE
from flip.clip.learned import learned_by
from flip.data.dataset import Dataset
from flip.data.learned import LEARNED_FILE, write_learned
from flip.errors import CheckpointError, ConfigError
from flip.files import json_text, write_json, write_text, written_aside
from flip.training.checkpoints import save_tensors, write_error

METRICS, CONFIG, RESULT = "metrics.jsonl", "config.json", "result.json"

#: What a run writes into its folder, beside its checkpoints and what it was begun with.
OWN_FILES = (WEIGHTS_FILE, CONFIG_FILE, METRICS, CONFIG, RESULT, LEARNED_FILE, *TOKENIZER_FILES)


def save_model(model: OpenClipEncoder, weights: dict[str, torch.Tensor], folder: Path) -> None:
    """Write a model as open_clip's ``local-dir`` folder: configuration, weights, and tokenizer files where it has any.

    Parameters
    ----------
    model : OpenClipEncoder
        Where configuration and tokenizer come from.
    weights : dict of str to tensor
        Under open_clip's names.
    folder : Path

    Raises
    ------
    CheckpointError
        If the weights cannot be written; a file that was there is left as it was.
    """
    file = folder / WEIGHTS_FILE
    try:
        with written_aside(file, durable=True) as aside:
            save_tensors(weights, aside)
    except ConfigError as e:
        raise CheckpointError(
            f"{file} cannot be written ({write_error(e)}); make room and run the same command again"
        ) from e
    _copy_tokenizer(model, folder)
    preprocess = {k: v for k, v in model.config["preprocess_cfg"].items() if k not in ("size", "mode")}
    write_json(folder / CONFIG_FILE, {"model_cfg": model.config["model_cfg"], "preprocess_cfg": preprocess})


def save_learned(model: OpenClipEncoder, parts: Iterable[Dataset], folder: Path) -> None:
    """Write which photos a model was trained or chosen on, with those of the model that it began from."""
    write_learned(folder, (file for part in parts for file in part.files), learned_by(model.name))


def _copy_tokenizer(model: OpenClipEncoder, folder: Path) -> None:
    source = Path(model.name.removeprefix("local-dir:"))
    if source.is_dir():
        for name in TOKENIZER_FILES:
            if (source / name).is_file() and source.resolve() != folder.resolve():
                shutil.copyfile(source / name, folder / name)
    elif hasattr(model.tokenize, "tokenizer") and hasattr(model.tokenize.tokenizer, "save_pretrained"):
        model.tokenize.tokenizer.save_pretrained(str(folder))


def write_metrics(folder: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """Write one line per epoch."""
    write_text(folder / METRICS, "".join(json_text(row) + "\n" for row in rows))
