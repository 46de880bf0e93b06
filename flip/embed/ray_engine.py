"""Embedding by Ray: CPU tasks decode photos, actors hold a model each, and what comes back goes into the cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from flip.data.dataset import Dataset
from flip.device import has_siblings
from flip.embed.cache import EmbeddingCache
from flip.embed.extractor import FeatureExtractor
from flip.embed.keys import FileKey, Source
from flip.embed.ray_cluster import cluster, speaking_of_workers
from flip.embed.ray_workers import Load, Model, Recipe, decode, path_bytes
from flip.embed.rows import NewRow
from flip.embed.settings import EngineSettings
from flip.errors import ConfigError
from flip.mounts import Place
from flip.reading import place_of
from flip.settings import Progress

if TYPE_CHECKING:
    import pyarrow as pa

#: Times that a batch is given to another task after one died that decoded it: of some photo every task may die.
_RETRIES = 3

#: Memory that a task asks for to decode a batch.
_BATCH_BYTES = 256 << 20


def embed_ahead(
    dataset: Dataset,
    extractor: FeatureExtractor,
    load: Load,
    settings: EngineSettings,
    progress: Progress | None = None,
) -> int:
    """Embed by Ray what the cache does not know of a dataset; return how many photos.

    A worker that dies is started again, and its batch is given to another: a few times where it died decoding photos,
    else as often as it takes.
    Photos that fail for a reason that may pass are left to who asks the cache next. Where nothing is missing, Ray is
    not started.

    Parameters
    ----------
    dataset : Dataset
    extractor : FeatureExtractor
        Whose cache is filled.
    load : callable
        Returns the same model in another process.
    settings : EngineSettings
    progress : callable, optional
        Called with the number of photos that were just finished.

    Raises
    ------
    MissingDependencyError
        If Ray is not installed.
    ConfigError
        If the cluster cannot be reached or has too few CPUs, or several processes were launched.
    ModelError
        If a worker loads another model than this process, or fails.
    """
    if has_siblings():
        raise ConfigError("--engine ray starts its own workers; leave accelerate launch out")
    with extractor.open_cache() as cache:
        missing = extractor.missing(dataset, cache)
        if progress:
            progress(len(dataset) - len(missing))
        if not missing:
            return 0
        fixed = replace(extractor.settings, precision=extractor.precision)
        recipe = Recipe(load, extractor.model.fingerprint, fixed, extractor.is_fast)
        for batch in _run(missing, recipe, settings):
            _keep(batch, missing, cache)
            if progress:
                progress(len(batch))
    extractor.count_elsewhere(len(missing), "ray")
    return len(missing)


def _keep(batch: pa.Table, missing: Sequence[tuple[Source, FileKey]], cache: EmbeddingCache) -> None:
    """Add rows that workers made to the cache."""
    for row in batch.to_pylist():
        if not row["lasting"]:
            continue
        half = None if row["embedding"] is None else np.frombuffer(row["embedding"], np.float16)
        cache.add(NewRow(missing[row["row"]][1], half, row["error"], row["content"], row["decoding"]))


def _run(missing: Sequence[tuple[Source, FileKey]], recipe: Recipe, settings: EngineSettings) -> Iterator[pa.Table]:
    """Yield the rows of photos as workers finish them, in any order."""
    size = recipe.settings.batch_size
    with cluster(settings, recipe.settings.device) as workers:
        data = workers.data
        # Enough blocks that every task has some, and none that holds more than a few batches.
        blocks = max(1, min(len(missing) // size, 50_000))
        table = data.from_arrow(_listing(missing)).repartition(blocks)
        decoded = table.map_batches(
            decode,
            fn_kwargs={"recipe": recipe},
            batch_size=size,
            batch_format="pyarrow",
            num_cpus=1,
            max_retries=_RETRIES,
            # Ray would let the actors decode too, if both asked for the same.
            memory=_BATCH_BYTES,
        )
        embedded = decoded.map_batches(
            Model,
            fn_constructor_kwargs={"recipe": recipe},
            batch_size=size,
            batch_format="pyarrow",
            compute=data.ActorPoolStrategy(size=workers.actors),
            num_cpus=1,
            num_gpus=workers.gpus_each,
        )
        with speaking_of_workers():
            yield from embedded.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=2)


def _listing(missing: Sequence[tuple[Source, FileKey]]) -> pa.Table:
    """Return the place of each photo, as any machine finds it."""
    import pyarrow as pa

    places = [_place(source, key) for source, key in missing]
    return pa.table(
        {
            "row": pa.array(range(len(missing)), pa.int64()),
            "name": pa.array([path_bytes(source.file) for source, _ in missing], pa.binary()),
            "file": pa.array([path_bytes(place.file) for place in places], pa.binary()),
            "start": pa.array([place.start for place in places], pa.int64()),
            "size": pa.array([place.size for place in places], pa.int64()),
            "box": pa.array([source.box for source, _ in missing], pa.list_(pa.float64())),
        }
    )


def _place(source: Source, key: FileKey) -> Place:
    try:
        return place_of(source.file)
    except OSError:
        # The worker says that it is gone.
        return Place(key.path.partition("#xywh=")[0], 0, key.size)
