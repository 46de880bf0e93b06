"""One frozen dataclass a command, with every default. The command line reads its options and defaults from here."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from flip.errors import ConfigError

DEFAULT_MODEL = "ViT-B-32/openai"

#: The embedded field guide, as ``--data`` calls it; ``--model`` and ``--ckpt`` use the first word too.
SAMPLE = "sample"
SAMPLE_DATA = (SAMPLE, "sample-train")
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
        "ARCH/TAG of open_clip, hf-hub:ORG/NAME, a folder with open_clip_config.json, or sample. "
        f"[default: {DEFAULT_MODEL}]",
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
        None,
        "Folder or manifest of labelled photos, or sample for drawn birds. [default: data/birds where it exists]",
        envvar="FLIP_DATA",
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
class TrainedConfig(PredictConfig):
    """What methods that learn from labelled photos share."""

    prompts: str = option("plain", "Class prompts of the text side, as in flip zeroshot.")
    shots: str | None = option(
        None, "Training photos a class, such as 1,2,4,8,16,all: repeat the method for each, over several draws."
    )
    seeds: int = option(5, "Draws for each number of --shots.")
    augmented: Path | None = option(
        None, "Folder of generated photos, as flip augment writes; they join training only."
    )
    augmented_weight: float = option(1.0, "How much a generated photo counts beside a real one.")
    plot: Path | None = option(
        None, "Draw the few-shot curve, or calibration and coverage, into this .png, .svg or .pdf file."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        parse_shots(self.shots)
        _at_least("--seeds", self.seeds, 1)
        if self.augmented_weight < 0:
            raise ConfigError(f"--augmented-weight {self.augmented_weight} is negative; pass 0 or more")
        require_picture_name(self.plot)


@dataclass(frozen=True, kw_only=True)
class HybridConfig(TrainedConfig):
    """``flip hybrid``."""

    head: Literal["auto", "mlp", "linear", "svm-linear", "svm-rbf", "gda", "tip", "ensemble"] = option(
        "auto", "What is fitted on the features; auto chooses by cross-validation on the training photos."
    )
    text: Literal["none", "prompts", "captions"] = option(
        "prompts", "Text beside the photo: none, class prompts, or each photo's own captions (at test time too)."
    )
    save: Path | None = option(None, "Save the fitted head in this folder.")
    load: Path | None = option(None, "Use the head saved in this folder instead of fitting one.")
    overwrite: bool = option(False, "Replace what the --save folder holds.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.load and (self.save or self.shots or self.augmented):
            raise ConfigError("--load takes a fitted head; leave out --save, --shots and --augmented, which fit one")
        if self.shots and self.save:
            raise ConfigError("--shots fits many heads; leave out --save, or fit one without --shots")


@dataclass(frozen=True, kw_only=True)
class KnnConfig(TrainedConfig):
    """``flip knn``."""

    k: str = option("auto", "Neighbours that vote: a number, a range A:B, or auto; chosen by leave-one-out on train.")
    vote: Literal["uniform", "softmax"] = option("softmax", "How neighbours vote; softmax weighs them by similarity.")
    temperature: float = option(DEFAULT_TEMPERATURE, "Temperature of the softmax vote.")
    index: Literal["auto", "flat", "ivf", "hnsw"] = option(
        "auto", "How neighbours are found; flat is exact, and the recall of the others is measured and printed."
    )
    neighbors: bool = option(False, "List each photo's neighbours with path, label and similarity.")
    text: Literal["none", "prompts"] = option(
        "none", "prompts: average the vote with zero-shot probabilities; the share is chosen by leave-one-out on train."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.temperature <= 0:
            raise ConfigError(
                f"--temperature {self.temperature} is not positive; pass for example {DEFAULT_TEMPERATURE}"
            )
        parse_k(self.k)


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig(ReadConfig):
    """``flip finetune``."""

    target: Literal["clip", "diffusion"] = option("clip", "Which kind of model is trained.")
    output: Path | None = option(None, "Folder for the fine-tuned model, its metrics and its checkpoints.")
    resume: bool = option(False, "Go on where the run in the output folder was stopped.")
    overwrite: bool = option(False, "Replace what the output folder holds.")
    epochs: int = option(10, "How often the training photos are gone through.")
    batch_size: int = option(64, "Photos that go through the network together.")
    grad_accum: int = option(1, "Batches gathered for one step; the loss compares all of their photos.")
    grad_checkpointing: bool = option(False, "Compute activations again in the backward pass: less memory, more time.")
    lr: float | None = option(
        None, "Peak learning rate. [default: 1e-5 for a transformer tower, 3e-4 for a convolutional one]"
    )
    warmup: float = option(0.1, "Share of the steps in which the learning rate rises.")
    weight_decay: float = option(0.05, "Weight decay of matrices; other parameters have none.")
    clip_grad: float = option(1.0, "Largest norm of the gradient.")
    save_every: int = option(50, "Steps between two checkpoints that --resume goes on from.")
    train: Literal["full", "image", "text", "projection"] = option(
        "full", "What is trained: both towers, one, or the last layers."
    )
    lora: int | None = option(None, "Train low-rank additions of this rank instead of the weights; merged when saved.")
    prompts: str = option("plain", "Prompts of the classes, as in flip zeroshot.")
    caption_share: float = option(
        0.5, "How often a photo that has captions is paired with one rather than with its class prompt."
    )
    val_fraction: float = option(
        0.1, "Share of each class's training photos that choose the epoch, without a val split."
    )
    patience: int = option(5, "Stop after this many epochs without a better one; 0 never stops early.")
    keep: float = option(
        0.0, "Weight of the distance between image features now and before: more forgets less and learns less."
    )
    wise: str | None = option(
        None, "Weight from 0 (before) to 1 (after) of the fine-tuned model in the average that is saved, or sweep."
    )
    holdout_classes: int = option(0, "Leave the last N classes out of training, and measure what is forgotten on them.")
    retain: str | None = option(None, "Other data whose zero-shot is measured before and after.")
    no_scores: bool = option(False, "Do not score the test photos before and after.")
    augmented: Path | None = option(None, "Folder of more photos of the same classes, which join training only.")
    augmented_weight: float = option(0.1, "Share of each batch that is drawn from --augmented.")
    from_scratch: Path | None = option(
        None,
        "Configuration (JSON) to train from random weights: of open_clip, of a diffusion model's parts, or sample.",
    )

    ckpt: str | None = option(
        None,
        "Diffusion only: the model to train; a .ckpt or .safetensors file, a diffusers folder, ORG/NAME, or sample.",
    )
    base: str | None = option(None, "Diffusion only: the diffusers folder with what a .ckpt lacks.")
    no_ema: bool = option(False, "Diffusion only: take the plain weights of a .ckpt that also has averaged ones.")
    size: str | None = option(None, "Diffusion only: pixels a side. [default: the model's own]")
    caption_dropout: float = option(0.1, "Diffusion only: how often a photo goes with no text, which guidance needs.")
    ema: float = option(0.9999, "Diffusion only: largest decay of the averaged weights that are saved; 0 keeps none.")
    snr_gamma: float = option(5.0, "Diffusion only: min-SNR weighting of the noise levels; 0 weighs all the same.")
    views: int = option(4, "Diffusion only: random cuts of each photo that are encoded beforehand.")
    sample_every: int = option(0, "Diffusion only: steps between two sheets of samples; 0 draws none.")

    def __post_init__(self) -> None:
        super().__post_init__()
        for flag, value in (
            ("--epochs", self.epochs),
            ("--grad-accum", self.grad_accum),
            ("--save-every", self.save_every),
        ):
            _at_least(flag, value, 1)
        for flag, value in (("--holdout-classes", self.holdout_classes), ("--patience", self.patience)):
            _at_least(flag, value, 0)
        if self.lora is not None:
            _at_least("--lora", self.lora, 1)
        _in_range("--warmup", self.warmup, 0, 1, "0.1")
        _in_range("--val-fraction", self.val_fraction, 0, 0.5, "0.1")
        _in_range("--caption-share", self.caption_share, 0, 1, "0.5")
        _in_range("--augmented-weight", self.augmented_weight, 0, 1, "0.1")
        if self.lr is not None and self.lr <= 0:
            raise ConfigError(f"--lr {self.lr:g} is not positive; pass for example 1e-5")
        if self.clip_grad <= 0:
            raise ConfigError(f"--clip-grad {self.clip_grad:g} is not positive; pass for example 1")
        if self.keep < 0:
            raise ConfigError(f"--keep {self.keep:g} is negative; pass for example 1, or 0 for no such term")
        parse_wise(self.wise)
        _in_range("--caption-dropout", self.caption_dropout, 0, 1, "0.1")
        _in_range("--ema", self.ema, 0, 1, "0.9999")
        _at_least("--views", self.views, 1)
        _at_least("--sample-every", self.sample_every, 0)
        if self.snr_gamma < 0:
            raise ConfigError(f"--snr-gamma {self.snr_gamma:g} is negative; pass for example 5, or 0 for no weighting")
        size = parse_size(self.size)
        if size is not None and size[0] != size[1]:
            raise ConfigError(
                f"--size {self.size!r} is no square; photos are cut to squares for training: pass one number"
            )


@dataclass(frozen=True, kw_only=True)
class DrawConfig(OutputConfig):
    """What every command that draws pictures shares."""

    ckpt: str | None = option(
        None, "A .ckpt or .safetensors file, a diffusers folder, a LoRA file with --base, ORG/NAME, or sample."
    )
    base: str | None = option(
        None, "The model a LoRA file changes; for a .ckpt the diffusers folder with what it lacks."
    )
    no_ema: bool = option(False, "Take the plain weights of a .ckpt that also has averaged ones.")
    sampler: Literal["ddim", "dpm++", "euler"] = option("dpm++", "How noise is turned into a picture.")
    steps: int = option(25, "Denoising steps of each picture.")
    guidance: float = option(7.5, "How strongly a picture follows its prompt; 1 and below switches guidance off.")
    size: str | None = option(None, "Pixels a side, or WIDTHxHEIGHT. [default: the model's own]")
    negative: str = option("", "What the pictures should not show.")
    batch_size: int = option(4, "Pictures drawn together; halved when memory does not suffice.")
    seed: int = option(0, "Seed from which each picture's own seed is derived.")
    device: Literal["auto", "cpu", "cuda", "mps"] = option("auto", "Where the network runs.")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = option(
        "auto", "Number format; auto is bf16 on a GPU that has it."
    )
    cache: Path | None = option(
        None, "Folder of what is kept between runs. [default: the platform's cache folder]", envvar="FLIP_CACHE"
    )
    overwrite: bool = option(False, "Write into the output folder although it holds other work, and draw all anew.")

    def __post_init__(self) -> None:
        _at_least("--steps", self.steps, 1)
        _at_least("--batch-size", self.batch_size, 1)
        parse_size(self.size)


def parse_size(text: str | None) -> tuple[int, int] | None:
    """Return (width, height) in pixels, or None for the model's own.

    Raises
    ------
    ConfigError
        If the text is neither ``512`` nor ``512x768``, or a side is no positive multiple of 8.
    """
    if text is None:
        return None
    width, x, height = text.lower().partition("x")
    sides = [side for side in (width, height if x else width) if side.isdecimal()]
    if len(sides) != 2 or not all(int(side) > 0 and int(side) % 8 == 0 for side in sides):
        raise ConfigError(f"--size {text!r} is no size; pass 512 or 512x768, in multiples of 8")
    return int(sides[0]), int(sides[1])


@dataclass(frozen=True, kw_only=True)
class GenerateConfig(DrawConfig):
    """``flip generate``."""

    prompt: list[str] | None = option(None, "What to draw, or - for prompts on stdin, one a line.")
    file: Path | None = option(None, "Text file of more prompts, one a line.")
    n: int = option(1, "Pictures of each prompt.")
    output: Path | None = option(None, "Folder of the pictures. [default: generated]")
    grid: Path | None = option(None, "Also write all pictures into this one, a row a prompt.")
    save_as: Path | None = option(None, "Write the model as a diffusers folder; without prompts do nothing else.")

    def __post_init__(self) -> None:
        super().__post_init__()
        _at_least("-n", self.n, 1)


@dataclass(frozen=True, kw_only=True)
class AugmentConfig(DrawConfig, DataConfig):
    """``flip augment``."""

    output: Path | None = option(
        None, "Folder of the synthetic training set, or of the study. [default: augmented, or study]"
    )
    per_class: int = option(20, "Pictures of each class.")
    strength: float | None = option(
        None,
        "Begin each picture from a training photo of its class with this share of noise, 0 to 1. [default: from noise]",
    )
    prompts: str = option(
        "auto",
        "auto (class name and caption where there are captions), captions, or class prompts as in flip zeroshot.",
    )
    filter: str = option(
        "auto",
        "clip:Q keeps a picture whose CLIP label is its class and whose similarity reaches the quantile Q of real "
        "photos; none keeps all; auto is clip:0.1 where the CLIP model is at hand.",
    )
    guidance: float = option(5.0, "How strongly a picture follows its prompt; 1 and below switches guidance off.")
    model: str | None = option(
        None, f"CLIP model of the filter and the study. [default: {DEFAULT_MODEL}]", envvar="FLIP_MODEL"
    )
    workers: int | None = option(None, "Threads that decode photos. [default: one a processor core]")
    draws: int = option(5, "Most drawings for each picture wanted.")

    study: bool = option(
        False, "Measure whether pictures help instead: heads with and without them, and with real views of the photos."
    )
    shots: str = option("1,5,10,all", "Study only: training photos a class.")
    seeds: int = option(3, "Study only: draws for each number of --shots.")
    weights: str = option("0.1,0.3,1", "Study only: how much an extra picture counts beside a photo.")
    per_photo: int = option(2, "Study only: extra pictures of each training photo, as many of each kind.")
    head: Literal["auto", "mlp", "linear", "svm-linear", "svm-rbf", "gda", "tip", "ensemble"] = option(
        "linear", "Study only: what is fitted on the photos' features."
    )
    plot: Path | None = option(
        None, "Study only: draw the curves into this .png, .svg or .pdf file. [default: study.svg in the folder]"
    )

    def __post_init__(self) -> None:
        DrawConfig.__post_init__(self)
        DataConfig.__post_init__(self)
        for flag, number in (("--per-class", self.per_class), ("--draws", self.draws), ("--seeds", self.seeds)):
            _at_least(flag, number, 1)
        _at_least("--per-photo", self.per_photo, 1)
        strength = self.from_photos
        if strength is not None and not 0 < strength <= 1:
            raise ConfigError(f"--strength {strength:g} is outside (0, 1]; pass for example 0.7")
        if strength is not None and int(self.steps * strength) < 1:
            raise ConfigError(
                f"--strength {strength:g} takes that share of --steps {self.steps}, and leaves none; raise either"
            )
        parse_filter(self.filter)
        parse_shots(self.shots)
        parse_weights(self.weights)
        require_picture_name(self.plot)
        self._require_own_options()

    @property
    def from_photos(self) -> float | None:
        """Share of noise over a source photo; a study draws from photos too, and needs one."""
        return 0.7 if self.study and self.strength is None else self.strength

    def _require_own_options(self) -> None:
        """A study draws for each photo and judges nothing; without it nothing is fitted."""
        study = ("shots", "seeds", "weights", "per_photo", "head", "plot")
        for name in ("per_class", "draws", "filter") if self.study else study:
            if getattr(self, name) == getattr(AugmentConfig, name):
                continue
            flag = "--" + name.replace("_", "-")
            if not self.study:
                raise ConfigError(f"{flag} belongs to a study; pass --study with it, or leave it out")
            if getattr(self, name) != "none":
                raise ConfigError(f"--study takes no {flag}: it keeps --per-photo pictures of each photo; leave it out")


def parse_weights(text: str) -> tuple[float, ...]:
    """Return the numbers that ``--weights`` names.

    Raises
    ------
    ConfigError
        If one is no positive number.
    """
    weights = []
    for item in text.split(","):
        try:
            weight = float(item)
        except ValueError:
            weight = math.nan
        if not 0 < weight < math.inf:
            raise ConfigError(f"--weights {text!r}: {item.strip()!r} is no positive number; pass for example 0.1,0.3,1")
        weights.append(weight)
    return tuple(dict.fromkeys(weights))


def require_picture_name(plot: Path | None) -> None:
    """Raise a ConfigError unless ``--plot`` names a file that curves can be drawn into."""
    if plot is not None and plot.suffix not in (".png", ".svg", ".pdf"):
        raise ConfigError(f"--plot {plot} is no picture file; pass a name that ends in .png, .svg or .pdf")


@dataclass(frozen=True, kw_only=True)
class DemoConfig(OutputConfig):
    """``flip demo``."""

    output: Path | None = option(None, "Folder of results, pictures and models. [default: flip-demo]")
    seed: int = option(0, "Seed of everything random.")
    device: Literal["auto", "cpu", "cuda", "mps"] = option("auto", "Where the networks run.")
    workers: int | None = option(None, "Threads that decode photos. [default: one a processor core]")
    cache: Path | None = option(
        None, "Folder of what is kept between runs. [default: the platform's cache folder]", envvar="FLIP_CACHE"
    )
    overwrite: bool = option(False, "Replace what an earlier demo left in the folder.")


def parse_filter(text: str) -> float | None:
    """Return the quantile of ``clip:Q``, that of ``auto``, or None for ``none``.

    Raises
    ------
    ConfigError
        If the text is none of these.
    """
    if text == "none":
        return None
    kind, _, number = ("clip:0.1" if text == "auto" else text).partition(":")
    try:
        quantile = float(number)
    except ValueError:
        quantile = -1.0
    if kind != "clip" or not 0 <= quantile < 1:
        raise ConfigError(
            f"--filter {text!r} is unknown; pass clip:Q with Q from 0 to 1, such as clip:0.1, auto, or none"
        )
    return quantile


def parse_wise(text: str | None) -> float | None:
    """Return the weight that ``--wise`` names, or None for ``sweep`` and for none.

    Raises
    ------
    ConfigError
        If the text is neither a number from 0 to 1 nor ``sweep``.
    """
    if text is None or text == "sweep":
        return None
    try:
        weight = float(text)
    except ValueError:
        weight = -1.0
    if not 0 <= weight <= 1:
        raise ConfigError(f"--wise {text!r} is not a weight; pass a number from 0 to 1, or sweep")
    return weight


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


def parse_shots(text: str | None) -> tuple[int | None, ...]:
    """Return the numbers of training photos a class that ``--shots`` names, None for ``all``; () without ``--shots``.

    Raises
    ------
    ConfigError
        If an item is neither a positive number nor ``all``.
    """
    if text is None:
        return ()
    shots: list[int | None] = []
    for item in text.split(","):
        item = item.strip()
        if item != "all" and not (item.isdigit() and int(item) > 0):
            raise ConfigError(f"--shots {text!r}: {item!r} is no number of photos; pass for example 1,2,4,8,16,all")
        shots.append(None if item == "all" else int(item))
    return tuple(shots)


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


def _in_range(flag: str, value: float, low: float, high: float, example: str) -> None:
    if not low <= value <= high:
        raise ConfigError(f"{flag} {value:g} is outside {low:g} to {high:g}; pass for example {example}")


def _at_least(flag: str, value: int, least: int) -> None:
    if value < least:
        raise ConfigError(f"{flag} {value} is too small; pass {least} or more")
