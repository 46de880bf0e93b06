"""Clusters of Ray, here or elsewhere: the only place that imports it."""

from __future__ import annotations

import logging
import os
import re
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from flip import errors
from flip.device import cpu_count
from flip.embed.settings import EngineSettings
from flip.errors import ConfigError, FlipError, MissingDependencyError, ModelError, reason_of

log = logging.getLogger(__name__)

#: An error of flip's own in the traceback of a worker.
_OURS = re.compile(r"flip\.errors\.(\w+): (.+)")

#: Seconds to wait for a cluster to answer.
_PATIENCE = 10.0

#: Memory of the local object store: a few batches of decoded photos.
_STORE_BYTES = 1 << 30


class Workers(NamedTuple):
    """The module ``ray.data``, how many models there are to be, and the GPUs of each, 0 or 1."""

    data: Any
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
def cluster(settings: EngineSettings, device: str) -> Iterator[Workers]:
    """Connect to the cluster, or start workers on this machine and end them afterwards."""
    ray = _ray()
    began = not ray.is_initialized()
    if began:
        _begin(ray, settings)
    try:
        _quieten(ray)
        cpus, gpus = (int(ray.cluster_resources().get(kind, 0)) for kind in ("CPU", "GPU"))
        if device == "cpu":
            gpus = 0
        actors = settings.actors or gpus or max(1, cpus // 2)
        if gpus and actors > gpus:
            raise ConfigError(f"--actors {actors} is more than the cluster's {gpus} GPUs; pass {gpus} or --device cpu")
        if not gpus and actors >= cpus:
            raise ConfigError(
                f"--actors {actors} leaves none of the cluster's {cpus} CPUs to decode photos; pass {cpus - 1} or fewer"
            )
        log.info("ray: %d models on %s", actors, f"{gpus} GPUs" if gpus else f"{cpus} CPUs")
        yield Workers(ray.data, actors, 1 if gpus else 0)
    finally:
        if began:
            ray.shutdown()


def _quieten(ray: Any) -> None:
    """Leave stderr to flip; what Ray logs is in its own files."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler):
            handler.setLevel(logging.CRITICAL + 1)


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
        raise ConfigError(
            f"{where} cannot be reached: {reason_of(error)}; check --ray-address, and RAY_AUTH_TOKEN"
        ) from error


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
def speaking_of_workers() -> Iterator[None]:
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
