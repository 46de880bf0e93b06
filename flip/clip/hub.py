"""open_clip's registry of pretrained models: which there are, which are on this machine, and where one is missing."""

from __future__ import annotations

import contextlib
import importlib.metadata
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from flip.clip.fetch import AbsentError, cache_place, cached_file, first_line, hub_file, quiet, require_network
from flip.clip.folder import CONFIG_FILE
from flip.errors import ConfigError, ModelError, near_names
from flip.files import JsonObject, cache_folder, write_json
from flip.reading import read_json
from flip.sample import weights as sample

#: Where open_clip puts weights that are not on the hub.
_URL_FOLDER = Path("~/.cache/clip")

#: Cached list of open_clip's pretrained models.
_REGISTRY = "registry.json"


@dataclass(frozen=True)
class KnownModel:
    """One row of ``flip models``."""

    name: str
    hub: str
    here: bool
    megabytes: float | None


def known_models(cache: Path | None = None) -> Sequence[KnownModel]:
    """Return the sample's model and every ``ARCH/TAG`` of open_clip: whether its weights are here, and their size.

    What open_clip lists is remembered in the cache folder, by its version; torch is not imported then.
    """
    own = sum(file.stat().st_size for file in sample.clip_folder().glob("*.safetensors"))
    rows = [KnownModel(sample.NAME, "comes with flip", own > 0, own / 1e6 if own else None)]
    for name, (repository, files), entry in _listed(cache_folder(cache) / "models" / _REGISTRY):
        file = _local(repository, files, str(entry.get("url", "")))
        size = file.stat().st_size / 1e6 if file else None
        hub = str(entry.get("hf_hub", "")) or str(entry.get("url", ""))
        rows.append(KnownModel(name, hub, file is not None, size))
    return rows


def _listed(memory: Path) -> Sequence[tuple[str, tuple[str, Sequence[str]], JsonObject]]:
    """Return the name of each model that open_clip lists, what its weights are called on the hub, and its entry."""
    version = importlib.metadata.version("open_clip_torch")
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        known = read_json(memory)
        if known["version"] == version:
            return [(str(name), (str(place), names), dict(entry)) for name, (place, names), entry in known["models"]]
    import open_clip
    from open_clip.pretrained import get_pretrained_cfg

    models = [(f"{a}/{tag}", get_pretrained_cfg(a, tag) or {}) for a, tag in open_clip.list_pretrained()]
    kept = [(name, _on_hub(entry), {key: entry.get(key, "") for key in ("hf_hub", "url")}) for name, entry in models]
    with contextlib.suppress(ConfigError):
        write_json(memory, {"version": version, "models": kept})
    return kept


def registry_entry(name: str) -> JsonObject:
    """Return what open_clip knows of an ``ARCH/TAG``: where its weights are, and how they were trained.

    Raises
    ------
    ModelError
        If it knows no such model; the message has near names.
    """
    import open_clip

    architecture, slash, tag = name.rpartition("/")
    entry: JsonObject = open_clip.get_pretrained_cfg(architecture, tag) if slash else {}
    if not entry:
        known = {f"{a}/{t}" for a, t in open_clip.list_pretrained()}
        repository = f", hf-hub:{name} if it is a repository" if re.fullmatch(r"[\w.-]+/[\w.-]+", name) else ""
        raise ModelError(
            f"unknown model {name!r}{near_names(name, known)}; pass ARCH/TAG from `flip models`"
            f"{repository or ', hf-hub:ORG/NAME'}, or a folder that holds {CONFIG_FILE}"
        )
    return entry


def local_weights(entry: Mapping[str, object]) -> Path | None:
    """Return the weights file of a registry entry if it is on this machine, touching no network."""
    return _local(*_on_hub(entry), str(entry.get("url", "")))


def _local(repository: str, names: Sequence[str], url: str) -> Path | None:
    if repository:
        return cached_file(repository, names)
    file = _URL_FOLDER.expanduser() / Path(url).name
    return file if url and file.is_file() else None


def fetch_weights(entry: Mapping[str, object]) -> Path:
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


def absent_message(name: str, entry: Mapping[str, object], error: Exception) -> str:
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


def _on_hub(entry: Mapping[str, object]) -> tuple[str, tuple[str, ...]]:
    """Return the repository of a registry entry and the names that its weights may have there, the best first."""
    from open_clip.pretrained import _get_safe_alternatives

    repository, _, name = str(entry.get("hf_hub", "")).rpartition("/")
    name = name or "open_clip_pytorch_model.bin"
    return repository, (*_get_safe_alternatives(name), name)
