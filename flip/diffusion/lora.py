"""LoRA (Hu et al., ICLR 2022) and LoCon files added to a pipeline's weights: kohya's, diffusers' and peft's namings."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flip.diffusion.lora_names import module_table
from flip.errors import CheckpointError, reason_of
from flip.files import JsonObject
from flip.reading import parse_json, read_json

if TYPE_CHECKING:
    import torch

    from flip.diffusion.pipeline import Pipeline

log = logging.getLogger(__name__)

#: Adaptations of other kinds, by what stands in the names of their weights.
_OTHER_KINDS = {
    r"dora_scale|lora_magnitude_vector": "DoRA",
    r"\.hada_[wt]": "LoHa",
    r"\.lokr_[wt]": "LoKr",
    r"\.diff(_b)?$": "a full difference (.diff)",
    r"\.lora_mid\.": "LoCon with Tucker decomposition",
    r"\.(oft_blocks|oft_diag|oft_r|boft_)|\.oft_R": "OFT",
    r"\.(a1|a2|b1|b2)\.weight$": "GLoRA",
    r"\.on_input$|\.ia3_l": "IA3",
    r"^lora_controlnet$": "a control LoRA",
    r"\.lora_embedding_[AB]|\.lora_[AB]\.bias$|\.bias_[nm]|\.set_weight$": "LoRA with biases or embeddings",
}

#: Endings of the two matrices of a LoRA, down first.
_ENDINGS = (
    (".lora_down.weight", ".lora_up.weight"),
    (".lora_A.weight", ".lora_B.weight"),
    (".lora_A.default.weight", ".lora_B.default.weight"),
    (".lora_linear_layer.down.weight", ".lora_linear_layer.up.weight"),
    ("_lora.down.weight", "_lora.up.weight"),
    (".lora.down.weight", ".lora.up.weight"),
)

#: Least share of a file's layers that must fit.
_LEAST_SHARE = 0.9

#: In the header of a file that diffusers wrote.
_DIFFUSERS_METADATA = "lora_adapter_metadata"
ADAPTER_FILE = "adapter_config.json"


@dataclass(frozen=True)
class Layer:
    """One adapted layer: W + scale · up · down.

    Attributes
    ----------
    name : str
        As the file has it.
    down, up : tensor
        Of shapes (r, in, …) and (out, r, …).
    alpha : float or None
        The scale is alpha / r; 1 without it.
    """

    name: str
    down: torch.Tensor
    up: torch.Tensor
    alpha: float | None

    def fits(self, shape: Sequence[int]) -> bool:
        """True if the product can be added to a weight of this shape: (out, in) or (out, in, kh, kw)."""
        down, up = self.down.shape, self.up.shape
        if len(down) < 2 or len(up) < 2 or not down[0] == up[1] > 0 or up[0] != shape[0]:
            return False
        same_kernel = len(down) < 4 or len(shape) < 4 or down[2:] == shape[2:]
        return same_kernel and math.prod(up[2:]) == 1 and math.prod(down[1:]) == math.prod(shape[1:])

    def delta(self, scale: float, shape: Sequence[int]) -> torch.Tensor:
        """Compute what is added to a weight of this shape, which fits."""
        down, up = self.down.float().flatten(1), self.up.float().flatten(1)  # (r, in · kh · kw), (out, r)
        return ((up @ down) * scale).reshape(tuple(shape))


def is_lora(state: Mapping[str, object]) -> bool:
    """True for weights that change another model: a LoRA of any kind."""
    expressions = [*_OTHER_KINDS, r"\blora_|_lora\.|\.lora\.|^lycoris_"]
    return any(re.search(expression, name) for name in state for expression in expressions)


def add_lora(
    pipeline: Pipeline, state: Mapping[str, torch.Tensor], file: Path, base: str, metadata: Mapping[str, str]
) -> None:
    """Add a LoRA to the weights of a pipeline, in place; ``metadata`` is the header of its file.

    Raises
    ------
    CheckpointError
        If it is of a kind that flip does not apply, or of another architecture than the pipeline: less than nine tenths
        of its layers fit. Nothing is changed then.
    """
    _require_supported(state, file)
    layers, left = read_layers(state)
    scales = _Scales.read(file, metadata)
    table = module_table(pipeline)
    fitting, unfit = [], [*left]
    for layer in layers:
        component, module = table.get(_plain(layer.name), ("", None))
        if module is not None and layer.fits(module.weight.shape):
            fitting.append((layer, module, scales.of(layer, component)))
        else:
            unfit.append(layer.name)
    total = len(layers) + len(left)
    if not layers or len(fitting) < _LEAST_SHARE * total:
        raise CheckpointError(
            f"{file} does not fit {base}: {len(fitting)} of its {total} layers have a place there, and {unfit[0]} has "
            "none; pass the --base that it was trained on"
        )
    if unfit:
        log.warning("%s: %d of %d layers have no place in %s, the first %s", file, len(unfit), total, base, unfit[0])
    for layer, module, scale in fitting:
        weight = module.weight.data
        module.weight.data = (weight.float() + layer.delta(scale, weight.shape)).to(weight.dtype)


def _require_supported(state: Mapping[str, object], file: Path) -> None:
    for expression, kind in _OTHER_KINDS.items():
        first = next((name for name in state if re.search(expression, name)), None)
        if first is not None:
            raise CheckpointError(
                f"{file} is {kind} (it holds {first}), which flip does not apply; merge it into its base with the tool "
                "that it comes from, and pass the merged model"
            )


def read_layers(state: Mapping[str, torch.Tensor]) -> tuple[list[Layer], list[str]]:
    """Pair the matrices of a file; also returns the names that belong to no pair."""
    layers, used = [], set()
    for key in state:
        for down, up in _ENDINGS:
            name = key.removesuffix(down)
            if name == key or name + up not in state:
                continue
            # diffusers' old names: to_q_lora.down is the layer to_q.
            alpha = next((f"{n}.alpha" for n in (name, f"{name}_lora") if f"{n}.alpha" in state), None)
            used |= {key, name + up, alpha}
            value = None if alpha is None else float(state[alpha].float().mean())
            layers.append(Layer(name, state[key], state[name + up], value))
            break
    return layers, [key for key in state if key not in used]


@dataclass(frozen=True)
class _Scales:
    """The scale of each layer, where the header or a configuration beside the file gives it."""

    configs: Mapping[str, JsonObject]

    @classmethod
    def read(cls, file: Path, metadata: Mapping[str, str]) -> _Scales:
        """Read diffusers' header, or peft's ``adapter_config.json`` beside the file.

        Raises
        ------
        CheckpointError
            If they are not what they should be, or ask for a kind that flip does not apply.
        """
        beside = file.with_name(ADAPTER_FILE)
        try:
            if _DIFFUSERS_METADATA in metadata:
                flat = parse_json(metadata[_DIFFUSERS_METADATA])
            elif file.name.startswith("adapter_model") and beside.is_file():
                flat = {f".{key}": value for key, value in read_json(beside).items()}
            else:
                flat = {}
            configs: dict[str, JsonObject] = {}
            for key, value in flat.items():
                component, _, name = key.partition(".")
                configs.setdefault(component, {})[name] = value
            found = cls(configs)
            found._require_plain(file)
        except (OSError, ValueError, TypeError, AttributeError) as e:
            reason = reason_of(e)
            raise CheckpointError(f"{file}: its configuration cannot be read ({reason}); fetch it again") from e
        return found

    def _require_plain(self, file: Path) -> None:
        for config in self.configs.values():
            kind = str(config.get("peft_type", "LORA"))
            if config.get("use_dora") or kind != "LORA":
                raise CheckpointError(f"{file} is {'DoRA' if kind == 'LORA' else kind}, which flip does not apply")

    def of(self, layer: Layer, component: str) -> float:
        """Return the factor of a layer's product."""
        rank = int(layer.down.shape[0])
        config = self.configs.get(component) or self.configs.get("") or {}
        alpha = layer.alpha
        if alpha is None and "lora_alpha" in config:
            alpha = float(_by_pattern(config.get("alpha_pattern"), layer.name, config["lora_alpha"]))
        if alpha is None:
            return 1.0
        return float(alpha / rank**0.5) if config.get("use_rslora") else float(alpha / rank)


def _by_pattern(patterns: object, name: str, otherwise: object) -> Any:
    """Return the value of the pattern that a layer's name ends with, as peft's ``alpha_pattern`` has them."""
    for pattern, value in patterns.items() if isinstance(patterns, Mapping) else ():
        if re.fullmatch(rf"(.*\.)?({pattern})", name):
            return value
    return otherwise


def _plain(name: str) -> str:
    """Return a layer's name as the table of modules has it: without prefixes, with underscores."""
    name = name.removeprefix("base_model.model.").removeprefix("lycoris_").replace(".processor.", ".")
    name = re.sub(r"(self_attn)\.to_(q|k|v|out)$", lambda m: f"{m[1]}.{m[2]}_proj", name)
    name = re.sub(r"(attn[12]\.to_out)$", r"\1.0", name)
    return name.replace(".", "_")
