"""What a stopped run goes on from: safetensors and JSON, written aside, synced and renamed: whole, or absent."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from flip.errors import CheckpointError, FlipError
from flip.files import plain

Tensors = dict[str, torch.Tensor]

_STEP, _BEST = "step-", "best-"


@dataclass(frozen=True)
class Checkpoint:
    """A run between two steps.

    Attributes
    ----------
    weights : dict of str to tensor
        What is trained, by name.
    optimizer : dict of str to tensor
        AdamW's state, ``exp_avg/NAME`` and so on.
    state : dict
        Everything else, as JSON holds it.
    """

    weights: Tensors
    optimizer: Tensors
    state: dict[str, Any]


class CheckpointFolder:
    """The checkpoints of one run: the latest, and the weights of the best epoch.

    Parameters
    ----------
    folder : Path
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def save(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint; the one before is removed when this one is whole.

        Raises
        ------
        CheckpointError
            If it cannot be written; the one before is left as it was.
        """
        name = f"{_STEP}{checkpoint.state['step']:08d}"
        with _one_line(self._folder, name, self._latest()):
            aside = self._folder / f".{name}.tmp"
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir(parents=True)
            save_file(_contiguous(checkpoint.weights), aside / "weights.safetensors")
            save_file(_contiguous(checkpoint.optimizer), aside / "optimizer.safetensors")
            (aside / "state.json").write_text(json.dumps(plain(checkpoint.state)), encoding="utf-8")
            for file in aside.iterdir():
                sync(file)
            shutil.rmtree(self._folder / name, ignore_errors=True)
            aside.replace(self._folder / name)
            sync(self._folder)
        self._tidy({name, checkpoint.state.get("best_file")})

    def save_best(self, epoch: int, weights: Tensors) -> str:
        """Write the weights of the best epoch so far; returns the name for a checkpoint's ``best_file``."""
        name = f"{_BEST}{epoch:04d}.safetensors"
        with _one_line(self._folder, name, self._latest()):
            self._folder.mkdir(parents=True, exist_ok=True)
            aside = self._folder / f".{name}.tmp"
            save_file(_contiguous(weights), aside)
            sync(aside)
            aside.replace(self._folder / name)
            sync(self._folder)
        return name

    def load(self) -> Checkpoint | None:
        """Return the latest checkpoint, or None when there is none.

        Raises
        ------
        CheckpointError
            If a file of it is damaged.
        """
        latest = self._latest()
        if latest is None:
            return None
        try:
            state = json.loads((latest / "state.json").read_text(encoding="utf-8"))
            weights, optimizer = (load_file(latest / f"{part}.safetensors") for part in ("weights", "optimizer"))
        except (OSError, ValueError, SafetensorError) as e:
            raise CheckpointError(f"{latest} is damaged ({e}); remove it, or start again with --overwrite") from e
        return Checkpoint(weights, optimizer, state)

    def load_best(self, name: str) -> Tensors:
        """Return the weights of the best epoch."""
        try:
            return load_file(self._folder / name)
        except (OSError, SafetensorError) as e:
            raise CheckpointError(f"{self._folder / name} is damaged ({e}); start again with --overwrite") from e

    def remove(self) -> None:
        """Remove every checkpoint; the run is done."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _latest(self) -> Path | None:
        steps = sorted(self._folder.glob(f"{_STEP}*")) if self._folder.is_dir() else []
        return steps[-1] if steps else None

    def _tidy(self, keep: set[str | None]) -> None:
        for path in self._folder.iterdir():
            if path.name not in keep:
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: Mapping[Any, str]) -> Tensors:
    """Return an optimiser's state as named tensors."""
    return {
        f"{key}/{names[parameter]}": torch.as_tensor(value)
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
    }


def restore_optimizer(
    optimizer: torch.optim.Optimizer, tensors: Tensors, parameters: Mapping[str, torch.Tensor]
) -> None:
    """Give an optimiser the state that :func:`optimizer_tensors` returned."""
    for name, tensor in tensors.items():
        key, _, parameter_name = name.partition("/")
        parameter = parameters[parameter_name]
        # AdamW counts its steps on the CPU.
        value = tensor.clone() if tensor.ndim == 0 else torch.empty_like(parameter).copy_(tensor)
        optimizer.state[parameter][key] = value


def sync(path: Path) -> None:
    """Return when a file or folder is on the disk rather than in the system's memory."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _one_line(folder: Path, name: str, latest: Path | None) -> Iterator[None]:
    try:
        yield
    except FlipError:
        raise
    except (OSError, SafetensorError) as e:
        reason = getattr(e, "strerror", None) or str(e).splitlines()[0]
        for path in folder.glob(f".{name}.tmp"):
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
        kept = f"the one before, {latest.name}, is intact" if latest else "there is none before it"
        raise CheckpointError(
            f"checkpoint {name} cannot be written into {folder} ({reason}); {kept}; make room and go on with --resume"
        ) from e


def _contiguous(tensors: Tensors) -> Tensors:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
