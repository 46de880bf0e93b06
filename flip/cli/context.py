"""What a command works with: messages on stderr, progress bars, the data and the model that its options name."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, ClassVar, TextIO

import typer

from flip.cli.config import DataOptions, MessageOptions, ModelOptions, ReadOptions
from flip.device import has_siblings
from flip.errors import ConfigError, ModelError
from flip.names import AUTO_PROMPTS, DEFAULT_MODEL, SAMPLE, SAMPLE_DATA
from flip.settings import Progress, settings_from
from flip.shown import one_line

if TYPE_CHECKING:
    from rich.console import Console

    from flip.classify.zeroshot import ZeroShotClassifier
    from flip.clip.encoder import Encoder
    from flip.clip.prompts import ClassPrompts
    from flip.data.dataset import Dataset
    from flip.embed.extractor import FeatureExtractor
    from flip.features import Features

log = logging.getLogger("flip.cli")

#: Called with the items just finished, a text to show, and the total where it is known only now.
BarUpdate = Callable[[int, str, int | None], None]


class _AboveBars(logging.StreamHandler[TextIO]):
    """Writes on stderr; while a bar is shown, above it."""

    bars: ClassVar[list[Console]] = []

    def emit(self, record: logging.LogRecord) -> None:
        if self.bars:
            self.bars[-1].print(self.format(record), soft_wrap=True, markup=False, highlight=False)
        else:
            super().emit(record)


class _Shown(logging.Formatter):
    """One safe line of bounded length per message, whatever names are in it."""

    def format(self, record: logging.LogRecord) -> str:
        return one_line(record.getMessage())


@contextmanager
def messages(options: object) -> Iterator[None]:
    """Print the library's log on stderr, one line per message: notes, with ``-v`` also details, with ``-q`` errors."""
    quiet, verbose = getattr(options, "quiet", False), getattr(options, "verbose", False)
    logger = logging.getLogger("flip")
    handler = _AboveBars(sys.stderr)
    handler.setFormatter(_Shown())
    before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    logger.setLevel(logging.ERROR if quiet or not is_main_process() else logging.DEBUG if verbose else logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.level, logger.propagate = before
        logger.setLevel(before[0])


@contextmanager
def progress(options: MessageOptions, what: str, total: int | None) -> Iterator[Progress | None]:
    """Show a bar on stderr where that is a terminal; yields a callback for the number of finished items."""
    with bar(options, what, total) as update:
        yield None if update is None else lambda n: update(n, "", None)


@contextmanager
def bar(options: MessageOptions, what: str, total: int | None) -> Iterator[BarUpdate | None]:
    """Show a bar as :func:`progress` does, with a callback that takes more."""
    if options.quiet or not sys.stderr.isatty() or not is_main_process():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[now]}"))
    console = Console(stderr=True)
    with _above(console), Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as shown:
        task = shown.add_task(what, total=total, now="")

        def update(n: int, text: str, total: int | None) -> None:
            if total is not None and shown.tasks[task].total is None:
                # A resumed run begins in the middle, which says nothing of its speed.
                shown.reset(task, total=total, completed=n)
                n = 0
            speed = shown.tasks[task].speed
            shown.update(task, advance=n, now=f"{text} {speed:.1f}/s".strip() if speed else text)

        yield update


@contextmanager
def live_bar(options: MessageOptions, what: str) -> Iterator[Callable[[float, str], None] | None]:
    """Show a bar of a share from 0 to 1 with a text of the caller's, where stderr is a terminal."""
    if options.quiet or not sys.stderr.isatty() or not is_main_process():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    console = Console(stderr=True)
    columns = TextColumn(what), BarColumn(), TextColumn("{task.fields[now]}")
    with _above(console), Progress(*columns, console=console, transient=True) as shown:
        task = shown.add_task(what, total=1.0, now="")
        yield lambda share, text: shown.update(task, completed=share, now=text)


@contextmanager
def waiting(options: MessageOptions, what: str) -> Iterator[None]:
    """Show a bar that moves to and fro, with the time that has passed, where stderr is a terminal."""
    if options.quiet or not sys.stderr.isatty() or not is_main_process():
        yield
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = TextColumn(what), BarColumn(), TimeElapsedColumn()
    with _above(console), Progress(*columns, console=console, transient=True) as shown:
        shown.add_task(what, total=None)
        yield


@contextmanager
def _above(console: Console) -> Iterator[None]:
    """Print messages above a bar of this console while it is shown."""
    _AboveBars.bars.append(console)
    try:
        yield
    finally:
        _AboveBars.bars.pop()


@dataclass
class Context:
    """The data and the model of a command, each opened when it is first needed.

    Attributes
    ----------
    options : DataOptions
        A command's options; the model's are there where the command embeds photos.
    is_paired : bool
        Whether the model that is given was taken for the one that made a table which does not say.
    """

    options: DataOptions
    began: float = field(default_factory=time.perf_counter)
    is_paired: bool = False

    @cached_property
    def dataset(self) -> Dataset:
        """Open ``--data`` and say what was found."""
        from flip.data.open import open_dataset

        options = self.options
        if not self.data_name:
            raise typer.BadParameter(
                "no --data, no FLIP_DATA and no data/birds here; pass --data with a folder of labelled photos",
            )
        dataset = open_dataset(
            self.data_name,
            layout=options.layout,
            test_fraction=options.test_fraction,
            class_level=options.class_level,
            classnames=options.classnames,
            cache=getattr(options, "cache", None),
            embedding_column=options.embedding_column,
        )
        log.info("%s", dataset)
        return dataset

    @property
    def opened(self) -> Dataset | None:
        """The dataset, if it was opened; naming photos need not open it."""
        opened: Dataset | None = self.__dict__.get("dataset")
        return opened

    @property
    def data_name(self) -> str:
        """The data as results name it: ``--data``, else ``data/birds`` where it exists."""
        from flip.data.open import default_data

        return self.options.data or default_data() or ""

    @property
    def model_name(self) -> str:
        """The model that is meant: as given, else the one that made a table of embeddings, else the default.

        Of a table that does not say which model made it the model that is given counts once it was paired with it.
        """
        given = getattr(self.options, "model", None)
        if given and not self._is_unpaired:
            return str(given)
        if self.opened is not None and self.opened.embeddings is not None:
            from flip.embed.table import table_metadata

            return str(table_metadata(self.dataset)["model"])
        return implied_model(self.options) or DEFAULT_MODEL

    @cached_property
    def encoder(self) -> Encoder:
        """Open ``--model``; its network is loaded when the first photo or text has to be encoded."""
        if self._is_unpaired and not self.pair_model():
            given = getattr(self.options, "model", None)
            what = f"{given} makes embeddings of another width" if given else "its file does not say which that is"
            raise ModelError(f"{self.data_name} needs the model that made its embeddings, and {what}; pass --model")
        return self._load(self.model_name)

    def _load(self, name: str) -> Encoder:
        from flip.clip.model import load_model

        arch, cache = (getattr(self.options, name, None) for name in ("arch", "cache"))
        return load_model(name, arch=arch, cache=cache)

    @property
    def _is_unpaired(self) -> bool:
        """Whether the data is a table that does not say which model made it, and no model was taken for that one."""
        from flip.embed.table import is_of_unknown_model

        return not self.is_paired and self.opened is not None and is_of_unknown_model(self.opened)

    def pair_model(self) -> bool:
        """Take the model that is given for the one that made a table which does not say, and return whether it can be.

        Returns
        -------
        bool
            True also where the data says which model made it, or is photos.
        """
        from flip.embed.table import is_of_unknown_model, table_width

        given = getattr(self.options, "model", None)
        if self.is_paired or not is_of_unknown_model(self.dataset):
            return True
        self.is_paired = bool(given) and self._load(str(given)).dim == table_width(self.dataset)
        if self.is_paired:
            log.info("%s does not say which model made it; %s is taken for that one", self.data_name, given)
        return self.is_paired

    def require_model(self) -> None:
        """Raise a ModelError unless there is a model for more photos than the data's own."""
        _ = self.encoder

    def text_side(self, wanted: str) -> str:
        """Return the ``--text`` that can be had: "none" where nobody knows the model of the data's embeddings."""
        if wanted == "none" or self.pair_model():
            return wanted
        log.info("%s does not say which model made it, so there is no text side; --model names it", self.data_name)
        return "none"

    @cached_property
    def extractor(self) -> FeatureExtractor:
        """The model behind the cache."""
        from flip.embed.extractor import FeatureExtractor
        from flip.embed.settings import EmbedSettings

        assert isinstance(self.options, ModelOptions)
        extractor = FeatureExtractor(self.encoder, settings_from(self.options, EmbedSettings), self.options.cache)
        log.debug("model %s (%s), precision %s", self.encoder.name, self.encoder.fingerprint, extractor.precision)
        return extractor

    @property
    def used(self) -> dict[str, object]:
        """The device and the precision of the embeddings; empty where no model was needed."""
        extractor: FeatureExtractor | None = self.__dict__.get("extractor")
        return {} if extractor is None else {"device": extractor.device, "precision": extractor.precision}

    def zero_shot(self, prompts: ClassPrompts) -> ZeroShotClassifier:
        """Return the zero-shot classifier of these prompts."""
        from flip.embed.settings import EmbedSettings
        from flip.embed.texts import build_zero_shot_classifier

        if prompts.unmatched:
            named = ", ".join(prompts.unmatched[:5]) + (" …" if len(prompts.unmatched) > 5 else "")
            n = len(prompts.unmatched)
            log.info("%s says nothing of %d classes, which get the plain prompt: %s", prompts.source, n, named)
        device = getattr(self.options, "device", "auto")
        cache = getattr(self.options, "cache", None)
        return build_zero_shot_classifier(prompts, self.encoder, settings=EmbedSettings(device=device), cache=cache)

    def zero_shot_of_data(self, prompts: str) -> ZeroShotClassifier:
        """Return the zero-shot classifier of the data's classes, with prompts as ``--prompts`` takes them."""
        return self.zero_shot(self.prompts_of_data(prompts))

    def prompts_of_data(self, prompts: str) -> ClassPrompts:
        """Return the prompts of the data's classes; ``auto`` chooses them on the training photos.

        Raises
        ------
        ConfigError
            If ``auto`` is asked for with few-shot draws, which it would see beyond.
        """
        from flip.clip.prompts import candidate_prompts, data_prompts
        from flip.embed.texts import choose_prompts

        if prompts != AUTO_PROMPTS:
            return data_prompts(prompts, self.dataset)
        if getattr(self.options, "shots", None):
            raise ConfigError(
                "--prompts auto chooses on all training photos, and --shots learns from a few; pass for example "
                "--prompts plain"
            )
        train = self.features(self.dataset.select("train")).require_readable("train")
        return choose_prompts(candidate_prompts(self.dataset), self.extractor, train)

    @property
    def model_fingerprint(self) -> str:
        """The fingerprint of the features; that of a table's own model where no other is asked for."""
        if self.needs_no_model and "encoder" not in self.__dict__:
            from flip.embed.table import table_metadata

            return str(table_metadata(self.dataset)["fingerprint"])
        return self.encoder.fingerprint

    @property
    def features_precision(self) -> str:
        """The number format that the features are made in; that of a table's own where they are read from one."""
        if not getattr(self.options, "images", None) and self.dataset.embeddings is not None:
            from flip.embed.table import table_metadata

            return str(table_metadata(self.dataset).get("precision", ""))
        return self.extractor.precision

    @property
    def needs_no_model(self) -> bool:
        """Whether the data is a table of embeddings and no other model is asked for."""
        if getattr(self.options, "model", None) and not self._is_unpaired:
            return False
        return self.dataset.embeddings is not None

    def features(self, dataset: Dataset, *, with_model: bool = True) -> Features:
        """Return the features of a dataset, with a bar; without a model those of its table."""
        from flip.studies.training_data import read_features

        assert isinstance(self.options, ReadOptions)
        with progress(self.options, "photos", len(dataset)) as advance:
            return read_features(dataset, self.extractor if with_model else None, advance)

    @property
    def is_main(self) -> bool:
        """Whether this process prints and writes results."""
        return is_main_process()


def implied_model(options: object) -> str | None:
    """Return the model that goes with the data when none is given: drawn birds bring their own."""
    return SAMPLE if getattr(options, "data", None) in SAMPLE_DATA else None


def is_main_process() -> bool:
    """Return whether this is the first of the processes that ``accelerate launch`` started."""
    return not has_siblings() or os.environ.get("RANK", "0") == "0"


def stdin() -> BinaryIO:
    """Return stdin as bytes.

    Raises
    ------
    ConfigError
        If it is closed.
    """
    if sys.stdin is None:
        raise ConfigError("- stands for stdin, which is closed; pipe something into flip")
    return sys.stdin.buffer


def input_paths(images: list[str], *, null: bool) -> Iterator[str]:
    """Yield the paths given as arguments, and those on stdin where ``-`` stands, as they arrive.

    A folder stands for the photos in it and below it.
    """
    from flip.data.text import path_lines

    for given in images:
        for path in path_lines(stdin(), null=null) if given == "-" else (given,):
            yield from _photos_of(path)


def is_there(path: str) -> bool:
    """Return whether something lies at a path."""
    try:
        return Path(path).exists()
    except (OSError, ValueError):
        return False


def _photos_of(path: str) -> Iterator[str]:
    folder = Path(path)
    try:
        is_folder = folder.is_dir()
    except (OSError, ValueError):
        is_folder = False
    if not is_folder:
        yield path
        return
    from flip.data.photo_folders import photos_below

    yield from (str(folder / below) for below in photos_below(folder))


def finish(options: ReadOptions, unreadable: int) -> None:
    """End with exit code 3 when ``--strict`` and some input was unreadable."""
    if options.strict and unreadable:
        log.error("%d inputs were unreadable; exit code 3 because of --strict", unreadable)
        raise typer.Exit(3)
