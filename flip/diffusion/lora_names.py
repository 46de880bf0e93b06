"""Names under which LoRA files know the layers of a pipeline."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flip.diffusion.pipeline import Component, Pipeline

#: Component and the prefixes that files give it.
_PREFIXES = {
    "unet": ("lora_unet_", "unet_", ""),
    "text_encoder": ("lora_te_", "lora_te1_", "text_encoder_", ""),
    "text_encoder_2": ("lora_te2_", "text_encoder_2_"),
}

_RESNET = {
    "conv1": "in_layers.2",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
_TOP = {
    "conv_in": "input_blocks.0.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}


def module_table(pipeline: Pipeline) -> dict[str, tuple[str, Component]]:
    """Return every name of each layer with a weight, underscores for dots: name → (component, module)."""
    table: dict[str, tuple[str, Component]] = {}
    for component, prefixes in _PREFIXES.items():
        network = pipeline.components.get(component)
        if network is None:
            continue
        for name, module in network.named_modules():
            weight = getattr(module, "weight", None)
            if weight is None or weight.ndim < 2:
                continue
            for own in _names(name, component, network):
                for prefix in prefixes:
                    table.setdefault(prefix + own.replace(".", "_"), (component, module))
    return table


def _names(name: str, component: str, network: Component) -> Iterator[str]:
    yield name
    if component == "unet":
        yield from _ldm_names(name, int(network.config.layers_per_block) if _is_number(network) else None)
    else:
        # Whatever the version of transformers, files have the level "text_model".
        plain = name.removeprefix("text_model.")
        yield from (plain, f"text_model.{plain}")


def _is_number(network: Component) -> bool:
    return isinstance(network.config.layers_per_block, int)


def _ldm_names(name: str, layers: int | None) -> Iterator[str]:
    """Yield the name of a U-Net's layer in latent-diffusion naming, as kohya's trainer for SDXL writes it."""
    if name in _TOP:
        yield _TOP[name]
    elif layers is not None:
        if found := re.fullmatch(r"down_blocks\.(\d+)\.downsamplers\.0\.conv", name):
            yield f"input_blocks.{(layers + 1) * (int(found[1]) + 1)}.0.op"
        elif found := re.fullmatch(r"up_blocks\.(\d+)\.upsamplers\.0\.conv", name):
            block = f"output_blocks.{(layers + 1) * (int(found[1]) + 1) - 1}"
            yield from (f"{block}.1.conv", f"{block}.2.conv")
        elif found := re.fullmatch(r"mid_block\.(resnets|attentions)\.(\d+)\.(.+)", name):
            place = 1 if found[1] == "attentions" else 2 * int(found[2])
            yield f"middle_block.{place}.{_RESNET.get(found[3], found[3])}"
        elif found := re.fullmatch(r"(down|up)_blocks\.(\d+)\.(resnets|attentions)\.(\d+)\.(.+)", name):
            number = (layers + 1) * int(found[2]) + int(found[4])
            block = f"input_blocks.{number + 1}" if found[1] == "down" else f"output_blocks.{number}"
            yield f"{block}.{0 if found[3] == 'resnets' else 1}.{_RESNET.get(found[5], found[5])}"
