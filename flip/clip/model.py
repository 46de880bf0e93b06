"""Load a dual encoder. The only importer of open_clip.

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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flip.clip.weights import weights_hash
from flip.errors import ConfigError, ModelError, near_names
from flip.sample import weights as sample

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

CONFIG_FILE, WEIGHTS_FILE = "open_clip_config.json", "open_clip_model.safetensors"

#: What a tokenizer of Hugging Face consists of; open_clip reads it from the model's own folder.
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
)


@dataclass(frozen=True)
class ClipModel:
    """A dual encoder, in ``eval()``, with all that belongs to it.

    Attributes
    ----------
    name : str
        What ``--model`` was given.
    network : torch.nn.Module
        The open_clip model, in ``eval()``.
    preprocess : callable
        PIL image in RGB → float32 tensor (3, height, width), open_clip's own validation transform.
    tokenize : callable
        List of n texts → int64 tensor (n, context_length); longer texts are cut.
    config : dict
        ``model_cfg`` and ``preprocess_cfg``, as ``open_clip_config.json`` would hold them.
    fingerprint : str
        16 hex digits over config, activation, weights and preprocessing.
    """

    name: str
    network: torch.nn.Module
    preprocess: Callable[[Image], torch.Tensor]
    tokenize: Callable[[list[str]], torch.Tensor]
    config: dict[str, Any]
    fingerprint: str

    @property
    def dim(self) -> int:
        """Width d of an embedding."""
        return int(self.config["model_cfg"]["embed_dim"])

    @property
    def logit_scale(self) -> float:
        """The factor between cosine similarities and logits, as the model learned it."""
        return float(self.network.logit_scale.detach().exp())  # type: ignore[operator]


def load_model(name: str, *, cache: Path | None = None) -> ClipModel:
    """Load a model on the CPU in fp32, in ``eval()``.

    No network is touched when the weights are on this machine.

    Parameters
    ----------
    name : str
        ``ARCH/TAG`` of open_clip, ``hf-hub:ORG/NAME``, a folder holding ``open_clip_config.json``, or ``sample``.
    cache : Path, optional
        Folder in which the hash of a weights file is remembered.

    Raises
    ------
    ModelError
        If the name is unknown (with near names), the weights are not here and cannot be fetched (with the file that is
        missing and where to put it), or they do not fit their configuration.
    """
    if name == sample.NAME:
        return _load_folder(name, sample.clip_folder(), cache)
    if Path(name).is_dir() or name.startswith("local-dir:"):
        return _load_folder(name, Path(name.removeprefix("local-dir:")), cache)
    if name.startswith("hf-hub:"):
        return _load_hub(name, cache)
    return _load_tag(name, cache)


def _load_folder(name: str, folder: Path, cache: Path | None) -> ClipModel:
    from open_clip.factory import _find_checkpoint_in_dir

    config_file = folder / CONFIG_FILE
    if not config_file.is_file():
        raise ModelError(
            f"{folder} is not a model folder: it has no {CONFIG_FILE}; pass ARCH/TAG or what flip finetune wrote"
        )
    try:
        model_cfg = json.loads(config_file.read_text(encoding="utf-8"))["model_cfg"]
    except (ValueError, KeyError, TypeError) as e:
        raise ModelError(f"{config_file} is not an open_clip configuration ({e}); it needs a model_cfg") from e
    with _quiet():
        weights = _find_checkpoint_in_dir(folder)
    if weights is None:
        raise ModelError(f"{folder} has {CONFIG_FILE} but no weights; put {WEIGHTS_FILE} beside it")
    # Two towers' own pretrained weights are never fetched: the folder's file holds both.
    return _build(name, f"local-dir:{folder}", Path(weights), model_cfg, cache)


def _load_hub(name: str, cache: Path | None) -> ClipModel:
    from open_clip.factory import _get_hf_config
    from open_clip.pretrained import download_pretrained_from_hf

    identifier = name.removeprefix("hf-hub:")
    try:
        model_cfg = _get_hf_config(identifier)["model_cfg"]
        weights = download_pretrained_from_hf(identifier)
    except Exception as e:
        raise ModelError(
            f"{name} is not on this machine and could not be fetched ({_first_line(e)}); with network: check the name; "
            f"without: copy {CONFIG_FILE} and the weights of https://huggingface.co/{identifier} into a folder "
            "and pass --model FOLDER"
        ) from e
    return _build(name, name, Path(weights), model_cfg, cache)


def _load_tag(name: str, cache: Path | None) -> ClipModel:
    import open_clip
    from open_clip.pretrained import download_pretrained

    architecture, slash, tag = name.rpartition("/")
    known = {f"{a}/{t}" for a, t in open_clip.list_pretrained()}
    entry = open_clip.get_pretrained_cfg(architecture, tag) if slash else None
    if not entry:
        raise ModelError(
            f"unknown model {name!r}{near_names(name, known)}; pass ARCH/TAG from `flip models`, hf-hub:ORG/NAME, "
            f"or a folder that holds {CONFIG_FILE}"
        )
    try:
        weights = download_pretrained(entry)
    except Exception as e:
        raise ModelError(_absent(name, entry, e)) from e
    # open_clip alone only warns when the tag was trained with QuickGELU and the architecture's config is not, and its
    # features are then silently wrong.
    quick = bool(entry.get("quick_gelu", False))
    model_cfg = open_clip.get_model_config(architecture) | ({"quick_gelu": True} if quick else {})
    return _build(name, architecture, Path(weights), model_cfg, cache, pretrained=tag, force_quick_gelu=quick)


def _build(
    name: str, identifier: str, weights: Path, model_cfg: dict[str, Any], cache: Path | None, **arguments: Any
) -> ClipModel:
    import open_clip
    import torch
    from open_clip.transform import PreprocessCfg, image_transform_v2

    try:
        with _quiet():
            network = open_clip.create_model(
                identifier, require_pretrained=True, device="cpu", pretrained_text=False, **arguments
            )
            tokenize = open_clip.get_tokenizer(identifier)
    except Exception as e:
        raise ModelError(
            f"the weights {weights} of {name} cannot be loaded ({_first_line(e)}); "
            "fetch the file again, or check that it belongs to the configuration"
        ) from e
    if not all(bool(torch.isfinite(p).all()) for p in network.parameters()):
        raise ModelError(f"the weights {weights} of {name} hold NaN or infinity; take an earlier checkpoint")
    preprocess_cfg = open_clip.get_model_preprocess_cfg(network)
    config = {"model_cfg": model_cfg, "preprocess_cfg": preprocess_cfg}
    described = json.dumps([config, weights_hash(weights, cache)], sort_keys=True, default=str)
    return ClipModel(
        name=name,
        network=network.eval().requires_grad_(False),
        preprocess=image_transform_v2(PreprocessCfg(**preprocess_cfg), is_train=False),
        tokenize=tokenize,
        config=config,
        fingerprint=hashlib.sha256(described.encode()).hexdigest()[:16],
    )


def new_model(config_file: Path, seed: int) -> ClipModel:
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
    import torch
    from open_clip.transform import PreprocessCfg, image_transform_v2

    if str(config_file) == sample.NAME:
        config_file = sample.scratch_config("clip")
    try:
        content = json.loads(config_file.read_text(encoding="utf-8"))
        content = content if "model_cfg" in content else {"model_cfg": content}
        with tempfile.TemporaryDirectory() as folder, _quiet(), torch.random.fork_rng(devices=[]):
            (Path(folder) / CONFIG_FILE).write_text(json.dumps(content), encoding="utf-8")
            for tokenizer_file in TOKENIZER_FILES:
                if (config_file.parent / tokenizer_file).is_file():
                    shutil.copyfile(config_file.parent / tokenizer_file, Path(folder) / tokenizer_file)
            torch.manual_seed(seed)
            identifier = f"local-dir:{folder}"
            network = open_clip.create_model(identifier, load_weights=False, device="cpu", pretrained_text=False)
            tokenize = open_clip.get_tokenizer(identifier)
    except Exception as e:
        raise ConfigError(
            f"{config_file} is not an open_clip configuration ({_first_line(e)}); it needs what {CONFIG_FILE} holds: "
            "model_cfg with embed_dim, vision_cfg and text_cfg"
        ) from e
    preprocess_cfg = open_clip.get_model_preprocess_cfg(network)
    config = {"model_cfg": content["model_cfg"], "preprocess_cfg": preprocess_cfg}
    described = json.dumps([config, "random weights", seed], sort_keys=True, default=str)
    return ClipModel(
        name=f"{config_file} from scratch",
        network=network.eval().requires_grad_(False),
        preprocess=image_transform_v2(PreprocessCfg(**preprocess_cfg), is_train=False),
        tokenize=tokenize,
        config=config,
        fingerprint=hashlib.sha256(described.encode()).hexdigest()[:16],
    )


def _absent(name: str, entry: dict[str, Any], error: Exception) -> str:
    """Return what to put where when weights are not here and the network fails."""
    repository, _, file = str(entry.get("hf_hub", "")).rpartition("/")
    if repository:
        file = file or "open_clip_pytorch_model.bin"
        what = f"{file} (or its .safetensors) of https://huggingface.co/{repository}"
        where = f"the Hugging Face cache {_hub_cache()} (huggingface-cli download {repository} on a connected machine)"
    else:
        what, where = str(entry.get("url")), str(Path("~/.cache/clip").expanduser())
    reason = "HF_HUB_OFFLINE is set" if os.environ.get("HF_HUB_OFFLINE") else _first_line(error)
    return f"the weights of {name} are not on this machine and could not be fetched ({reason}); put {what} into {where}"


def _hub_cache() -> str:
    from huggingface_hub.constants import HF_HUB_CACHE

    return str(HF_HUB_CACHE)


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:200]


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


def openai_templates() -> tuple[str, ...]:
    """Return CLIP's 80 ImageNet templates as strings with ``{}`` (Radford et al., ICML 2021)."""
    from open_clip.zero_shot_metadata import OPENAI_IMAGENET_TEMPLATES

    return tuple(template("{}") for template in OPENAI_IMAGENET_TEMPLATES)


def clip_vocabulary() -> tuple[dict[str, int], list[str]]:
    """Return the vocabulary of OpenAI's CLIP (piece → id, marks as transformers names them) and its merges ("a b")."""
    from open_clip.tokenizer import SimpleTokenizer

    tokenizer = SimpleTokenizer()
    marks = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    vocabulary = {marks.get(piece, piece): number for piece, number in tokenizer.encoder.items()}
    return vocabulary, [" ".join(pair) for pair in tokenizer.bpe_ranks]


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
        file = _local_weights(entry)
        size = file.stat().st_size / 1e6 if file else None
        hub = str(entry.get("hf_hub", "")) or str(entry.get("url", ""))
        rows.append(KnownModel(f"{architecture}/{tag}", hub, file is not None, size))
    return rows


def _local_weights(entry: dict[str, Any]) -> Path | None:
    """Return the weights file of a pretrained entry if it is on this machine, touching no network."""
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
