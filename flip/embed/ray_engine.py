"""Embedding by Ray: CPU tasks decode photos, actors hold a model each, and what comes back goes into the cache."""

from __future__ import annotations

import logging
import os
import re
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from flip import errors
from flip.data.dataset import Dataset
from flip.device import cpu_count, has_siblings
from flip.embed.cache import EmbeddingCache
from flip.embed.extractor import FeatureExtractor
from flip.embed.keys import FileKey, Source
from flip.embed.ray_workers import Load, Model, Recipe, decode, path_bytes
from flip.embed.rows import NewRow
from flip.embed.settings import EngineSettings
from flip.errors import ConfigError, FlipError, MissingDependencyError, ModelError, reason_of
from flip.mounts import Place
from flip.reading import place_of
from flip.settings import Progress

if TYPE_CHECKING:
    import pyarrow as pa

log = logging.getLogger(__name__)

#: An error of flip's own in the traceback of a worker.
_OURS = re.compile(r"flip\.errors\.(\w+): (.+)")

#: Seconds to wait for a cluster to answer.
_PATIENCE = 10.0

#: Memory that a task asks for to decode a batch.
_BATCH_BYTES = 256 << 20

#: Memory of the local object store: a few batches of decoded photos.
_STORE_BYTES = 1 << 30


def embed_ahead(
    dataset: Dataset,
    extractor: FeatureExtractor,
    load: Load,
    settings: EngineSettings,
    progress: Progress | None = None,
) -> int:
    """Embed by Ray what the cache does not know of a dataset; return how many photos.

    A worker that dies is started again, and its batch is given to another, as often as it takes.
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
        raise ConfigError("--engine ray starts its own workers; start flip without accelerate launch")
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
    ray = _ray()
    size = recipe.settings.batch_size
    with _cluster(settings) as workers:
        # Enough blocks that every task has some, and none that holds more than a few batches.
        blocks = max(1, min(len(missing) // size, 50_000))
        table = ray.data.from_arrow(_listing(missing)).repartition(blocks)
        decoded = table.map_batches(
            decode,
            fn_kwargs={"recipe": recipe},
            batch_size=size,
            batch_format="pyarrow",
            num_cpus=1,
            # Ray would let the actors decode too, if both asked for the same.
            memory=_BATCH_BYTES,
        )
        embedded = decoded.map_batches(
            Model,
            fn_constructor_kwargs={"recipe": recipe},
            batch_size=size,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=workers.actors),
            num_cpus=1,
            num_gpus=workers.gpus_each,
        )
        with _speaking_of_workers():
            yield from embedded.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=2)


class _Workers(NamedTuple):
    actors: int
    gpus_each: int


def _ray() -> Any:
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise MissingDependencyError(f"--engine ray needs Ray ({error}); pip install 'flip-clip[ray]'") from error
    return ray


@contextmanager
def _cluster(settings: EngineSettings) -> Iterator[_Workers]:
    """Connect to the cluster, or start workers on this machine and end them afterwards."""
    ray = _ray()
    began = not ray.is_initialized()
    if began:
        _begin(ray, settings)
    try:
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        for handler in logging.getLogger("ray.data").handlers:
            # Stderr is flip's; what Ray logs is in its own files.
            if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler):
                handler.setLevel(logging.CRITICAL + 1)
        cpus, gpus = (int(ray.cluster_resources().get(kind, 0)) for kind in ("CPU", "GPU"))
        actors = settings.actors or gpus or max(1, cpus // 2)
        if not gpus and actors >= cpus:
            raise ConfigError(
                f"--actors {actors} leaves none of the cluster's {cpus} CPUs to decode photos; pass {cpus - 1} or fewer"
            )
        log.info("ray: %d models on %s", actors, f"{gpus} GPUs" if gpus else f"{cpus} CPUs")
        yield _Workers(actors, 1 if gpus else 0)
    finally:
        if began:
            ray.shutdown()


def _begin(ray: Any, settings: EngineSettings) -> None:
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    # Ray warns that actors can be started again, and says that it was told not to.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    try:
        _require_answer(settings.ray_address)
        if settings.ray_address is not None:
            with _without_stderr():
                ray.init(address=settings.ray_address, **quiet)
            return
        cpus = max(cpu_count(), (settings.actors or 1) + 1)
        with _without_stderr():
            ray.init(address="local", num_cpus=cpus, include_dashboard=False, object_store_memory=_STORE_BYTES, **quiet)
    except Exception as error:
        where = f"the cluster at {settings.ray_address}" if settings.ray_address else "Ray on this machine"
        raise ConfigError(f"{where} cannot be reached: {reason_of(error)}; check --ray-address") from error


@contextmanager
def _without_stderr() -> Iterator[None]:
    """Drop what this process writes to stderr inside of the block, by whatever library."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _require_answer(address: str | None) -> None:
    """Raise an OSError where nobody listens at a cluster's address: Ray would try for minutes."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=_PATIENCE).close()


@contextmanager
def _speaking_of_workers() -> Iterator[None]:
    """Turn what goes wrong in workers into one line; an error of flip's own stays what it is."""
    try:
        yield
    except FlipError:
        raise
    except Exception as error:
        # Ray hands on what a worker raised as the text of its traceback.
        told = " ".join(str(cause) for cause in (error, error.__cause__) if cause is not None)
        ours = _OURS.findall(told)
        if ours:
            name, said = ours[-1]
            kind = getattr(errors, name, ModelError)
            raise kind(said.strip()) from error
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        said = (lines[0] if lines else type(error).__name__)[:200]
        raise ModelError(f"workers of Ray failed ({said}); what they finished is kept, run it again") from error


def _listing(missing: Sequence[tuple[Source, FileKey]]) -> pa.Table:
    """Return where each photo lies, as any machine finds it."""
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
