"""Load a dual encoder by its name.

A model, its preprocessing and its tokenizer are loaded together and never guessed apart.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from flip.clip.encoder import LazyModel, ModelFacts, OpenClipEncoder
from flip.clip.folder import CONFIG_FILE, TOKENIZER_FILES, folder_files, read_model_config
from flip.clip.hub import absent_message, first_line, registry_entry
from flip.clip.memory import forget, recall, remember
from flip.clip.network import LoadedModel
from flip.clip.weights import weights_hash
from flip.errors import ConfigError, ModelError
from flip.files import cache_folder, plain
from flip.sample import weights as sample

_LOCAL, _HUB = "local-dir:", "hf-hub:"


@dataclass(frozen=True)
class _Source:
    """A name resolved to files: what open_clip is asked for, and what an embedding depends on."""

    identifier: str
    weights: Path
    model_cfg: dict[str, Any]
    files: tuple[Path, ...]
    arguments: dict[str, Any] = field(default_factory=dict)


def load_model(name: str, *, cache: Path | None = None) -> OpenClipEncoder:
    """Load a model: its network at first use on the CPU in fp32, in ``eval()``.

    A model that was loaded before, and whose files did not change since, is known without its network and without
    importing torch. No network is touched when the weights are on this machine.

    Parameters
    ----------
    name : str
        ``ARCH/TAG`` of open_clip, ``hf-hub:ORG/NAME``, a folder holding ``open_clip_config.json``, or ``sample``.
    cache : Path, optional
        Folder in which models are remembered; the platform's when absent.

    Raises
    ------
    ModelError
        If the name is unknown (with near names), the weights are not here and cannot be fetched (with the file that is
        missing and where to put it), or they do not fit their configuration.
    """
    cache = cache_folder(cache)
    folder = _folder(name)
    key = _key(name, folder)
    known = recall(cache, key, folder_files(folder) if folder else None)
    if known is not None:
        return OpenClipEncoder(replace(known, name=name), LazyModel(lambda: _load_again(name, key, known, cache)))
    source = _find(name)
    loaded, facts = _load(name, source, cache)
    remember(cache, key, facts, source.files)
    return OpenClipEncoder(facts, LazyModel(loaded))


def _folder(name: str) -> Path | None:
    if name == sample.NAME:
        return sample.clip_folder()
    local = name.removeprefix(_LOCAL)
    return Path(local) if name.startswith(_LOCAL) or Path(local).is_dir() else None


def _key(name: str, folder: Path | None) -> str:
    """Return what a model is remembered by; where the hub's cache lies decides which file a name means."""
    hub = [os.environ.get(variable, "") for variable in ("HF_HOME", "HF_HUB_CACHE")]
    return json.dumps(["folder", str(folder)] if folder else ["registry", name, *hub])


def _find(name: str) -> _Source:
    folder = _folder(name)
    if folder is not None:
        config, weights = folder_files(folder)
        # Two towers' own pretrained weights are never fetched: the folder's file holds both.
        return _Source(f"{_LOCAL}{folder}", weights, read_model_config(config), (config, weights))
    return _find_on_hub(name) if name.startswith(_HUB) else _find_tag(name)


def _find_on_hub(name: str) -> _Source:
    from open_clip.factory import _get_hf_config
    from open_clip.pretrained import download_pretrained_from_hf

    identifier = name.removeprefix(_HUB)
    try:
        model_cfg = _get_hf_config(identifier)["model_cfg"]
        config = download_pretrained_from_hf(identifier, filename=CONFIG_FILE)
        weights = download_pretrained_from_hf(identifier)
    except Exception as e:
        raise ModelError(
            f"{name} is not on this machine and could not be fetched ({first_line(e)}); with network: check the name; "
            f"without: copy {CONFIG_FILE} and the weights of https://huggingface.co/{identifier} into a folder "
            "and pass --model FOLDER"
        ) from e
    return _Source(name, Path(weights), model_cfg, (Path(config), Path(weights)))


def _find_tag(name: str) -> _Source:
    import open_clip
    from open_clip.pretrained import download_pretrained

    architecture, _, tag = name.rpartition("/")
    entry = registry_entry(name)
    try:
        weights = Path(download_pretrained(entry))
    except Exception as e:
        raise ModelError(absent_message(name, entry, e)) from e
    # open_clip alone only warns when the tag was trained with QuickGELU and the architecture's config is not, and its
    # features are then silently wrong.
    quick = bool(entry.get("quick_gelu", False))
    model_cfg = open_clip.get_model_config(architecture) | ({"quick_gelu": True} if quick else {})
    return _Source(architecture, weights, model_cfg, (weights,), {"pretrained": tag, "force_quick_gelu": quick})


def _load_again(name: str, key: str, known: ModelFacts, cache: Path) -> LoadedModel:
    """Load the network of a model that was known without it, and check that it is still the same."""
    loaded, facts = _load(name, _find(name), cache)
    if facts.fingerprint != known.fingerprint:
        forget(cache, key)
        raise ModelError(f"the files of {name} changed while it was in use; run the command again")
    return loaded


def _load(name: str, source: _Source, cache: Path) -> tuple[LoadedModel, ModelFacts]:
    import open_clip
    import torch
    from open_clip.transform import PreprocessCfg, image_transform_v2

    try:
        with _quiet():
            network = open_clip.create_model(
                source.identifier, require_pretrained=True, device="cpu", pretrained_text=False, **source.arguments
            )
            tokenize = open_clip.get_tokenizer(source.identifier)
    except Exception as e:
        raise ModelError(
            f"the weights {source.weights} of {name} cannot be loaded ({first_line(e)}); "
            "fetch the file again, or check that it belongs to the configuration"
        ) from e
    if not all(bool(torch.isfinite(p).all()) for p in network.parameters()):
        raise ModelError(f"the weights {source.weights} of {name} hold NaN or infinity; take an earlier checkpoint")
    preprocess_cfg = open_clip.get_model_preprocess_cfg(network)
    preprocess = image_transform_v2(PreprocessCfg(**preprocess_cfg), is_train=False)
    loaded = LoadedModel(network.eval().requires_grad_(False), preprocess, tokenize)
    config = {"model_cfg": source.model_cfg, "preprocess_cfg": preprocess_cfg}
    return loaded, _facts(name, loaded, config, weights_hash(source.weights, cache))


def _facts(name: str, loaded: LoadedModel, config: dict[str, Any], *weights: object) -> ModelFacts:
    described = json.dumps([config, *weights], sort_keys=True, default=str)
    return ModelFacts(
        name=name,
        fingerprint=hashlib.sha256(described.encode()).hexdigest()[:16],
        dim=int(config["model_cfg"]["embed_dim"]),
        logit_scale=float(loaded.network.logit_scale.detach().exp()),
        context_length=int(getattr(loaded.tokenize, "context_length", 0) or 0),
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
    import open_clip
    from open_clip.transform import PreprocessCfg, image_transform_v2

    if str(config_file) == sample.NAME:
        config_file = sample.scratch_config("clip")
    try:
        content = json.loads(config_file.read_text(encoding="utf-8"))
        content = content if "model_cfg" in content else {"model_cfg": content}
        network, tokenize = _random_network(content, config_file.parent, seed)
    except Exception as e:
        raise ConfigError(
            f"{config_file} is not an open_clip configuration ({first_line(e)}); it needs what {CONFIG_FILE} holds: "
            "model_cfg with embed_dim, vision_cfg and text_cfg"
        ) from e
    preprocess_cfg = open_clip.get_model_preprocess_cfg(network)
    preprocess = image_transform_v2(PreprocessCfg(**preprocess_cfg), is_train=False)
    loaded = LoadedModel(network.eval().requires_grad_(False), preprocess, tokenize)
    config = {"model_cfg": content["model_cfg"], "preprocess_cfg": preprocess_cfg}
    facts = _facts(f"{config_file} from scratch", loaded, config, "random weights", seed)
    return OpenClipEncoder(facts, LazyModel(loaded))


def _random_network(content: dict[str, Any], beside: Path, seed: int) -> tuple[Any, Any]:
    import open_clip
    import torch

    with tempfile.TemporaryDirectory() as folder, _quiet(), torch.random.fork_rng(devices=[]):
        (Path(folder) / CONFIG_FILE).write_text(json.dumps(content), encoding="utf-8")
        for file in TOKENIZER_FILES:
            if (beside / file).is_file():
                shutil.copyfile(beside / file, Path(folder) / file)
        torch.manual_seed(seed)
        identifier = f"{_LOCAL}{folder}"
        network = open_clip.create_model(identifier, load_weights=False, device="cpu", pretrained_text=False)
        return network, open_clip.get_tokenizer(identifier)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep open_clip's notes and warnings off the user's stderr while a model is built."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
