"""``flip finetune``."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import typer
from typer.core import TyperCommand

from flip.cli.config import FolderOutput, ReadOptions
from flip.cli.context import Context, implied_model
from flip.cli.finetune_output import print_result, training_bar
from flip.cli.options import command
from flip.embed.settings import ViewSettings
from flip.errors import ConfigError
from flip.files import JsonObject
from flip.names import DEFAULT_MODEL
from flip.settings import flag, option, settings_from
from flip.training.settings import ClipSettings, DiffusionSettings, Hardware, parse_square


@dataclass(frozen=True, kw_only=True)
class ClipStart:
    """The CLIP model to fine-tune."""

    model: str | None = option(
        None,
        "ARCH/TAG of open_clip, hf-hub:ORG/NAME, a folder with open_clip_config.json, or sample. "
        f"[default: {DEFAULT_MODEL}]",
        envvar="FLIP_MODEL",
    )
    arch: str | None = option(
        None, "Architecture of a bare weights file that --model names, as open_clip calls it. [default: by shapes]"
    )


@dataclass(frozen=True, kw_only=True)
class DiffusionStart:
    """The diffusion model to fine-tune."""

    ckpt: str | None = option(
        None,
        "Diffusion only: the model to train; a .ckpt or .safetensors file, a diffusers folder, ORG/NAME, or sample.",
    )
    base: str | None = option(None, "Diffusion only: the diffusers folder with what a .ckpt lacks.")
    no_ema: bool = option(False, "Diffusion only: take the plain weights of a .ckpt that also has averaged ones.")


#: Where the options of each target are declared.
TARGETS = {"clip": (ClipStart, ClipSettings, ViewSettings), "diffusion": (DiffusionStart, DiffusionSettings)}


@dataclass(frozen=True, kw_only=True)
class FinetuneOptions(ClipStart, DiffusionStart, ClipSettings, DiffusionSettings, ReadOptions, FolderOutput):
    """``flip finetune``: the options of both targets."""

    target: Literal["clip", "diffusion"] = option("clip", "Which kind of model is trained.")
    output: Path | None = option(None, "Folder for the fine-tuned model, its metrics and its checkpoints.")
    resume: bool = option(False, "Resume the run in the output folder; refuse a folder without one.")
    overwrite: bool = option(False, "Replace what the output folder holds.")
    size: str | None = option(None, "Diffusion only: pixels per side. [default: the model's own]")  # type: ignore[assignment]

    def __post_init__(self) -> None:
        ClipSettings.__post_init__(self)
        DiffusionSettings.__post_init__(self)
        ReadOptions.__post_init__(self)


def own_options(target: str) -> set[str]:
    """Return the names of the options that a target reads beside those that both share."""
    return {f.name for kind in TARGETS[target] for f in fields(kind)}


def require_own_options(target: str, given: Iterable[str]) -> None:
    """Raise a ConfigError for an option that was given and belongs to the other target only."""
    for other in TARGETS.keys() - {target}:
        for name in given:
            if name in own_options(other) - own_options(target):
                raise ConfigError(f"{flag(name)} is for --target {other}; leave it out, or pass --target {other}")


class FinetuneCommand(TyperCommand):
    """Refuses the other target's options where they stand on the command line, not where the environment sets them."""

    def invoke(self, ctx: Any) -> object:
        """Run the command."""
        sources = {name: ctx.get_parameter_source(name) for name in ctx.params}
        given = [name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"]
        require_own_options(ctx.params["target"], given)
        return super().invoke(ctx)


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "finetune", FinetuneOptions)(finetune)
    app.registered_commands[-1].cls = FinetuneCommand


def finetune(options: FinetuneOptions) -> None:
    """Train the model on the training photos, with their captions or class names, and write it into the folder -o.

    The result is a folder that --model takes everywhere (--ckpt, with --target diffusion). Test photos are looked at
    only when it is done, to score the model before and after.
    """
    from flip.cli.context import is_main_process

    if options.output is None:
        raise typer.BadParameter("no -o given; pass a folder for the fine-tuned model")
    train = _finetune_clip if options.target == "clip" else _finetune_diffusion
    result = train(options, options.output.expanduser())
    if is_main_process():
        print_result(options, result)


def _finetune_clip(options: FinetuneOptions, folder: Path) -> JsonObject:
    from flip.training.clip.finetune import finetune
    from flip.training.clip.output import RESULT
    from flip.training.resume import finished_result

    if options.tta != "none":
        raise ConfigError("--tta flip is for features, and training mirrors photos anyway; leave it out")
    if options.from_scratch is not None and options.model:
        raise ConfigError("--from-scratch begins with random weights; leave out --model (or FLIP_MODEL)")
    if result := finished_result(folder / RESULT, resume=options.resume):
        return result
    context = Context(options)
    with training_bar(options) as listener:
        return finetune(
            context.dataset,
            None if options.from_scratch else context.model_name,
            folder,
            settings_from(options, ClipSettings),
            hardware=settings_from(options, Hardware),
            crop=options.crop,
            cache=options.cache,
            arch=options.arch,
            resume=options.resume,
            overwrite=options.overwrite,
            listener=listener,
        )


def _finetune_diffusion(options: FinetuneOptions, folder: Path) -> JsonObject:
    from flip.diffusion.checkpoint import load_pipeline
    from flip.training.diffusion.finetune import RESULT_FILE, finetune
    from flip.training.resume import finished_result

    if result := finished_result(folder / RESULT_FILE, resume=options.resume):
        return result
    ckpt = options.ckpt or (None if options.from_scratch else implied_model(options))
    if ckpt is None and options.from_scratch is None:
        raise typer.BadParameter("no --ckpt given; pass the diffusion model to train, or --from-scratch CONFIG")
    dataset = Context(options).dataset
    loaded = ckpt and load_pipeline(ckpt, base=options.base, ema=not options.no_ema, cache=options.cache)
    with training_bar(options) as listener:
        return finetune(
            dataset,
            loaded or None,
            folder,
            settings_from(options, DiffusionSettings, size=parse_square(options.size)),
            hardware=settings_from(options, Hardware),
            resume=options.resume,
            overwrite=options.overwrite,
            listener=listener,
        )
