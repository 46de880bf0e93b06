"""A folder of checked files only, for open_clip to read: nothing else of a model's folder is seen by any library."""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path

from flip.clip.checks import read_json, refuse_code
from flip.clip.folder import CONFIG_FILE, TOKENIZER_FILES
from flip.errors import ModelError, reason_of
from flip.files import JsonObject

_TOWER = "text_tower"


@contextlib.contextmanager
def staged(
    model_cfg: JsonObject, preprocess_cfg: JsonObject, tokenizer: Path | None, text_tower: Path | None
) -> Iterator[Path]:
    """Yield a temporary folder that holds a model's configuration and tokenizer, and lives as long as the context.

    Parameters
    ----------
    model_cfg, preprocess_cfg : dict
        As :func:`flip.clip.checks.check_model_cfg` returned them.
    tokenizer : Path, optional
        The folder with the tokenizer's files, where the text tower needs one of Hugging Face.
    text_tower : Path, optional
        ``config.json`` of a text tower of transformers.

    Raises
    ------
    ModelError
        If a file would make a library run code.
    """
    content = deepcopy(model_cfg)
    with tempfile.TemporaryDirectory(prefix="flip-model-") as name:
        folder = Path(name)
        with _writing():
            _fill(folder, content, preprocess_cfg, tokenizer, text_tower)
        yield folder


@contextlib.contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except OSError as e:
        place = tempfile.gettempdir()
        raise ModelError(f"no temporary file can be written into {place} ({reason_of(e)}); set TMPDIR") from e


def _fill(
    folder: Path, content: JsonObject, preprocess_cfg: JsonObject, tokenizer: Path | None, text_tower: Path | None
) -> None:
    text = content["text_cfg"]
    if tokenizer is not None:
        _copy_tokenizer(tokenizer, folder)
        text["hf_tokenizer_name"] = "in this folder"
        settings = {"trust_remote_code": False, "local_files_only": True}
        text["tokenizer_kwargs"] = (text.get("tokenizer_kwargs") or {}) | settings
    elif text.get("tokenizer_kwargs") is None:
        text.pop("tokenizer_kwargs", None)
    if text_tower is not None:
        (folder / _TOWER).mkdir()
        _copy_config(text_tower, folder / _TOWER / "config.json")
        text["hf_model_name"] = str(folder / _TOWER)
    written = {"model_cfg": content, "preprocess_cfg": preprocess_cfg}
    (folder / CONFIG_FILE).write_text(json.dumps(written), encoding="utf-8")


def _copy_tokenizer(source: Path, folder: Path) -> None:
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            if name == "tokenizer_config.json":
                _copy_config(source / name, folder / name)
            else:
                shutil.copyfile(source / name, folder / name)
    # transformers asks it for the kind of tokenizer.
    if (source / "config.json").is_file():
        _copy_config(source / "config.json", folder / "config.json")


def _copy_config(source: Path, target: Path) -> None:
    """Copy a configuration without what names files, folders or code elsewhere."""
    content = read_json(source)
    refuse_code(content, source)
    target.write_text(json.dumps(_without_elsewhere(content)), encoding="utf-8")


def _without_elsewhere(content: object) -> object:
    if isinstance(content, dict):
        return {
            key: _without_elsewhere(value)
            for key, value in content.items()
            if not (key.endswith(("_file", "name_or_path", "implementation")) or key == "quantization_config")
        }
    return [_without_elsewhere(value) for value in content] if isinstance(content, list) else content
