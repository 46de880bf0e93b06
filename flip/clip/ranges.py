"""The values that a model's configuration may hold: numbers that a network can have, and known names."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flip.errors import ModelError

#: The largest of each whole number; more would be a mistake or an attack on memory.
_MOST = {
    "embed_dim": 65_536,
    "layers": 512,
    "width": 65_536,
    "heads": 1024,
    "head_width": 65_536,
    "image_size": 4096,
    "patch_size": 1024,
    "context_length": 8192,
    "vocab_size": 4_000_000,
    "attn_pooler_queries": 4096,
    "attn_pooler_heads": 1024,
    "n_queries": 4096,
    "dim_head": 65_536,
}
#: Patches of a photo; 2048 pixels in patches of 16 have as many.
_MOST_PATCHES = 16_384
_MOST_OF_OTHERS = 4_000_000
#: Numbers per list, of the settings of an image tower that may be lists.
_LISTS = {"layers": 4, "image_size": 2, "patch_size": 2}
#: The architecture of another library whose sizes a tower has, so that its own may be absent.
_BORROWED = ("timm_model_name", "hf_model_name")
#: Keyword arguments of activations and of layer norms.
_KEYWORDS = {"act_kwargs": ("approximate",), "norm_kwargs": ("eps", "elementwise_affine", "bias")}
_CHANNELS = 3
_NAMES = {
    "mode": ("RGB",),
    "interpolation": ("bicubic", "bilinear", "random"),
    "resize_mode": ("shortest", "longest", "squash"),
}


def check_plain(key: str, value: object, where: str, file: Path) -> None:
    """Raise a ModelError unless a value is a number, a text, or a list of them, none of them huge."""
    for item in value if isinstance(value, list) else [value]:
        if item is not None and not isinstance(item, (bool, int, float, str)):
            raise ModelError(
                f"{file}: {where}.{key} holds a {type(item).__name__}; a number, a text or a list is allowed"
            )
        most = _MOST.get(key, _MOST_OF_OTHERS)
        if isinstance(item, (int, float)) and not abs(item) <= most:
            raise ModelError(f"{file}: {where}.{key} is {_shown(item)}; at most {most:,} is allowed")


def check_whole(key: str, value: object, where: str, file: Path, *, lists: bool = False) -> None:
    """Raise a ModelError unless a setting that is a size is a positive whole number in its range.

    Parameters
    ----------
    key : str
        Keys of other settings are not looked at.
    value : object
    where : str
        The part of the configuration, for messages.
    file : Path
    lists : bool
        Whether some sizes may be lists, as an image tower's.
    """
    most = _MOST.get(key)
    if most is None:
        return
    several = _LISTS.get(key, 0) if lists else 0
    values = value if several and isinstance(value, list) else [value]
    fits = all(isinstance(item, int) and not isinstance(item, bool) and 1 <= item <= most for item in values)
    if not fits or (isinstance(value, list) and len(values) != several):
        also = f", or {several} of them in a list" if several else ""
        raise ModelError(
            f"{file}: {where}.{key} is {_shown(value)}; a whole number from 1 to {most:,}{also} is allowed"
        )


def check_tower(part: Mapping[str, object], where: str, file: Path) -> None:
    """Raise a ModelError unless the sizes of a tower are in their ranges, and fit each other.

    Parameters
    ----------
    part : mapping
        ``vision_cfg``, ``text_cfg`` or ``multimodal_cfg``, of which each value was checked by itself.
    where : str
        Its name.
    file : Path
        For messages.
    """
    borrowed = any(part.get(key) for key in _BORROWED)
    convolutional = isinstance(part.get("layers"), list)
    for key, value in part.items():
        if value is None and (borrowed or (key == "patch_size" and convolutional)):
            continue
        check_whole(key, value, where, file, lists=where == "vision_cfg")
        if key in _KEYWORDS and isinstance(value, Mapping):
            _require_known(value, key, where, file)
    ratio = part.get("mlp_ratio", 4)
    if not isinstance(ratio, (int, float)) or not 0 < ratio <= 64:
        raise ModelError(f"{file}: {where}.mlp_ratio is {_shown(ratio)}; a number above 0 and up to 64 is allowed")
    if borrowed:
        return
    if where == "vision_cfg" and not convolutional:
        _require_patches(part, file)
        _require_divisor(part, ("width", 768), ("head_width", 64), where, file)
    elif where != "vision_cfg":
        _require_divisor(part, ("width", 512), ("heads", 8), where, file)


def check_preprocessing(preprocess_cfg: Mapping[str, object], file: Path) -> None:
    """Raise a ModelError unless each setting of preprocessing is one that open_clip carries out."""
    for key, names in _NAMES.items():
        if preprocess_cfg.get(key) is not None and preprocess_cfg[key] not in names:
            raise ModelError(
                f"{file}: preprocess_cfg.{key} is {_shown(preprocess_cfg[key])}; {' or '.join(names)} is allowed"
            )
    for key in ("mean", "std", "fill_color"):
        value = preprocess_cfg.get(key)
        if value is not None and not _is_colour(value, positive=key == "std", several=key != "fill_color"):
            wanted = "a number" if key == "fill_color" else f"{_CHANNELS} numbers in a list"
            above = " above 0" if key == "std" else ""
            raise ModelError(f"{file}: preprocess_cfg.{key} is {_shown(value)}; {wanted}{above} is allowed")


def _require_known(given: Mapping[str, object], key: str, where: str, file: Path) -> None:
    unknown = next((name for name in given if name not in _KEYWORDS[key]), None)
    if unknown is not None:
        raise ModelError(
            f"{file}: {where}.{key} has {unknown!r}; {', '.join(_KEYWORDS[key])} is allowed there, remove it"
        )
    if given.get("approximate", "none") not in ("none", "tanh"):
        raise ModelError(
            f"{file}: {where}.{key}.approximate is {_shown(given['approximate'])}; none or tanh is allowed"
        )
    eps = given.get("eps", 1e-5)
    if not isinstance(eps, (int, float)) or not 0 <= eps <= 1:
        raise ModelError(f"{file}: {where}.{key}.eps is {_shown(eps)}; a number from 0 to 1 is allowed")


def _require_patches(part: Mapping[str, object], file: Path) -> None:
    sides, patches = _pair(part.get("image_size", 224)), _pair(part.get("patch_size", 16))
    count = math.prod(side // patch for side, patch in zip(sides, patches, strict=True))
    if not 1 <= count <= _MOST_PATCHES:
        raise ModelError(
            f"{file}: vision_cfg.image_size {_shown(part.get('image_size', 224))} and patch_size "
            f"{_shown(part.get('patch_size', 16))} make {count:,} patches; 1 to {_MOST_PATCHES:,} are allowed"
        )


def _require_divisor(
    part: Mapping[str, object], whole: tuple[str, int], divisor: tuple[str, int], where: str, file: Path
) -> None:
    (name, by) = (part.get(*whole), part.get(*divisor))
    if isinstance(name, int) and isinstance(by, int) and name % by:
        raise ModelError(f"{file}: {where}.{divisor[0]} is {by}, which does not divide {whole[0]} {name}")


def _pair(value: Any) -> tuple[int, int]:
    """Return the two sides that a checked size has."""
    first, second = value if isinstance(value, list) else (value, value)
    return first, second


def _is_colour(value: object, *, positive: bool, several: bool) -> bool:
    values: Sequence[object] = value if several and isinstance(value, list) else [value]
    if isinstance(value, list) and len(values) != _CHANNELS:
        return False
    least = 0 if positive else -math.inf
    return all(isinstance(v, (int, float)) and not isinstance(v, bool) and least < v < math.inf for v in values)


def _shown(value: object) -> str:
    return text if len(text := repr(value)) <= 40 else f"{text[:40]}…"
