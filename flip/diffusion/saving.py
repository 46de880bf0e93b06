"""Write a pipeline as a diffusers folder, without touching files that are not the model's."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from flip.errors import ConfigError, reason_of
from flip.files import claim_folder, folder_aside, move_files
from flip.reading import read_json

if TYPE_CHECKING:
    from flip.diffusion.pipeline import Pipeline

INDEX_FILE = "model_index.json"

#: What diffusers and transformers write into the folder of a component.
_PART_FILE = re.compile(
    r"(config|scheduler_config|preprocessor_config|generation_config|tokenizer_config|tokenizer|vocab|added_tokens"
    r"|special_tokens_map)\.json|merges\.txt|(diffusion_pytorch_|pytorch_)?model[\w.-]*\.(safetensors|bin|json)"
)


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
        move_files(staged, folder, last=INDEX_FILE)
    except OSError as e:
        raise ConfigError(f"{folder} cannot be written ({reason_of(e)}); pass a folder that can") from e
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _model_files(folder: Path) -> list[Path]:
    """Return the files of a diffusers folder, its index first, and none that diffusers does not write."""
    index = folder / INDEX_FILE
    if not index.is_file():
        return []
    try:
        content = read_json(index)
        parts = [name for name, value in content.items() if isinstance(value, list) and Path(name).name == name]
    except (ValueError, AttributeError):
        parts = []
    files = [file for part in parts for file in (folder / part).glob("*") if _PART_FILE.fullmatch(file.name)]
    return [index, *files]
