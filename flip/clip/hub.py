"""open_clip's registry of pretrained models: which there are, which are on this machine, and where one is missing."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flip.clip.fetch import AbsentError, cache_place, cached_file, first_line, hub_file, quiet, require_network
from flip.clip.folder import CONFIG_FILE
from flip.errors import ModelError, near_names
from flip.sample import weights as sample

#: Where open_clip puts weights that are not on the hub.
_URL_FOLDER = Path("~/.cache/clip")


@dataclass(frozen=True)
class KnownModel:
    """One row of ``flip models``."""

    name: str
    hub: str
    here: bool
    megabytes: float | None


def known_models() -> Sequence[KnownModel]:
    """Return the sample's model and every ``ARCH/TAG`` of open_clip: whether its weights are here, and their size."""
    import open_clip
    from open_clip.pretrained import get_pretrained_cfg

    own = sum(file.stat().st_size for file in sample.clip_folder().glob("*.safetensors"))
    rows = [KnownModel(sample.NAME, "comes with flip", own > 0, own / 1e6 if own else None)]
    for architecture, tag in open_clip.list_pretrained():
        entry = get_pretrained_cfg(architecture, tag) or {}
        file = local_weights(entry)
        size = file.stat().st_size / 1e6 if file else None
        hub = str(entry.get("hf_hub", "")) or str(entry.get("url", ""))
        rows.append(KnownModel(f"{architecture}/{tag}", hub, file is not None, size))
    return rows


def registry_entry(name: str) -> dict[str, Any]:
    """Return what open_clip knows of an ``ARCH/TAG``: where its weights are, and how they were trained.

    Raises
    ------
    ModelError
        If it knows no such model; the message has near names.
    """
    import open_clip

    architecture, slash, tag = name.rpartition("/")
    entry: dict[str, Any] = open_clip.get_pretrained_cfg(architecture, tag) if slash else {}
    if not entry:
        known = {f"{a}/{t}" for a, t in open_clip.list_pretrained()}
        repository = f", hf-hub:{name} if it is a repository" if re.fullmatch(r"[\w.-]+/[\w.-]+", name) else ""
        raise ModelError(
            f"unknown model {name!r}{near_names(name, known)}; pass ARCH/TAG from `flip models`"
            f"{repository or ', hf-hub:ORG/NAME'}, or a folder that holds {CONFIG_FILE}"
        )
    return entry


def local_weights(entry: Mapping[str, Any]) -> Path | None:
    """Return the weights file of a registry entry if it is on this machine, touching no network."""
    repository, names = _on_hub(entry)
    if repository:
        return cached_file(repository, names)
    url = str(entry.get("url", ""))
    file = _URL_FOLDER.expanduser() / Path(url).name
    return file if url and file.is_file() else None


def fetch_weights(entry: Mapping[str, Any]) -> Path:
    """Return the weights file of a registry entry, fetching it if it is not on this machine.

    Raises
    ------
    AbsentError
        If it is not here and cannot be fetched.
    """
    repository, names = _on_hub(entry)
    if repository:
        return hub_file(repository, names)
    found = local_weights(entry)
    if found is not None:
        return found
    from open_clip.pretrained import download_pretrained_from_url

    require_network(str(entry["url"]))
    try:
        with quiet():
            return Path(download_pretrained_from_url(entry["url"]))
    except Exception as e:
        raise AbsentError(first_line(e)) from e


def absent_message(name: str, entry: Mapping[str, Any], error: Exception) -> str:
    """Return the line for weights of the registry that are not here and cannot be fetched."""
    repository, names = _on_hub(entry)
    if repository:
        how = f"run `hf download {repository}` where there is a network (it fills {cache_place()})"
    else:
        how = f"put {entry.get('url')} into {_URL_FOLDER.expanduser()}"
    file = f" ({names[-1]})" if repository else ""
    return (
        f"the weights of {name}{file} are not on this machine and could not be fetched ({error}); {how}, or pass "
        "--model FOLDER, or --model sample, which comes with flip"
    )


def hub_absent_message(name: str, repository: str, error: Exception) -> str:
    """Return the line for a repository that is not here and cannot be fetched."""
    return (
        f"{name} is not on this machine and could not be fetched ({error}); check the name, or on a machine with a "
        f"network run `hf download {repository} --local-dir FOLDER` and pass --model FOLDER, or pass --model sample, "
        "which comes with flip"
    )


def _on_hub(entry: Mapping[str, Any]) -> tuple[str, tuple[str, ...]]:
    """Return the repository of a registry entry and the names that its weights may have there, the best first."""
    from open_clip.pretrained import _get_safe_alternatives

    repository, _, name = str(entry.get("hf_hub", "")).rpartition("/")
    name = name or "open_clip_pytorch_model.bin"
    return repository, (*_get_safe_alternatives(name), name)
