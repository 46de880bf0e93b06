"""Read the tensors of a pickled checkpoint without running anything that it names.

A CompVis or Lightning ``.ckpt`` is a zip with a pickle in it, and a pickle is a program. What it wants to call is
listed first; a short fixed list of harmless names is answered by a class that does nothing; any other name ends it.
"""

from __future__ import annotations

import contextlib
import pickle
import pickletools
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flip.errors import CheckpointError
from flip.reading import open_plain, require_stored

if TYPE_CHECKING:
    import torch


class Inert:
    """Stands for every allowed name in a pickle: takes any arguments and any state, keeps none."""

    def __new__(cls, *_: object, **__: object) -> Inert:
        """Make an object without looking at the arguments."""
        return super().__new__(cls)

    def __init__(self, *_: object, **__: object) -> None: ...

    def __setstate__(self, _: object) -> None: ...


_LIGHTNING = (
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
    "lightning.pytorch.callbacks.model_checkpoint.ModelCheckpoint",
)
_NUMPY = (
    *(f"numpy.{core}.multiarray.{name}" for core, name in product(("core", "_core"), ("scalar", "_reconstruct"))),
    "numpy.dtype",
    "numpy.ndarray",
)
# A pickled OmegaConf container holds its metadata, whose fields name the types of keys and values.
_OMEGACONF = (
    "omegaconf.dictconfig.DictConfig",
    "omegaconf.listconfig.ListConfig",
    "omegaconf.base.ContainerMetadata",
    "omegaconf.base.Metadata",
    *(f"omegaconf.nodes.{kind}Node" for kind in ("Any", "String", "Integer", "Float", "Boolean")),
    "typing.Any",
    "collections.defaultdict",
    *(f"builtins.{name}" for name in ("dict", "list", "tuple", "int", "float", "str", "bool")),
)

#: Every name outside PyTorch's own list that a checkpoint may hold. ``_codecs.encode`` is on PyTorch's list.
ALLOWED = frozenset((*_LIGHTNING, *_NUMPY, *_OMEGACONF))

_ZIP_START = b"PK\x03\x04"


def read_pickled_tensors(file: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a ``.ckpt``, ``.pt``, ``.pth`` or ``.bin``, mapped from the file where it is a zip.

    Parameters
    ----------
    file : Path

    Returns
    -------
    dict
        Name → CPU tensor: what the file holds under ``state_dict`` if it has that, else its own entries.

    Raises
    ------
    CheckpointError
        If the file names something outside ``ALLOWED`` (the message says what; nothing of it has run), is truncated, or
        holds no tensors.
    """
    try:
        with open_plain(file) as stream:
            zipped = stream.read(4) == _ZIP_START
    except OSError as e:
        raise CheckpointError(_broken(file, e)) from e
    content = _load_zip(file) if zipped else _load_old(file)
    state = content.get("state_dict", content) if isinstance(content, Mapping) else None
    if not isinstance(state, Mapping):
        raise CheckpointError(f"{file} holds a {type(content).__name__} and no weights; pass a checkpoint of a model")
    return _plain_tensors(file, state)


def _load_zip(file: Path) -> object:
    import torch

    try:
        require_stored(file)
    except ValueError as e:
        raise CheckpointError(f"{file} is refused: {e}; take a .safetensors file") from e
    except OSError as e:
        raise CheckpointError(_broken(file, e)) from e
    _refuse_names(file, _names(file) - ALLOWED)
    with _only([(Inert, name) for name in sorted(ALLOWED)]):
        try:
            return torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        except pickle.UnpicklingError as e:
            raise CheckpointError(_refusal(file, e)) from e
        except Exception as e:
            raise CheckpointError(_broken(file, e)) from e


def _load_old(file: Path) -> object:
    """Load a pickle from before PyTorch 1.6, which cannot be listed or mapped: PyTorch's own names or nothing."""
    import torch

    with _only([]):
        try:
            return torch.load(file, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as e:
            raise CheckpointError(_refusal(file, e)) from e
        except Exception as e:
            raise CheckpointError(_broken(file, e)) from e


def _names(file: Path) -> set[str]:
    """Return the names in a zipped pickle that are not on PyTorch's list."""
    import torch

    with _only([]):
        try:
            return set(torch.serialization.get_unsafe_globals_in_checkpoint(str(file)))
        except pickle.UnpicklingError as e:
            # An instruction that torch.save never writes: say what it would have called, whatever the protocol.
            _refuse_names(file, _disassembled_names(file) - ALLOWED)
            raise CheckpointError(_refusal(file, e)) from e
        except Exception as e:
            raise CheckpointError(_broken(file, e)) from e


def _disassembled_names(file: Path) -> set[str]:
    names: set[str] = set()
    with contextlib.suppress(Exception), zipfile.ZipFile(file) as archive:
        member = next(name for name in archive.namelist() if name.endswith("data.pkl"))
        strings: list[str] = []
        for code, argument, _ in pickletools.genops(archive.read(member)):
            if code.name == "GLOBAL":
                names.add(str(argument).replace(" ", "."))
            elif code.name == "STACK_GLOBAL":
                names.add(".".join(strings[-2:]))
            elif isinstance(argument, str):
                strings.append(argument)
    return names


@contextlib.contextmanager
def _only(stand_ins: list[Any]) -> Iterator[None]:
    """Allow these names and no others that some library may have added to PyTorch's list."""
    import torch.serialization

    added = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    try:
        with torch.serialization.safe_globals(stand_ins), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(added)


def _refuse_names(file: Path, names: set[str]) -> None:
    if names:
        named = ", ".join(sorted(names)[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        raise CheckpointError(
            f"{file} names {named}, which is no part of a model's weights and could run code; nothing of it was run; "
            "take a .safetensors file, or a checkpoint from a source you trust"
        )


def _refusal(file: Path, error: Exception) -> str:
    found = re.search(r"GLOBAL (\S+)|module (\S+) is blocked|function (<[^>]+>)", str(error))
    what = next((group for group in found.groups() if group), "") if found else ""
    return (
        f"{file} is refused: it {'names ' + what if what else 'holds pickle instructions'} that loading weights never "
        "needs and that could run code; nothing of it was run; take a .safetensors file"
    )


def _broken(file: Path, error: Exception) -> str:
    reason = " ".join(str(error).split())[:120] or type(error).__name__
    return f"{file} is truncated or no checkpoint ({reason}); fetch it again and compare its size or sha256"


def _plain_tensors(file: Path, state: Mapping[object, object]) -> dict[str, torch.Tensor]:
    import torch

    most = file.stat().st_size
    tensors = {}
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            continue
        if value.layout != torch.strided or value.device.type != "cpu":
            raise CheckpointError(
                f"{file}: {name} is a {value.layout} tensor on {value.device}; weights are dense, on a CPU"
            )
        # A tensor of strides 0 can declare terabytes in a file of a few bytes.
        if value.numel() * value.element_size() > most:
            raise CheckpointError(f"{file}: {name} declares shape {tuple(value.shape)}, more than the file holds")
        tensors[name] = value.detach()
    if not tensors:
        raise CheckpointError(f"{file} holds no tensors; pass a checkpoint of a model")
    return tensors
