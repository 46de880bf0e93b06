"""Tensors of a weights file, read without running anything that it names."""

from __future__ import annotations

import io
import pickle
import re
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from flip.data.foreign import what_it_is
from flip.errors import ModelError
from flip.reading import open_plain, require_plain, require_stored

if TYPE_CHECKING:
    import torch

    State = dict[str, torch.Tensor]

_STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "BoolStorage": "bool",
}

#: Tensors that archives hold beside weights.
_NO_WEIGHTS = ("input_resolution", "context_length", "vocab_size", "attn_mask")


def read_state(files: Iterable[Path]) -> State:
    """Return the tensors of a weights file, or of all its parts together, by name.

    Parameters
    ----------
    files : iterable of Path
        ``.safetensors``; PyTorch's pickles, of which only tensors are read; or TorchScript archives, as OpenAI's.

    Raises
    ------
    ModelError
        If a file is damaged, holds no tensors, or names something beside them.
    """
    state: State = {}
    for file in files:
        state.update(_read(file))
    return state


def is_torchscript(file: Path) -> bool:
    """Return whether a file is a TorchScript archive, as OpenAI published CLIP."""
    try:
        with open_plain(file) as stream, zipfile.ZipFile(stream) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile):
        return False


def _read(file: Path) -> State:
    try:
        require_plain(file)
        _require_weights(file)
        if file.suffix.lower() == ".safetensors":
            from safetensors.torch import load_file

            content: object = load_file(file)
        elif is_torchscript(file):
            require_stored(file)
            content = _read_torchscript(file)
        else:
            import torch

            if zipfile.is_zipfile(file):
                require_stored(file)
            content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as e:
        named = re.search(r"GLOBAL (\S+)|names (\S+),", str(e))
        what = next((group for group in named.groups() if group), "") if named else ""
        problem = f"names {what}, which" if what else "is damaged, or holds instructions which"
        raise ModelError(
            f"the weights {file} cannot be loaded: the file {problem} weights never need and which could run code; "
            "nothing of it was run; take a .safetensors file, or save the model's state_dict() alone"
        ) from e
    except ModelError:
        raise
    except Exception as e:
        lines = [line.strip() for line in str(e).splitlines() if line.strip()]
        reason = lines[0][:160] if lines else type(e).__name__
        raise ModelError(
            f"the weights {file} cannot be loaded ({reason}); fetch the file again, or take a .safetensors file"
        ) from e
    return _tensors(file, content)


def _require_weights(file: Path) -> None:
    """Raise a ModelError for a file that begins as something else than weights."""
    if file.suffix.lower() == ".json":
        raise ModelError(f"{file} is a configuration and no weights; pass its folder, or the weights beside it")
    with open_plain(file) as stream:
        # A safetensors file may begin with the bytes of a brace: the length of its header.
        what = what_it_is(stream.read(16), of=("JSON",))
    if what is not None:
        raise ModelError(f"{file} is {what}")


def _tensors(file: Path, content: object) -> State:
    import torch

    for inner in ("state_dict", "model_state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(inner), dict):
            content = content[inner]
    if not isinstance(content, dict):
        raise ModelError(f"{file} holds a {type(content).__name__} and no weights; pass the weights of a CLIP model")
    state = {name: value for name, value in content.items() if isinstance(value, torch.Tensor)}
    if not state:
        raise ModelError(f"{file} holds no weights; pass the weights of a CLIP model")
    return _unwrapped(state)


def _unwrapped(state: State) -> State:
    """Return a CLIP model's tensors under its own names, where it was saved as a part of something else.

    Such as a module for training on several GPUs ("module."), a compiled one, or a Lightning module with metrics.
    """
    scales = [name for name in state if name == "logit_scale" or name.endswith(".logit_scale")]
    prefix = scales[0].removesuffix("logit_scale") if len(scales) == 1 else ""
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


class _Module:
    """Stands for every module of an archive; it keeps its attributes and does nothing."""

    def __init__(self) -> None:
        self.attributes: dict[str, object] = {}

    def __setstate__(self, attributes: dict[str, object]) -> None:
        self.attributes = attributes


class _ArchiveReader(pickle.Unpickler):
    """Reads the pickle of a TorchScript archive: modules without their code, tensors, and plain values."""

    def __init__(self, archive: zipfile.ZipFile, root: str) -> None:
        super().__init__(io.BytesIO(archive.read(f"{root}data.pkl")))
        self._archive, self._root = archive, root

    def find_class(self, module: str, name: str) -> object:
        """Return what stands for a name of the pickle; none but these are known."""
        import torch

        if module.startswith("__torch__"):
            return _Module
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        if (module, name) == ("torch.jit._pickle", "restore_type_tag"):
            return lambda value, _: value
        if module == "torch.jit._pickle" and name.startswith("build_"):
            return list
        if (module, name) == ("collections", "OrderedDict"):
            return dict
        if module == "torch" and name in _STORAGES:
            return getattr(torch, _STORAGES[name])
        raise pickle.UnpicklingError(f"it names {module}.{name}, which weights never need")

    def persistent_load(self, pid: tuple[str, torch.dtype, str, str, int]) -> torch.Tensor:
        """Return a stored block of numbers as a flat tensor."""
        import torch

        _, dtype, key, _, _ = pid
        return torch.frombuffer(bytearray(self._archive.read(f"{self._root}data/{key}")), dtype=dtype)


def _rebuild_tensor(
    storage: torch.Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: object
) -> torch.Tensor:
    return storage.as_strided(tuple(size), tuple(stride), offset)


def _read_torchscript(file: Path) -> State:
    with zipfile.ZipFile(file) as archive:
        member = next(name for name in archive.namelist() if name.endswith("data.pkl"))
        module = _ArchiveReader(archive, member.removesuffix("data.pkl")).load()
    return {name: tensor for name, tensor in _walk(module, "") if name.rpartition(".")[2] not in _NO_WEIGHTS}


def _walk(module: _Module, prefix: str) -> Iterator[tuple[str, torch.Tensor]]:
    import torch

    for name, value in module.attributes.items():
        if isinstance(value, torch.Tensor):
            yield prefix + name, value
        elif isinstance(value, _Module):
            yield from _walk(value, f"{prefix}{name}.")
