"""Model folders and weights files on this machine. Standard library only: an answer from the cache needs no more."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from flip.errors import ModelError
from flip.reading import read_bytes

CONFIG_FILE, WEIGHTS_FILE = "open_clip_config.json", "open_clip_model.safetensors"
TRANSFORMERS_CONFIG = "config.json"

#: What a tokenizer of Hugging Face consists of; open_clip reads it from the model's own folder.
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
)

#: Names of single weights files; ``.pt`` as a file of its own only, as in open_clip.
WEIGHTS_SUFFIXES = (".safetensors", ".bin", ".pth", ".pt", ".ckpt")

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
_REVISION = re.compile(r"[A-Za-z0-9][\w.-]{0,127}")
_PART = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})(?P<suffix>\.\w+)")


@dataclass(frozen=True)
class ModelFiles:
    """The files that make a model.

    Attributes
    ----------
    kind : {"open_clip", "transformers", "bare"}
        Whose configuration it is; "bare" weights have none.
    config : Path or None
    weights : tuple of Path
        One file, or all parts of weights that were saved in parts.
    unused : tuple of Path
        Other weights files in the folder.
    """

    kind: Literal["open_clip", "transformers", "bare"]
    config: Path | None
    weights: tuple[Path, ...]
    unused: tuple[Path, ...] = ()

    @property
    def all(self) -> tuple[Path, ...]:
        """Configuration and weights."""
        return (*((self.config,) if self.config else ()), *self.weights)


def find_files(path: Path, *, bare: bool = False) -> ModelFiles:
    """Return the files of a model folder, or of a weights file and the configuration beside it.

    Parameters
    ----------
    path : Path
    bare : bool
        Take a weights file without the configuration beside it.

    Raises
    ------
    ModelError
        If something is missing, a link whose file is gone, or of another kind.
    """
    if path.is_dir():
        folder = _snapshot(path)
        config = _find_config(folder)
        candidates = _weights_by_preference(folder)
        if not candidates:
            raise ModelError(f"{folder} has {config.name} but no weights; put {WEIGHTS_FILE} beside it")
        weights = _parts(candidates[0])
        return ModelFiles(_kind(config), config, weights, tuple(f for f in candidates if f not in weights))
    if not path.is_file():
        raise ModelError(_missing(path))
    beside = None if bare else next((config for config in _configs(path.parent) if config.is_file()), None)
    return ModelFiles(_kind(beside) if beside else "bare", beside, _parts(path))


def find_weights(folder: Path) -> Path | None:
    """Return the weights file of a folder that open_clip would choose, or None."""
    return next(iter(_weights_by_preference(folder)), None)


def _weights_by_preference(folder: Path) -> list[Path]:
    found = sorted(file for suffix in (".safetensors", ".bin", ".pth") for file in folder.glob(f"*{suffix}"))
    found.sort(key=lambda file: file.suffix != ".safetensors")
    named = {file.name: file for file in found}
    preferred = [named[name] for name in _PREFERRED if name in named]
    return [*preferred, *(file for file in found if file not in preferred)]


def _parts(file: Path) -> tuple[Path, ...]:
    """Return all parts of weights that were saved in parts, or the file itself."""
    match = _PART.fullmatch(file.name)
    count = int(match["count"]) if match else 1
    parts = [file]
    if match:
        names = (f"{match['stem']}-{i:05d}-of-{count:05d}{match['suffix']}" for i in range(1, count + 1))
        parts = [file.with_name(name) for name in names]
    for part in parts:
        if part.is_symlink() and not part.exists():
            raise ModelError(_missing(part))
    absent = [part.name for part in parts if not part.is_file()]
    if absent:
        raise ModelError(
            f"{file.parent} holds weights in {count} parts, and {len(absent)} are missing, the first {absent[0]}; "
            "fetch them too"
        )
    return tuple(parts)


def _configs(folder: Path) -> tuple[Path, Path]:
    return folder / CONFIG_FILE, folder / TRANSFORMERS_CONFIG


def _kind(config: Path) -> Literal["open_clip", "transformers"]:
    return "open_clip" if config.name == CONFIG_FILE else "transformers"


def _find_config(folder: Path) -> Path:
    for config in _configs(folder):
        if config.is_file():
            return config
        if config.is_symlink():
            raise ModelError(_missing(config))
    raise ModelError(_no_model(folder))


def _no_model(folder: Path) -> str:
    """Return the line for a folder without a configuration: what it is, and what to pass instead."""
    if (folder / "model_index.json").is_file():
        return f"{folder} is a diffusion model; pass it as --ckpt, and a CLIP model as --model"
    if (folder / "adapter_config.json").is_file():
        return f"{folder} holds low-rank additions (LoRA) and no model; pass the model with them merged"
    inner = next(
        (path.parent for name in (CONFIG_FILE, TRANSFORMERS_CONFIG) for path in folder.glob(f"*/{name}")), None
    )
    if inner is not None:
        return f"{folder} is not a model folder, and {inner.name}/ in it may be one; pass --model {inner}"
    weights = sorted(file for file in folder.iterdir() if file.suffix.lower() in WEIGHTS_SUFFIXES)
    if weights:
        return (
            f"{folder} is not a model folder: it has {weights[-1].name} but no {CONFIG_FILE}; put that file beside it, "
            f"or pass --model {weights[-1]} --arch ARCH"
        )
    return f"{folder} is not a model folder: it has no {CONFIG_FILE}; pass ARCH/TAG or what flip finetune wrote"


def _snapshot(folder: Path) -> Path:
    """Return the snapshot that a repository's folder in the Hugging Face cache names as ``main``."""
    main, snapshots = folder / "refs" / "main", folder / "snapshots"
    try:
        revision = read_bytes(main).decode("latin-1").strip()
    except OSError:
        return folder
    if not snapshots.is_dir():
        return folder
    if not _REVISION.fullmatch(revision):
        raise ModelError(
            f"{main} holds {revision[:40]!r} and not the name of a revision; fetch the repository again, or pass a "
            f"folder in {snapshots}"
        )
    return snapshots / revision


def _missing(file: Path) -> str:
    if not file.is_symlink():
        return f"no such model: {file}; pass a folder, a weights file, ARCH/TAG or hf-hub:ORG/NAME"
    repository = next((part for part in file.absolute().parts if part.startswith("models--")), "")
    name = repository.removeprefix("models--").replace("--", "/") or "REPO"
    return f"{file} is a link to a file that is gone ({file.readlink()}); fetch it again: hf download {name}"
