"""Checkpoints of a run: safetensors and JSON, each whole on the disk or absent."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from flip.errors import CheckpointError, ConfigError, reason_of
from flip.files import JsonObject, folder_aside, plain, written_aside
from flip.reading import read_json, require_plain

Tensors = dict[str, torch.Tensor]

_STEP, _BEST, _STATE = "step-", "best-", "state.json"


@dataclass(frozen=True)
class Checkpoint:
    """A run between two steps.

    Attributes
    ----------
    tensors : dict of str to dict of str to tensor
        ``weights`` (what is trained, by name), ``optimizer`` (AdamW's state, ``exp_avg/NAME`` and so on) and perhaps
        ``average`` (averaged weights).
    state : dict
        Everything else, as JSON holds it, ``step`` among it.
    """

    tensors: dict[str, Tensors]
    state: JsonObject


def _load(file: Path) -> Tensors:
    require_plain(file)
    return load_file(file)


class CheckpointFolder:
    """The checkpoints of one run: the latest, and the weights of the best epoch. Each is whole, or absent.

    Parameters
    ----------
    folder : Path
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def save(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint; the one before is removed when this one is on the disk.

        Raises
        ------
        CheckpointError
            If it cannot be written; the one before is left as it was.
        """
        name = f"{_STEP}{checkpoint.state['step']:08d}"
        with self._one_line(name), folder_aside(self._folder / name, durable=True) as aside:
            for part, tensors in checkpoint.tensors.items():
                save_tensors(tensors, aside / f"{part}.safetensors")
            (aside / _STATE).write_text(json.dumps(plain(checkpoint.state)), encoding="utf-8")
        self._keep_only({name, checkpoint.state.get("best_file")})

    def save_best(self, epoch: int, weights: Tensors) -> str:
        """Write the weights of the best epoch so far; returns the name for a checkpoint's ``best_file``."""
        name = f"{_BEST}{epoch:04d}.safetensors"
        with self._one_line(name), written_aside(self._folder / name, durable=True) as aside:
            save_tensors(weights, aside)
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
            state = read_json(latest / _STATE)
            if not isinstance(state, dict) or not isinstance(state.get("step"), int):
                raise ValueError(f"{_STATE} names no step")
            tensors = {file.stem: _load(file) for file in sorted(latest.glob("*.safetensors"))}
        except (OSError, ValueError, SafetensorError) as e:
            raise CheckpointError(
                f"{latest} is damaged ({reason_of(e)}); remove it, or start again with --overwrite"
            ) from e
        return Checkpoint(tensors, state)

    def load_best(self, name: str) -> Tensors:
        """Return the weights of the best epoch.

        Raises
        ------
        CheckpointError
            If the file is damaged.
        """
        try:
            return _load(self._folder / name)
        except (OSError, SafetensorError) as e:
            raise CheckpointError(
                f"{self._folder / name} is damaged ({reason_of(e)}); start again with --overwrite"
            ) from e

    def remove(self) -> None:
        """Remove every checkpoint; the run is done."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _latest(self) -> Path | None:
        steps = sorted(self._folder.glob(f"{_STEP}*")) if self._folder.is_dir() else []
        return steps[-1] if steps else None

    def _keep_only(self, names: set[str | None]) -> None:
        for path in self._folder.iterdir():
            if path.name not in names:
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)

    @contextmanager
    def _one_line(self, name: str) -> Iterator[None]:
        latest = self._latest()
        try:
            yield
        except (OSError, ConfigError) as e:
            kept = f"the one before, {latest.name}, is intact" if latest else "there is none before it"
            raise CheckpointError(
                f"checkpoint {name} cannot be written into {self._folder} ({write_error(e)}); {kept}; "
                "make room and run the same command again"
            ) from e


def write_error(error: Exception) -> str:
    """Return in a few words why something could not be written."""
    cause = error.__cause__ if isinstance(error, ConfigError) and error.__cause__ is not None else error
    return str(getattr(cause, "strerror", None) or str(cause).splitlines()[0])


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: Mapping[torch.Tensor, str]) -> Tensors:
    """Return an optimiser's state as named tensors; ``names`` gives each parameter's."""
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
        # AdamW counts its steps on the CPU; everything else lies where the parameter does.
        value = tensor.clone() if key == "step" else torch.empty_like(parameter).copy_(tensor)
        optimizer.state[parameter][key] = value


def save_tensors(tensors: Tensors, file: Path) -> None:
    """Write tensors as safetensors; a file that is there keeps its rights."""
    mode = file.stat().st_mode if file.exists() else None
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, file)
    if mode is not None:
        file.chmod(mode)
