"""One frozen dataclass a command, with every default. The command line reads its options and defaults from here."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from flip.errors import ConfigError

DEFAULT_MODEL = "ViT-B-32/openai"
DEFAULT_TEMPERATURE = 0.07

#: The k values that ``-k auto`` chooses from, each used when there are enough training photos.
AUTO_K = (*range(1, 21), 25, 30, 40, 50, 75, 100)


def option(default: Any, help: str, **more: Any) -> Any:
    """Return a dataclass field with the one sentence that ``--help`` and the reference print for it."""
    return field(default=default, metadata={"help": help, **more})


@dataclass(frozen=True, kw_only=True)
class OutputConfig:
    """Where results go."""

    format: Literal["table", "json", "jsonl", "csv"] | None = option(
        None,
        "How results are written; table on a terminal, otherwise json for an evaluation and jsonl for predictions.",
    )
    output: Path | None = option(None, "Write the result to this file instead of stdout.")
    quiet: bool = option(False, "No notes and no progress bars on stderr.")
    verbose: bool = option(False, "Also print how each step went on stderr.")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Which model, where it runs, and where its embeddings are kept."""

    model: str | None = option(
        None,
        f"ARCH/TAG of open_clip, hf-hub:ORG/NAME, or a folder with open_clip_config.json. [default: {DEFAULT_MODEL}]",
        envvar="FLIP_MODEL",
    )
    device: Literal["auto", "cpu", "cuda", "mps"] = option("auto", "Where the network runs.")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = option(
        "auto", "Number format of the image network; auto takes bf16 where the processor has it and it is faster."
    )
    batch_size: int = option(32, "Photos that go through the network together.")
    workers: int | None = option(None, "Threads that decode photos. [default: one a processor core]")
    cache: Path | None = option(
        None, "Folder of cached embeddings. [default: the platform's cache folder]", envvar="FLIP_CACHE"
    )

    def __post_init__(self) -> None:
        _at_least("--batch-size", self.batch_size, 1)
        if self.workers is not None:
            _at_least("--workers", self.workers, 1)


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which photos."""

    data: str | None = option(
        None, "Folder or manifest of labelled photos. [default: data/birds where it exists]", envvar="FLIP_DATA"
    )
    layout: Literal["cub", "split-folders", "images-folder", "class-folders", "manifest", "embeddings"] | None = option(
        None, "Read the data as this layout instead of the one recognised."
    )
    classnames: Path | None = option(None, "File that renames the classes: a name a line, or JSON old name → new name.")
    test_fraction: float = option(0.3, "Share of photos held out for testing where the layout has no split of its own.")

    def __post_init__(self) -> None:
        if not 0 < self.test_fraction < 1:
            raise ConfigError(f"--test-fraction {self.test_fraction} is outside (0, 1); pass for example 0.3")


@dataclass(frozen=True, kw_only=True)
class ViewConfig:
    """What of each photo the network sees."""

    crop: Literal["none", "boxes"] = option("none", "boxes: cut each photo to its bounding box before it is embedded.")
    tta: Literal["none", "flip"] = option("none", "flip: embed each photo as the mean of itself and its mirror image.")


@dataclass(frozen=True, kw_only=True)
class ReadConfig(ViewConfig, DataConfig, ModelConfig, OutputConfig):
    """What every command that reads photos shares."""

    seed: int = option(0, "Seed of everything random.")
    strict: bool = option(False, "Exit with 3 when some input was unreadable.")

    def __post_init__(self) -> None:
        DataConfig.__post_init__(self)
        ModelConfig.__post_init__(self)


@dataclass(frozen=True, kw_only=True)
class EmbedConfig(ReadConfig):
    """``flip embed``."""

    split: str = option("all", "Which split to embed: train, val, test or all.")
    output: Path | None = option(None, "Write the joined table (Parquet) into this folder.")
    captions: bool = option(False, "Also embed the captions now; otherwise the command that needs them does.")
    overwrite: bool = option(False, "Replace what the output folder holds.")


@dataclass(frozen=True, kw_only=True)
class PredictConfig(ReadConfig):
    """What every command that evaluates a split or predicts photos shares."""

    images: list[str] | None = option(
        None, "Photos to predict, or - for paths on stdin. Without any: evaluate --split."
    )
    null: bool = option(False, "Paths on stdin end in NUL, as find -print0 writes them.")
    split: str = option("test", "Which split to evaluate: train, val, test or all.")
    predictions: Path | None = option(
        None, "When evaluating: also write one row a photo to this file (.jsonl or .csv)."
    )
    run: Path | None = option(
        None, "When evaluating: save config, versions, data fingerprint, result and predictions in this new folder."
    )
    top: int = option(5, "How many labels a prediction row lists.")
    reject: float | None = option(None, "A prediction whose probability is below this gets no label.")

    def __post_init__(self) -> None:
        super().__post_init__()
        _at_least("--top", self.top, 1)
        if self.reject is not None and not 0 <= self.reject <= 1:
            raise ConfigError(f"--reject {self.reject} is not a probability; pass a number from 0 to 1")


@dataclass(frozen=True, kw_only=True)
class ZeroShotConfig(PredictConfig):
    """``flip zeroshot``."""

    prompts: str = option(
        "plain", "plain, paper, bird, clip, a template with {}, a text file of templates, or JSON class → sentences."
    )
    classes: Path | None = option(None, "File of class names, one a line; photos can then be predicted without --data.")


@dataclass(frozen=True, kw_only=True)
class KnnConfig(PredictConfig):
    """``flip knn``."""

    k: str = option("auto", "Neighbours that vote: a number, a range A:B, or auto; chosen by leave-one-out on train.")
    vote: Literal["uniform", "softmax"] = option("softmax", "How neighbours vote; softmax weighs them by similarity.")
    temperature: float = option(DEFAULT_TEMPERATURE, "Temperature of the softmax vote.")
    index: Literal["auto", "flat", "ivf", "hnsw"] = option(
        "auto", "How neighbours are found; flat is exact, and the recall of the others is measured and printed."
    )
    neighbors: bool = option(False, "List each photo's neighbours with path, label and similarity.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.temperature <= 0:
            raise ConfigError(
                f"--temperature {self.temperature} is not positive; pass for example {DEFAULT_TEMPERATURE}"
            )
        parse_k(self.k)


def parse_k(text: str) -> tuple[int, ...] | None:
    """Return the k values that ``-k`` names, or None for ``auto``.

    Raises
    ------
    ConfigError
        If the text is neither a positive number, a range ``A:B`` nor ``auto``.
    """
    if text == "auto":
        return None
    low, colon, high = text.partition(":")
    try:
        ks = tuple(range(int(low), int(high) + 1)) if colon else (int(low),)
    except ValueError:
        ks = ()
    if not ks or ks[0] < 1:
        raise ConfigError(f"-k {text!r} is not a number of neighbours; pass a number such as 5, a range 3:20, or auto")
    return ks


def default_data() -> str | None:
    """Return the data that is meant when ``--data`` is not given: ``data/birds`` where it exists."""
    return "data/birds" if Path("data/birds").is_dir() else None


def cache_folder(given: Path | None) -> Path:
    """Return the folder of cached embeddings: as given, else the platform's."""
    if given is not None:
        return given.expanduser()
    from platformdirs import user_cache_path

    return user_cache_path("flip")


def worker_count(given: int | None) -> int:
    """Return the number of decoding threads: as given, else one a core this process may use."""
    return (
        given
        if given is not None
        else len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else (os.cpu_count() or 1)
    )


def _at_least(flag: str, value: int, least: int) -> None:
    if value < least:
        raise ConfigError(f"{flag} {value} is too small; pass {least} or more")
