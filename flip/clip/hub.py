"""open_clip's registry of pretrained models: which there are, which are on this machine, and where one is missing."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flip.clip.folder import CONFIG_FILE
from flip.errors import ModelError, near_names
from flip.sample import weights as sample


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
        raise ModelError(
            f"unknown model {name!r}{near_names(name, known)}; pass ARCH/TAG from `flip models`, hf-hub:ORG/NAME, "
            f"or a folder that holds {CONFIG_FILE}"
        )
    return entry


def local_weights(entry: Mapping[str, Any]) -> Path | None:
    """Return the weights file of a registry entry if it is on this machine, touching no network."""
    from huggingface_hub import try_to_load_from_cache
    from open_clip.pretrained import _get_safe_alternatives

    repository, _, name = str(entry.get("hf_hub", "")).rpartition("/")
    if repository:
        name = name or "open_clip_pytorch_model.bin"
        for candidate in (*_get_safe_alternatives(name), name):
            found = try_to_load_from_cache(repository, candidate)
            if isinstance(found, str):
                return Path(found)
        return None
    file = Path("~/.cache/clip").expanduser() / Path(str(entry.get("url", ""))).name
    return file if entry.get("url") and file.is_file() else None


def absent_message(name: str, entry: Mapping[str, Any], error: Exception) -> str:
    """Return the line that says what to put where when weights are not here and the network fails."""
    repository, _, file = str(entry.get("hf_hub", "")).rpartition("/")
    if repository:
        file = file or "open_clip_pytorch_model.bin"
        what = f"{file} (or its .safetensors) of https://huggingface.co/{repository}"
        where = f"the Hugging Face cache {_hub_cache()} (huggingface-cli download {repository} on a connected machine)"
    else:
        what, where = str(entry.get("url")), str(Path("~/.cache/clip").expanduser())
    reason = "HF_HUB_OFFLINE is set" if os.environ.get("HF_HUB_OFFLINE") else first_line(error)
    return f"the weights of {name} are not on this machine and could not be fetched ({reason}); put {what} into {where}"


def first_line(error: Exception) -> str:
    """Return the first line of an error's text, at most 200 characters."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:200]


def _hub_cache() -> str:
    from huggingface_hub.constants import HF_HUB_CACHE

    return str(HF_HUB_CACHE)
