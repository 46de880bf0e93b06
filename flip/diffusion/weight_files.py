"""Read the tensors of a weights file: safetensors, or a pickle through a copy in the cache."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from flip.data.foreign import what_it_is
from flip.diffusion import ldm
from flip.diffusion.pickles import read_pickled_tensors
from flip.errors import CheckpointError, reason_of
from flip.files import written_aside
from flip.reading import open_plain, read_json, require_plain

if TYPE_CHECKING:
    import torch

#: Marks a copy that holds the text encoders of every family.
_KEPT_FORMAT = "2"


def read_state(file: Path, digest: str, ema: bool, cache: Path) -> Mapping[str, torch.Tensor]:
    """Read a file's tensors; those of a pickle from the copy in the cache, which is made at the first reading.

    Parameters
    ----------
    file : Path
    digest : str
        sha256 of the file.
    ema : bool
        Take the averaged weights where the file has them.
    cache : Path

    Raises
    ------
    CheckpointError
        If the file could run code (nothing of it is run), is truncated, or holds NaN or infinity.
    """
    if is_safetensors(file):
        state = read_safetensors(file)
        require_finite(state.items(), file)
        return ldm.select_weights(state, ema=ema) if ldm.is_ldm(state) else state
    kept = cache / "diffusion" / f"{digest[:32]}-{'ema' if ema else 'plain'}.safetensors"
    if kept.is_file():
        try:
            if read_metadata(kept).get("kept") == _KEPT_FORMAT:
                return read_safetensors(kept)
        except CheckpointError:
            kept.unlink()
    tensors = read_pickled_tensors(file)
    if ldm.is_ldm(tensors):
        tensors = ldm.select_weights(tensors, ema=ema)
    require_finite(tensors.items(), file)
    _keep(tensors, kept, digest)
    return read_safetensors(kept)


def is_safetensors(file: Path) -> bool:
    """True for a safetensors file, by its content."""
    with open_plain(file) as stream:
        head = stream.read(9)
    return head[8:9] == b"{" or (file.suffix == ".safetensors" and not head.startswith((b"PK", b"\x80")))


def read_safetensors(file: Path) -> dict[str, torch.Tensor]:
    """Read the tensors of a safetensors file.

    Raises
    ------
    CheckpointError
        If it is truncated or none.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        require_plain(file)
        return load_file(file)
    except (SafetensorError, OSError, ValueError, KeyError) as e:
        raise _broken(file, e) from e


def read_metadata(file: Path) -> dict[str, str]:
    """Read the text metadata of a safetensors file; empty for a file of another kind.

    Raises
    ------
    CheckpointError
        If it is truncated.
    """
    from safetensors import SafetensorError, safe_open

    try:
        if not is_safetensors(file):
            return {}
        with safe_open(file, "pt") as opened:
            return dict(opened.metadata() or {})
    except (SafetensorError, OSError, ValueError) as e:
        raise _broken(file, e) from e


def tensor_names(file: Path) -> set[str]:
    """Return the names of a weights file's tensors without reading them; a sharded model's from its index.

    Raises
    ------
    CheckpointError
        If it cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    try:
        if file.suffix == ".json":
            return set(read_json(file, keys_once=False)["weight_map"])
        if is_safetensors(file):
            with safe_open(file, "pt") as opened:
                return set(opened.keys())
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as e:
        raise _broken(file, e) from e
    return set(read_pickled_tensors(file))


def require_finite(tensors: Iterable[tuple[str, torch.Tensor]], source: str | Path) -> None:
    """Raise a CheckpointError that names the first weight holding NaN or infinity."""
    import torch

    for name, value in tensors:
        # Eight-bit floats have no isfinite of their own.
        wide = value.to(torch.float16) if value.element_size() == 1 and value.is_floating_point() else value
        if not bool(torch.isfinite(wide).all()):
            raise CheckpointError(f"{source} holds NaN or infinity in {name}; take an earlier checkpoint")


def _broken(file: Path, error: Exception) -> CheckpointError:
    reason = reason_of(error)
    try:
        with open_plain(file) as stream:
            what = what_it_is(stream.read(16), of=("JSON",))
    except OSError:
        what = None
    if what is not None:
        return CheckpointError(f"{file} is {what}")
    return CheckpointError(f"{file} is truncated or no safetensors file ({reason}); fetch it again")


def _keep(tensors: Mapping[str, torch.Tensor], kept: Path, digest: str) -> None:
    from safetensors.torch import save_file

    contiguous = {name: value.contiguous() for name, value in _unshared(tensors)}
    with written_aside(kept, "pass --cache with a folder that can hold it") as aside:
        save_file(contiguous, aside, {"source_sha256": digest, "kept": _KEPT_FORMAT})


def _unshared(tensors: Mapping[str, torch.Tensor]) -> Iterable[tuple[str, torch.Tensor]]:
    """Yield tensors with memory of their own where two names share it, which safetensors does not write."""
    seen: set[object] = set()
    for name, value in tensors.items():
        place = (value.untyped_storage().data_ptr(), value.storage_offset())
        yield name, value.clone() if place in seen else value
        seen.add(place)
