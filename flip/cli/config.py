"""Groups of options that commands share. What a command alone has stands in its own file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from flip import names
from flip.cli.pictures import SUFFIXES, parse_plot
from flip.data.settings import DataSettings
from flip.embed.settings import EmbedSettings
from flip.errors import ConfigError
from flip.settings import at_least, option, parse_shots


@dataclass(frozen=True, kw_only=True)
class MessageOptions:
    """What is said on stderr."""

    quiet: bool = option(False, "No notes and no progress bars on stderr.")
    verbose: bool = option(False, "Also print how each step went on stderr.")


@dataclass(frozen=True, kw_only=True)
class FormatOptions(MessageOptions):
    """How results are written."""

    format: Literal["table", "json", "jsonl", "csv"] | None = option(
        None,
        "How results are written; table on a terminal, otherwise json for an evaluation and jsonl for predictions.",
    )
    csv_safe: bool = option(
        False, "Put an apostrophe before csv cells that begin with = + - or @, which spreadsheets would run."
    )


@dataclass(frozen=True, kw_only=True)
class FileOutput(FormatOptions):
    """The output of a command that reports something: a file."""

    output: Path | None = option(None, "Write the result to this file instead of stdout (-).", writes="text")


@dataclass(frozen=True, kw_only=True)
class FolderOutput(FormatOptions):
    """The output of a command that makes something: a folder. Its result goes to stdout."""

    output: Path | None = option(None, "Folder to write into.")
    overwrite: bool = option(False, "Replace what an earlier run left in the output folder.")


@dataclass(frozen=True, kw_only=True)
class CacheOptions:
    """Where embeddings and drawn photos are kept between runs."""

    cache: Path | None = option(
        None, "Folder of what is kept between runs. [default: the platform's cache folder]", envvar="FLIP_CACHE"
    )


@dataclass(frozen=True, kw_only=True)
class ModelOptions(EmbedSettings, CacheOptions):
    """Which model, where it runs, and where its embeddings are kept."""

    model: str | None = option(
        None,
        "ARCH/TAG of open_clip, hf-hub:ORG/NAME, a folder with open_clip_config.json, or sample. "
        f"[default: {names.DEFAULT_MODEL}]",
        envvar="FLIP_MODEL",
        completes=names.MODELS,
    )
    arch: str | None = option(
        None,
        "Architecture of a bare weights file that --model names, as open_clip calls it. [default: by shapes]",
    )


@dataclass(frozen=True, kw_only=True)
class DataOptions(DataSettings):
    """Which photos."""


@dataclass(frozen=True, kw_only=True)
class ReadOptions(DataOptions, ModelOptions, MessageOptions):
    """What every command that embeds photos shares."""

    seed: int = option(0, "Seed of everything random.")
    strict: bool = option(False, "Exit with 3 when some input was unreadable.")

    def __post_init__(self) -> None:
        DataOptions.__post_init__(self)
        EmbedSettings.__post_init__(self)


@dataclass(frozen=True, kw_only=True)
class PredictOptions(ReadOptions, FileOutput):
    """What every command that evaluates a split or predicts photos shares."""

    images: list[str] | None = option(
        None, "Photos to predict, or - for paths on stdin. Without any: evaluate --split."
    )
    null: bool = option(False, "Paths on stdin end in NUL, as find -print0 writes them.")
    split: str = option("test", "Which split to evaluate: train, val, test or all.", completes=(*names.SPLITS, "all"))
    predictions: Path | None = option(
        None, "When evaluating: also write one row per photo to this file (.jsonl or .csv).", writes="text"
    )
    run: Path | None = option(
        None,
        "When evaluating: save config, versions, data fingerprint, result and predictions in this new folder.",
        writes="folder",
    )
    sheet: Path | None = option(
        None, "Draw a contact sheet of the named photos into this .png or .jpg file.", writes="image"
    )
    copy_to: Path | None = option(
        None, "Copy the photos into this new folder, sorted into folders by their label.", writes="folder"
    )
    link: bool = option(False, "Link the photos of --copy-to instead of copying them.")
    plot: str | None = option(
        None,
        "Draw the confusion matrix, or with --shots the curve, into this .png, .svg or .pdf file; calibration:FILE, "
        "coverage:FILE, confusion:FILE or few-shot:FILE draw one of these, and the word alone WORD.png.",
        completes=names.PLOTS,
    )
    top: int = option(5, "How many labels a prediction row lists.")
    reject: float | None = option(None, "A prediction whose probability is below this gets no label.")
    groups: str | None = option(
        None,
        "Also report the accuracy by group: a CSV or TSV file of class, group and perhaps more ranks, or auto (the "
        "data's own ranks, else the last word of each class name). With --reject a row names the surest rank.",
        completes=("auto",),
    )
    subset: Path | None = option(
        None, "File of candidate classes, one per line; no other is named, and probabilities are renormalised."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("--top", self.top, 1)
        given = [name for name in ("predictions", "run", "plot") if getattr(self, name) is not None]
        if self.images and given:
            raise ConfigError(f"--{given[0]} belongs to an evaluation, and photos are named; leave one of them out")
        if self.link and self.copy_to is None:
            raise ConfigError("--link links the photos of --copy-to and copies none; pass --copy-to DIR with it")
        picture = parse_plot(self.plot)
        if picture is not None and picture.kind == "few-shot" and not getattr(self, "shots", None):
            raise ConfigError("--plot few-shot draws the curve of --shots; pass --shots 1,2,4,all with it")
        if self.reject is not None and not 0 <= self.reject <= 1:
            raise ConfigError(f"--reject {self.reject:g} is not a probability; pass a number from 0 to 1")


@dataclass(frozen=True, kw_only=True)
class TrainedOptions(PredictOptions):
    """What methods that learn from labelled photos share."""

    prompts: str = option(
        "plain", "Class prompts of the text side, as in flip zeroshot.", completes=(*names.PROMPTS, names.AUTO_PROMPTS)
    )
    shots: str | None = option(
        None, "Training photos per class, such as 1,2,4,8,16,all: repeat the method for each, over several draws."
    )
    seeds: int = option(5, "Draws for each number of --shots.")
    augmented: Path | None = option(
        None, "Folder of generated images, as flip augment writes; they join training only."
    )
    augmented_weight: float = option(1.0, "How much a generated image counts beside a photo.")

    def __post_init__(self) -> None:
        super().__post_init__()
        parse_shots(self.shots)
        at_least("--seeds", self.seeds, 1)
        if self.augmented_weight < 0:
            raise ConfigError(f"--augmented-weight {self.augmented_weight:g} is negative; pass 0 or more")


def require_picture_name(plot: Path | None) -> None:
    """Raise a ConfigError unless ``--plot`` names a file that curves can be drawn into."""
    if plot is not None and plot.suffix not in SUFFIXES:
        raise ConfigError(f"--plot {plot} is no picture file; pass a name that ends in .png, .svg or .pdf")
