"""What a name given as ``--model`` means: configuration, weights and tokenizer, found and checked."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from flip.clip.checks import check_model_cfg, check_preprocess_cfg, check_repository, read_json, refuse_code
from flip.clip.convert import clip_config, clip_state, preprocess_config
from flip.clip.fetch import AbsentError, hub_file, hub_folder, reference
from flip.clip.folder import CONFIG_FILE, TOKENIZER_FILES, TRANSFORMERS_CONFIG, ModelFiles, find_files
from flip.clip.guess import architecture, guess_architecture
from flip.clip.hub import absent_message, fetch_weights, hub_absent_message, registry_entry
from flip.clip.state import is_torchscript, read_state
from flip.errors import ModelError
from flip.files import JsonObject

if TYPE_CHECKING:
    from flip.clip.state import State

log = logging.getLogger(__name__)

#: Names of the weights of an open_clip model on the hub, the best first.
HUB_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
_TRANSFORMERS_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_PREPROCESSOR = "preprocessor_config.json"
_TOKENIZER = (*TOKENIZER_FILES, TRANSFORMERS_CONFIG)


@dataclass(frozen=True)
class Source:
    """A model's configuration and files; nothing of it was handed to a library yet.

    Attributes
    ----------
    model_cfg, preprocess_cfg : dict
        As ``open_clip_config.json`` would hold them.
    weights : tuple of Path
        One file, or all its parts.
    files : tuple of Path
        The files whose change makes it another model.
    tokenizer : Path or None
        Folder with the files of a Hugging Face tokenizer; without one the tokenizer is CLIP's own.
    text_tower : Path or None
        ``config.json`` of a text tower of transformers.
    convert : callable or None
        Brings the tensors under open_clip's names.
    config : str
        The configuration as messages call it.
    """

    model_cfg: JsonObject
    preprocess_cfg: JsonObject
    weights: tuple[Path, ...]
    files: tuple[Path, ...]
    tokenizer: Path | None = None
    text_tower: Path | None = None
    convert: Callable[[State], State] | None = None
    config: str = "open_clip's configuration"

    @property
    def weights_name(self) -> str:
        """The weights as messages call them."""
        return str(self.weights[0]) + (f" and {len(self.weights) - 1} more parts" if len(self.weights) > 1 else "")


def local_source(path: Path, arch: str | None = None) -> Source:
    """Return the source that a folder or a weights file is; no network is touched.

    Parameters
    ----------
    path : Path
    arch : str, optional
        open_clip's architecture of a weights file.

    Raises
    ------
    ModelError, ConfigError
        If something is missing or refused.
    """
    files = find_files(path, bare=arch is not None)
    if files.config is None:
        return _bare(files, arch)
    return _folder(files, files.config, fetch=False)


def config_source(file: Path) -> Source:
    """Return the source that a configuration without weights is: ``open_clip_config.json``, or a ``model_cfg`` itself.

    Raises
    ------
    ModelError
        If something is missing or refused.
    """
    content = read_json(file)
    content = content if "model_cfg" in content else {"model_cfg": content}
    model_cfg = check_model_cfg(content["model_cfg"], file, **_known_keys())
    preprocess_cfg = check_preprocess_cfg(content.get("preprocess_cfg") or {}, file)
    return _with_text_side(
        Source(model_cfg, preprocess_cfg, (), (), config=str(file)), file.parent, fetch=False, file=file
    )


def hub_source(name: str) -> Source:
    """Return the source of ``hf-hub:ORG/NAME``: from the hub's cache where it is there, else fetched.

    Raises
    ------
    ModelError
        If it is not here and cannot be fetched, or is refused.
    """
    repository = check_repository(name.removeprefix("hf-hub:"), "the name", name)
    try:
        config = hub_file(repository, (CONFIG_FILE, TRANSFORMERS_CONFIG))
        ours = config.name == CONFIG_FILE
        weights = hub_file(repository, HUB_WEIGHTS if ours else _TRANSFORMERS_WEIGHTS)
        if not ours:
            hub_folder(repository, (*_TOKENIZER, _PREPROCESSOR))
    except AbsentError as e:
        raise ModelError(hub_absent_message(name, repository, e)) from e
    source = _folder(ModelFiles("open_clip" if ours else "transformers", config, (weights,)), config, fetch=True)
    return replace(source, files=(*source.files, *reference(config)))


def tag_source(name: str) -> Source:
    """Return the source of ``ARCH/TAG`` of open_clip: from the hub's cache where it is there, else fetched.

    Raises
    ------
    ModelError
        If the name is unknown, or the weights are not here and cannot be fetched.
    """
    entry = registry_entry(name)
    try:
        weights = fetch_weights(entry)
    except AbsentError as e:
        raise ModelError(absent_message(name, entry, e)) from e
    model_cfg = architecture(name.rpartition("/")[0])
    if entry.get("quick_gelu"):
        # open_clip alone only warns when the tag was trained with QuickGELU and the architecture's config is not, and
        # its features are then silently wrong.
        model_cfg |= {"quick_gelu": True}
    source = Source(model_cfg, _preprocessing(entry), (weights,), (weights, *reference(weights)))
    return _with_text_side(source, None, fetch=True, file=Path(name))


def _folder(files: ModelFiles, config: Path, *, fetch: bool) -> Source:
    content = read_json(config)
    if files.kind == "transformers":
        return _transformers(files, config, content)
    model_cfg = check_model_cfg(content.get("model_cfg"), config, **_known_keys())
    preprocess_cfg = check_preprocess_cfg(content.get("preprocess_cfg") or {}, config)
    source = Source(model_cfg, preprocess_cfg, files.weights, files.all, config=str(config))
    return _with_text_side(source, None if fetch else config.parent, fetch=fetch, file=config)


def _transformers(files: ModelFiles, config: Path, content: JsonObject) -> Source:
    refuse_code(content, config)
    preprocessor = config.parent / _PREPROCESSOR
    try:
        converted = clip_config(content, config)
        preprocess_cfg = preprocess_config(read_json(preprocessor) if preprocessor.is_file() else {})
    except (TypeError, ValueError, ArithmeticError, AttributeError, KeyError) as e:
        raise ModelError(f"{config} is not transformers' configuration of a CLIPModel ({e}); fetch it again") from e
    model_cfg = check_model_cfg(converted, config, **_known_keys())
    preprocess_cfg = check_preprocess_cfg(preprocess_cfg, preprocessor)
    source = Source(model_cfg, preprocess_cfg, files.weights, files.all, convert=clip_state, config=str(config))
    if _has_tokenizer(config.parent):
        model_cfg["text_cfg"]["hf_tokenizer_name"] = "the model's own"
        return replace(source, tokenizer=config.parent)
    if model_cfg["text_cfg"]["vocab_size"] != 49408:
        raise ModelError(
            f"{config.parent} has no tokenizer, and its vocabulary is not CLIP's; put tokenizer.json and "
            "tokenizer_config.json (or vocab.json and merges.txt) beside it"
        )
    return source


def _bare(files: ModelFiles, arch: str | None) -> Source:
    file = files.weights[0]
    if arch is None:
        arch = guess_architecture(read_state(files.weights), file, openai=is_torchscript(file))
        log.info("%s is taken for %s by the shapes of its tensors", file, arch)
    source = Source(architecture(arch), _usual_preprocessing(arch), files.weights, files.all, config=f"--arch {arch}")
    return _with_text_side(source, None, fetch=True, file=file)


def _with_text_side(source: Source, folder: Path | None, *, fetch: bool, file: Path) -> Source:
    """Return a source with tokenizer and text tower of Hugging Face, where the text tower needs them.

    Parameters
    ----------
    source : Source
    folder : Path or None
        The model's own folder, which holds its tokenizer; None where the tokenizer has a repository of its own.
    fetch : bool
        Whether the network may be used.
    file : Path
        What names them, for messages.
    """
    text = source.model_cfg["text_cfg"]
    tokenizer = tower = None
    if text.get("hf_tokenizer_name"):
        if folder is not None and not _has_tokenizer(folder):
            raise ModelError(_no_tokenizer(folder, str(text["hf_tokenizer_name"])))
        tokenizer = folder or _from_hub(
            text["hf_tokenizer_name"], "hf_tokenizer_name", file, lambda name: hub_folder(name, _TOKENIZER, fetch=fetch)
        )
    if text.get("hf_model_name"):
        names = (TRANSFORMERS_CONFIG,)
        tower = _from_hub(text["hf_model_name"], "hf_model_name", file, lambda name: hub_file(name, names, fetch=fetch))
    return replace(source, tokenizer=tokenizer, text_tower=tower)


def _from_hub(repository: object, key: str, file: Path, find: Callable[[str], Path]) -> Path:
    name = check_repository(repository, key, file)
    try:
        return find(name)
    except AbsentError as e:
        part = "tokenizer" if key == "hf_tokenizer_name" else "text tower's configuration"
        raise ModelError(
            f"{file}: the {part} {name} is not on this machine ({e}); run `hf download {name}` on one with a network, "
            "and copy its Hugging Face cache"
        ) from e


def _has_tokenizer(folder: Path) -> bool:
    return any((folder / name).is_file() for name in TOKENIZER_FILES if name not in _NO_TOKENIZER)


#: Files that belong to a tokenizer and are none by themselves.
_NO_TOKENIZER = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")


def _no_tokenizer(folder: Path, name: str) -> str:
    return (
        f"{folder} has no tokenizer, and its configuration asks for {name}; put tokenizer.json and "
        f"tokenizer_config.json beside it: hf download {name} --include '*token*' '*vocab*' '*.model' merges.txt "
        f"--local-dir {folder}"
    )


def _known_keys() -> dict[str, tuple[str, ...]]:
    """Return the keys of open_clip's configurations of towers."""
    from open_clip.coca_model import MultimodalCfg
    from open_clip.model import CLIPTextCfg, CLIPVisionCfg

    vision, text, multimodal = (
        tuple(f.name for f in dataclasses.fields(kind)) for kind in (CLIPVisionCfg, CLIPTextCfg, MultimodalCfg)
    )
    return {"vision": vision, "text": (*text, *multimodal)}


def _preprocessing(entry: Mapping[str, object]) -> JsonObject:
    """Return the part of a registry entry that is preprocessing."""
    keys = ("size", "mode", "mean", "std", "interpolation", "resize_mode", "fill_color")
    return {key: entry[key] for key in keys if entry.get(key) is not None}


def _usual_preprocessing(arch: str) -> JsonObject:
    """Return the preprocessing of an architecture's published weights where all agree; else CLIP's own, said."""
    import open_clip

    tags = open_clip.list_pretrained_tags_by_model(arch)
    found = [_preprocessing(open_clip.get_pretrained_cfg(arch, tag)) for tag in tags]
    if found and all(other == found[0] for other in found):
        return found[0]
    log.info("photos are preprocessed as for OpenAI's CLIP; put an open_clip_config.json beside the weights if not so")
    return {}
