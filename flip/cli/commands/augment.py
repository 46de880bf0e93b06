"""``flip augment``."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from flip.cli.context import data_name, implied_model, note, open_data, open_extractor, progress, read_features
from flip.cli.drawing import Rows, draw_settings, note_cut_prompts, open_checkpoint, open_painter
from flip.cli.options import command
from flip.config import AugmentConfig, ReadConfig, parse_filter, worker_count
from flip.errors import DataError, ModelError

if TYPE_CHECKING:
    from flip.data.dataset import Dataset
    from flip.diffusion.augment import Slot, Tally
    from flip.diffusion.judge import ClipFilter, Judge, Verdict
    from flip.diffusion.painter import Painter

COLUMNS = ("path", "label", "clip_similarity", "prompt")


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "augment", AugmentConfig)(augment)


def augment(config: AugmentConfig) -> None:
    """Draw a labelled, balanced training set for a dataset, and keep the pictures that are worth training on.

    Prompts and photos come from the training split only. flip hybrid, knn and finetune take the folder as --augmented.
    --study measures whether such pictures help: at several numbers of photos, against as many views of the same photos.
    """
    if config.study:
        from flip.cli.commands.augment_study import study

        study(config)
        return
    from flip.device import place
    from flip.diffusion import augment as augmenting
    from flip.diffusion.texts import drawing_prompts

    dataset = open_data(config)
    if dataset.embeddings is not None:
        raise DataError(f"{data_name(config)} is a table of embeddings; pass --data with the photos")
    train = dataset.select("train")
    prompts = drawing_prompts(train, config.prompts)
    clip, filter_name = open_filter(config, train)
    placement = place(config.device)
    loaded = open_checkpoint(config)
    settings = draw_settings(config, config.strength)
    painter = open_painter(config, loaded, settings, placement)
    note_cut_prompts(config, painter, [text for texts in prompts for text in texts])
    judge = open_judge(config, dataset, clip, painter)
    folder = config.output or Path("augmented")
    how = augmenting.decides(
        train, settings, fingerprint=loaded.fingerprint, seed=config.seed, prompts=prompts, filter=filter_name
    )
    if placement.is_main:
        augmenting.begin(folder, how, overwrite=config.overwrite)
    placement.wait_for_everyone()
    slots = augmenting.plan_slots(
        train, prompts, config.per_class, seed=config.seed, from_photos=config.strength is not None
    )
    mine = [slots[i] for i in placement.share(len(slots))]
    about = {"ckpt": loaded.name, "fingerprint": loaded.fingerprint, "filter": filter_name}
    _fill(config, painter, judge, mine, folder, about, placement.process_count)
    placement.wait_for_everyone()
    if placement.is_main:
        report(config, augmenting.finish(folder, slots, how), folder)


def open_filter(config: AugmentConfig, train: Dataset) -> tuple[ClipFilter | None, str]:
    """Return the filter and its name; ``auto`` goes on without one, and says so, where there are no CLIP weights."""
    from flip.diffusion.judge import ClipFilter

    quantile = parse_filter(config.filter)
    if quantile is None:
        return None, "none"
    reading = ReadConfig(
        model=config.model or implied_model(config),
        device=config.device,
        cache=config.cache,
        workers=config.workers,
        quiet=config.quiet,
        verbose=config.verbose,
    )
    try:
        extractor = open_extractor(reading)
    except ModelError as e:
        if config.filter != "auto" or config.model is not None:
            raise
        note(config, f"pictures are not filtered: {e}")
        return None, "none"
    photos = read_features(reading, train, extractor)
    return ClipFilter(extractor, photos, quantile), f"clip:{quantile:g} {extractor.model.fingerprint}"


def open_judge(config: AugmentConfig, dataset: Dataset, clip: ClipFilter | None, painter: Painter) -> Judge:
    """Return what decides which drawings are kept; it looks for copies of all photos."""
    from flip.diffusion.copies import PhotoHashes
    from flip.diffusion.judge import Judge

    def hashes(testing: bool) -> PhotoHashes:
        photos = [dataset.file(r) for r in dataset.records if (r.split == "test") == testing]
        with progress(config, "looking at photos", len(photos)) as advance:
            return PhotoHashes(photos, painter.size, workers=worker_count(config.workers), progress=advance)

    return Judge(clip, hashes(False), hashes(True))


def _fill(
    config: AugmentConfig,
    painter: Painter,
    judge: Judge,
    slots: list[Slot],
    folder: Path,
    about: dict[str, Any],
    processes: int,
) -> None:
    from flip.diffusion.augment import augment as fill_slots
    from flip.diffusion.pictures import read_about

    rows = Rows(config, COLUMNS, processes=processes)
    lock = threading.Lock()
    with progress(config, "pictures", len(slots)) as advance:

        def write(slot: Slot, drawn: bool) -> None:
            prompt, details = read_about(folder / slot.file)
            own = {name: details.get(name) for name in ("seed", "source", "clip_similarity", "near_test")}
            rows.write(
                {"path": str(folder / slot.file), "label": slot.classname, "prompt": prompt, **own, "drawn": drawn}
            )
            if advance:
                advance(1)

        def done(slot: Slot, verdict: Verdict, kept: bool) -> None:
            if kept:
                with lock:
                    write(slot, True)

        for slot in slots:
            if (folder / slot.file).is_file():
                write(slot, False)
        fill_slots(painter, judge, slots, folder, about, done, draws=config.draws)
    rows.close()


def report(config: AugmentConfig, tally: Tally, folder: Path) -> None:
    """Say what was kept, what was dropped and why, and which classes are short."""
    from flip.diffusion.augment import describe_drops

    note(
        config,
        f"{folder}: {tally.kept} of {tally.wanted} pictures after {tally.drawn} drawings ({describe_drops(tally)})",
    )
    if tally.short:
        most = sorted(tally.short.items(), key=lambda item: -item[1])
        named = ", ".join(f"{name} {n}" for name, n in most[:5]) + (" …" if len(most) > 5 else "")
        note(config, f"{len(tally.short)} classes are short after {config.draws} draws for each picture: {named}")
    if tally.near_test:
        first = tally.near_test[0]
        note(
            config,
            f"{len(tally.near_test)} pictures are near copies of test photos, the first {first['file']} of "
            f"{first['photo']}; all are named in augment.json",
        )
