"""Load a dual encoder by its name.

A model, its preprocessing and its tokenizer are loaded together and never guessed apart. Nothing in a model's folder
runs code: configurations are read and checked first, and open_clip sees checked files only.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from dataclasses import replace
from pathlib import Path

from flip.clip.encoder import LazyModel, ModelFacts, OpenClipEncoder
from flip.clip.fetch import first_line
from flip.clip.folder import CONFIG_FILE, WEIGHTS_SUFFIXES, find_files
from flip.clip.memory import forget, recall, remember
from flip.clip.network import LoadedModel
from flip.clip.weights import weights_hash
from flip.errors import ConfigError, ModelError
from flip.files import JsonObject, cache_folder, plain
from flip.names import DEFAULT_MODEL
from flip.sample import weights as sample

log = logging.getLogger(__name__)


def load_model(name: str | None = None, *, arch: str | None = None, cache: Path | None = None) -> OpenClipEncoder:
    """Load a model: its network at first use on the CPU in fp32, in ``eval()``.

    A model that was loaded before, and whose files did not change since, is known without its network and without
    importing torch. No network is touched when the weights are on this machine.

    Parameters
    ----------
    name : str, optional
        ``ARCH/TAG`` of open_clip; ``hf-hub:ORG/NAME``; a folder of open_clip or of transformers' CLIPModel; a weights
        file; or ``sample``. ``FLIP_MODEL``, else OpenAI's ViT-B/32, when absent.
    arch : str, optional
        open_clip's architecture of a weights file, where its shapes do not tell.
    cache : Path, optional
        Folder in which models are remembered; the platform's when absent.

    Raises
    ------
    ModelError
        If the name is unknown (with near names), the weights are not here and cannot be fetched (with what to do),
        they do not fit their configuration, or the model would run code.
    ConfigError
        If ``arch`` is unknown, or given for what has a configuration of its own.
    """
    cache = cache_folder(cache)
    name = name or os.environ.get("FLIP_MODEL") or DEFAULT_MODEL
    path = _local_path(name)
    if arch is not None and (path is None or path.is_dir()):
        raise ConfigError(f"--arch {arch} belongs to a weights file, and --model {name} is none; leave it out")
    files = find_files(path, bare=arch is not None) if path else None
    if files is not None and files.unused:
        more = f" and {len(files.unused) - 1} more" if len(files.unused) > 1 else ""
        log.info("%s is used; %s%s in the same folder is not", files.weights[0], files.unused[0].name, more)
    key = _key(name, path, arch)
    known = recall(cache, key, files.all if files else None)
    if known is not None:
        return OpenClipEncoder(replace(known, name=name), LazyModel(lambda: _load_again(name, arch, key, known, cache)))
    return OpenClipEncoder(*_load(name, arch, key, cache))


def model_folder(name: str) -> Path | None:
    """Return the folder that a model's files lie in, or None for names of a registry."""
    path = _local_path(name)
    return path.parent if path is not None and path.is_file() else path


def _local_path(name: str) -> Path | None:
    """Return the folder or file that a name is, or None for names of a registry."""
    if name == sample.NAME:
        return sample.clip_folder()
    local = name.removeprefix("local-dir:")
    path = Path(local).expanduser()
    looks_local = local.startswith((".", "/", "~")) or path.suffix.lower() in WEIGHTS_SUFFIXES
    return path if local != name or looks_local or path.exists() else None


def _key(name: str, path: Path | None, arch: str | None) -> str:
    """Return what a model is remembered by; where the hub's cache lies decides which file a name means."""
    hub = [os.environ.get(variable, "") for variable in ("HF_HOME", "HF_HUB_CACHE")]
    return json.dumps(["local", os.path.abspath(path), arch] if path else ["registry", name, *hub])  # noqa: PTH100


def _load_again(name: str, arch: str | None, key: str, known: ModelFacts, cache: Path) -> LoadedModel:
    """Load the network of a model that was known without it, and check that it is still the same."""
    facts, lazy = _load(name, arch, key, cache)
    if facts.fingerprint != known.fingerprint:
        forget(cache, key)
        raise ModelError(f"the files of {name} changed while it was in use; run the command again")
    return lazy.get()


def _load(name: str, arch: str | None, key: str, cache: Path) -> tuple[ModelFacts, LazyModel]:
    from flip.clip.source import hub_source, local_source, tag_source

    path = _local_path(name)
    if path is not None:
        source = local_source(path, arch)
    else:
        source = hub_source(name) if name.startswith("hf-hub:") else tag_source(name)
    from flip.clip.build import build_source

    loaded, preprocess_cfg = build_source(name, source)
    hashes = [weights_hash(file, cache) for file in source.weights]
    config = {"model_cfg": source.model_cfg, "preprocess_cfg": preprocess_cfg}
    facts = _facts(name, loaded, config, hashes[0] if len(hashes) == 1 else hashes)
    remember(cache, key, facts, source.files)
    return facts, LazyModel(loaded)


def _facts(name: str, loaded: LoadedModel, config: JsonObject, *weights: object) -> ModelFacts:
    described = json.dumps([config, *weights], sort_keys=True, default=str)
    return ModelFacts(
        name=name,
        fingerprint=hashlib.sha256(described.encode()).hexdigest()[:16],
        dim=int(config["model_cfg"]["embed_dim"]),
        logit_scale=float(loaded.network.logit_scale.detach().exp()),
        context_length=loaded.context_length,
        config=plain(config),
    )


def new_model(config_file: Path, seed: int) -> OpenClipEncoder:
    """Build an architecture with random weights, on the CPU in fp32.

    Parameters
    ----------
    config_file : Path
        JSON as ``open_clip_config.json``: an object with ``model_cfg``, or a ``model_cfg`` itself; a tokenizer's files
        beside it are the model's. The word ``sample`` is the configuration of the model that comes with flip.
    seed : int
        Of the weights.

    Raises
    ------
    ConfigError
        If the file is no such configuration.
    """
    from flip.clip.build import build_random
    from flip.clip.source import config_source

    if str(config_file) == sample.NAME:
        config_file = sample.scratch_config("clip")
    try:
        source = config_source(config_file)
        loaded, preprocess_cfg = build_random(source, seed)
    except Exception as e:
        raise ConfigError(
            f"{config_file} is not an open_clip configuration ({first_line(e)}); it needs what {CONFIG_FILE} holds: "
            "model_cfg with embed_dim, vision_cfg and text_cfg"
        ) from e
    config = {"model_cfg": source.model_cfg, "preprocess_cfg": preprocess_cfg}
    facts = _facts(f"{config_file} from scratch", loaded, config, "random weights", seed)
    return OpenClipEncoder(facts, LazyModel(loaded))
