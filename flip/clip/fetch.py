"""Files of the Hugging Face hub: from its cache, or fetched where a network answers within seconds."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import ssl
import threading
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from flip.errors import reason_of

log = logging.getLogger(__name__)

#: Seconds that may pass before a network that does not answer is taken as absent.
PATIENCE = 3.0


class AbsentError(Exception):
    """A file is not on this machine and cannot be fetched; the text says why."""


def cached_file(repository: str, names: Sequence[str]) -> Path | None:
    """Return the first of these files that is in the hub's cache, touching no network."""
    from huggingface_hub import try_to_load_from_cache

    for name in names:
        try:
            found = try_to_load_from_cache(repository, name)
        except (OSError, ValueError) as e:
            # It reads the name of the revision, and looks for a folder of that name.
            log.warning("%s in %s is damaged (%s); it counts as absent", repository, cache_place(), reason_of(e))
            return None
        if isinstance(found, str) and Path(found).is_file():
            return Path(found)
    return None


def hub_file(repository: str, names: Sequence[str], *, fetch: bool = True) -> Path:
    """Return the first of these files that the repository has, from the cache or, with ``fetch``, from the hub.

    Raises
    ------
    AbsentError
        If none is here and none can be fetched.
    """
    found = cached_file(repository, names)
    if found is not None:
        return found
    if not fetch:
        raise AbsentError("not in the Hugging Face cache")
    from huggingface_hub import hf_hub_download, hf_hub_url
    from huggingface_hub.errors import EntryNotFoundError

    require_network(hf_hub_url(repository, names[0]))
    with quiet():
        for name in names:
            try:
                return Path(hf_hub_download(repository, name, etag_timeout=PATIENCE))
            except EntryNotFoundError:
                continue
            except Exception as e:
                raise AbsentError(first_line(e)) from e
    raise AbsentError(f"the repository has no {names[-1]}")


def hub_folder(repository: str, names: Sequence[str], *, fetch: bool = True) -> Path:
    """Return a folder with those of these files that the repository has, from the cache or from the hub.

    Raises
    ------
    AbsentError
        If none is here and none can be fetched.
    """
    found = cached_file(repository, names)
    if found is not None:
        return found.parent
    if not fetch:
        raise AbsentError("not in the Hugging Face cache")
    from huggingface_hub import hf_hub_url, snapshot_download

    require_network(hf_hub_url(repository, names[0]))
    try:
        with quiet():
            return Path(snapshot_download(repository, allow_patterns=list(names), etag_timeout=PATIENCE))
    except Exception as e:
        raise AbsentError(first_line(e)) from e


def reference(file: Path) -> tuple[Path, ...]:
    """Return the file of the hub's cache that says which revision a repository's files are of, if there is one."""
    main = file.parent.parent.parent / "refs" / "main"
    return (main,) if file.parent.parent.name == "snapshots" and main.is_file() else ()


def require_network(url: str) -> None:
    """Check that a server answers at all, within ``PATIENCE`` seconds; what it answers is left to the download.

    Raises
    ------
    AbsentError
        If it does not, or the network was forbidden.
    """
    from huggingface_hub.constants import is_offline_mode

    if is_offline_mode():
        raise AbsentError("HF_HUB_OFFLINE is set")
    outcome: list[str] = []
    # Looking up a name has no time limit of its own.
    attempt = threading.Thread(target=lambda: outcome.append(_reach(url)), daemon=True)
    attempt.start()
    attempt.join(PATIENCE)
    problem = outcome[0] if outcome else f"no answer in {PATIENCE:g} seconds"
    if problem:
        raise AbsentError(problem)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: object) -> None:
        """Follow nothing: any answer will do."""


def _reach(url: str) -> str:
    request = urllib.request.Request(url, method="HEAD")
    try:
        urllib.request.build_opener(_NoRedirect).open(request, timeout=PATIENCE).close()
    except urllib.error.HTTPError:
        return ""
    except urllib.error.URLError as e:
        # The hub's own client may know certificates that Python's does not.
        return "" if isinstance(e.reason, ssl.SSLCertVerificationError) else f"no network: {e.reason}"
    except (OSError, ValueError, socket.gaierror) as e:
        return f"no network: {e}"
    return ""


@contextlib.contextmanager
def offline() -> Iterator[None]:
    """Forbid the hub's library, and those that use it, any connection."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


@dataclass
class _Quiet:
    """State of :func:`quiet`: number of threads inside it, and the logging level to restore."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    inside: int = 0
    before: int = 0


_quiet = _Quiet()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep notes and warnings of libraries off the user's stderr."""
    with _quiet.lock:
        if not _quiet.inside:
            _quiet.before = logging.root.manager.disable
        _quiet.inside += 1
        logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        with _quiet.lock:
            _quiet.inside -= 1
            # Of several threads the last one out restores what the first one found.
            if not _quiet.inside:
                logging.disable(_quiet.before)


def first_line(error: Exception) -> str:
    """Return the first line of an error's text, at most 200 characters."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:200]


def cache_place() -> str:
    """Return the folder of the hub's cache."""
    from huggingface_hub.constants import HF_HUB_CACHE

    return os.fspath(HF_HUB_CACHE)
