"""Atomic file writes and output folders: the one place that creates, replaces and claims what users keep."""

from __future__ import annotations

import codecs
import contextlib
import errno
import functools
import hashlib
import json
import math
import os
import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from flip.errors import ConfigError, FlipError, reason_of

if TYPE_CHECKING:
    from tempfile import TemporaryDirectory

#: A JSON object whose keys others decide, such as a library's configuration or what a result file holds beside its
#: numbers. Its values are read loosely; where flip decides the keys there is a class or a TypedDict.
JsonObject = dict[str, Any]

#: Temporary files are named ``.flip-tmp-<host>-<process>-<random>-<name>``, so that those of a killed run can be told.
ASIDE_PREFIX = ".flip-tmp-"

#: The ``-o`` of a shard as messages name it.
SHARD_OUTPUT = "-o of --shard"

#: Options whose folder is never replaced: there is no ``--overwrite`` for them.
_NEVER_REPLACED = ("--run", "--copy-to", SHARD_OUTPUT)

_WRITABLE = "pass a file in a folder that can be written"

#: The ``errors`` of text streams that results are written to: a name that is not UTF-8 gets its own bytes back, and
#: what the stream's encoding lacks is written as JSON would.
KEEP_NAMES = "flip.keep-names"

#: The end of an error of a library written in Rust, such as safetensors.
_OS_ERROR = re.compile(r"\(os error (\d+)\)")

_SURROGATE = re.compile("[\ud800-\udfff]")

#: What a file of each kind begins with. Text is told by its bytes.
_MAGIC = (
    (b"\x89PNG", "image"),
    (b"\xff\xd8\xff", "image"),
    (b"GIF8", "image"),
    (b"RIFF", "image"),
    (b"%PDF", "image"),
    (b"PAR1", "table"),
    (b"PK\x03\x04", "weights"),
)


@contextlib.contextmanager
def written_aside(file: Path, advice: str = _WRITABLE, *, durable: bool = False, kind: str = "") -> Iterator[Path]:
    """Yield a temporary path beside a file; it replaces the file when the block ends well, and is removed otherwise.

    Links are resolved first, so that a link stays one. What is no plain file (a FIFO, a device) is written through.

    Parameters
    ----------
    file : Path
    advice : str
        What to do when it cannot be written, such as "pass -o with a folder that can be written".
    durable : bool
        Return only when the file and its folder are on the disk.
    kind : {"", "text", "image", "table", "weights"}
        What is written; a file of another kind is not replaced. Without it any file is.

    Raises
    ------
    ConfigError
        If it cannot be written, or would replace a file of another kind.
    """
    with _writing(file, advice):
        target = file.resolve()
        through = is_special(target)
        if kind and not through:
            _require_kind(file, target, kind)
        aside = _aside_of(target, through)
        try:
            yield aside
            _write_through(aside, target) if through else _replace(aside, target, durable)
        finally:
            with contextlib.suppress(OSError):
                aside.unlink()


def require_writable(file: Path, kind: str, flag: str) -> None:
    """Check that a file may be written later, so that hours of work do not end in a refusal; nothing is made.

    Parameters
    ----------
    file : Path
    kind : str
        As :func:`written_aside` takes it.
    flag : str
        The option that named the file, for messages.

    Raises
    ------
    ConfigError
        If it is a folder, its folder cannot be made or written, or it holds data of another kind.
    """
    with _writing(file, _WRITABLE):
        target = file.resolve()
        if target.is_dir():
            raise ConfigError(f"{flag} {file} is a folder; pass the name of a file")
        if is_special(target):
            return
        _require_kind(file, target, kind)
        _require_place(target.parent)


def require_new_folder(folder: Path, flag: str) -> None:
    """Check that :func:`claim_folder` will make a new folder; nothing is made.

    Raises
    ------
    ConfigError
        If it is a file, holds something, or cannot be made.
    """
    try:
        _require_free(folder, flag)
        _require_place(folder if folder.is_dir() else folder.parent)
    except OSError as e:
        raise ConfigError(f"{flag} {folder} cannot be made ({reason_of(e)}); pass a folder that can") from e


def _require_place(folder: Path) -> None:
    """Raise an OSError unless something can be written into a folder, or into the first above it that is there."""
    there = next(place for place in (folder, *folder.parents) if place.exists())
    if not there.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, f"{there} is a file")
    if not os.access(there, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, f"{there} is read-only")


@contextlib.contextmanager
def _writing(file: Path, advice: str) -> Iterator[None]:
    try:
        with _library_errors():
            yield
    except OSError as e:
        raise ConfigError(f"{file} cannot be written ({reason_of(e)}); {advice}") from e


@contextlib.contextmanager
def _library_errors() -> Iterator[None]:
    """Turn the errors of libraries that write by other ways than Python's into the OSError that they stand for.

    Safetensors and tokenizers raise errors of their own that end in, say, "(os error 28)".
    """
    try:
        yield
    except (FlipError, OSError):
        raise
    except Exception as e:
        if found := _OS_ERROR.search(str(e)):
            number = int(found[1])
            raise OSError(number, os.strerror(number)) from e
        raise


def _aside_of(target: Path, through: bool) -> Path:
    """Create the temporary file that becomes ``target``, or is written through to it."""
    import tempfile

    folder = Path(tempfile.gettempdir()) if through else target.parent
    folder.mkdir(parents=True, exist_ok=True)
    remove_stale_asides(folder)
    return _new_aside(folder, target.name)


def _write_through(aside: Path, target: Path) -> None:
    import shutil

    with aside.open("rb") as source, target.open("wb") as sink:
        shutil.copyfileobj(source, sink)


def _replace(aside: Path, target: Path, durable: bool) -> None:
    if durable:
        sync(aside)
    aside.replace(target)
    if durable:
        sync(target.parent)


@contextlib.contextmanager
def folder_aside(folder: Path, *, durable: bool = False) -> Iterator[Path]:
    """Yield a temporary folder beside a folder; it replaces the folder when the block ends well.

    Raises
    ------
    OSError
        If it cannot be written; a folder that was there is left as it was.
    """
    import shutil
    import tempfile

    folder.parent.mkdir(parents=True, exist_ok=True)
    remove_stale_asides(folder.parent)
    aside = Path(tempfile.mkdtemp(prefix=_aside_prefix(), suffix=f"-{folder.name}", dir=folder.parent))
    try:
        with _library_errors():
            yield aside
        if durable:
            for file in aside.rglob("*"):
                sync(file)
        aside.chmod(0o777 & ~_umask())
        shutil.rmtree(folder, ignore_errors=True)
        aside.replace(folder)
        if durable:
            sync(folder.parent)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


@contextlib.contextmanager
def outgoing_folder(cache: Path | None, *, keep: bool = True) -> Iterator[Path]:
    """Yield an empty folder in the cache for files to upload.

    Parameters
    ----------
    cache : Path or None
    keep : bool
        Keep what is in it where the block fails.

    Raises
    ------
    ConfigError
        If the cache cannot be written.
    """
    import shutil
    import tempfile

    place = cache_folder(cache) / "outgoing"
    try:
        place.mkdir(parents=True, exist_ok=True)
        remove_stale_asides(place)
        folder = Path(tempfile.mkdtemp(prefix="upload-" if keep else _aside_prefix(), dir=place))
    except OSError as e:
        raise ConfigError(f"{place} cannot be written ({reason_of(e)}); pass --cache DIR") from e
    try:
        yield folder
    except BaseException:
        if keep:
            with contextlib.suppress(OSError):
                folder.rmdir()  # as long as nothing is in it
        else:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)


def move_files(source: Path, target: Path, *, last: str) -> None:
    """Move every file of a folder to the same place in another, replacing what is there; the file ``last`` last.

    A reader that asks for ``last`` first never takes a half-moved folder for a whole one.
    """
    for file in sorted((f for f in source.rglob("*") if f.is_file()), key=lambda f: (f.name == last, f)):
        place = target / file.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        file.replace(place)
    sync(target)


def remove_folder(folder: Path) -> None:
    """Remove a folder at once for whoever looks: it is renamed first, and what is left of it counts as stale."""
    import shutil
    import tempfile

    aside = Path(tempfile.mkdtemp(prefix=_aside_prefix(), suffix=f"-{folder.name}", dir=folder.parent))
    folder.replace(aside)
    sync(folder.parent)
    shutil.rmtree(aside, ignore_errors=True)


def is_special(file: Path) -> bool:
    """Return whether a file is there and is neither a plain file nor a folder: a FIFO, a device, a socket."""
    try:
        mode = file.stat().st_mode
    except OSError:
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


@contextlib.contextmanager
def open_special(file: Path) -> Iterator[TextIO]:
    """Open a FIFO or a device to write text through it.

    Raises
    ------
    ConfigError
        If it cannot be written.
    """
    try:
        with open_to_write(file) as stream:
            yield stream
    except BrokenPipeError:
        raise
    except OSError as e:
        raise ConfigError(f"{file} cannot be written ({reason_of(e)}); {_WRITABLE}") from e


def write_whole(stream: TextIO, text: str) -> None:
    """Write lines and flush them; to a file at once, so that several processes may append whole lines to it."""
    stream.flush()
    try:
        descriptor = stream.fileno()
        # Elsewhere lines end in something else, which the stream knows.
        direct = os.linesep == "\n"
    except (OSError, ValueError, AttributeError):
        direct = False
    if not direct:
        stream.write(text)
        stream.flush()
        return
    left = memoryview(text.encode(stream.encoding or "utf-8", stream.errors or "strict"))
    while left:
        left = left[os.write(descriptor, left) :]


def write_text(file: Path, text: str, *, kind: str = "text") -> None:
    """Write a text file (UTF-8, names that are none as they are) atomically.

    Raises
    ------
    ConfigError
        If the file cannot be written, or would replace a file of another kind.
    """
    with written_aside(file, kind=kind) as aside:
        aside.write_text(text, encoding="utf-8", errors=KEEP_NAMES)


def write_json(file: Path, content: object) -> None:
    """Write JSON atomically; see :func:`plain` for what it may hold."""
    write_text(file, json_text(content, indent=2) + "\n")


def open_to_write(file: Path) -> TextIO:
    """Open a text file for results: UTF-8, names that are none as they are, line ends as they are written."""
    return file.open("w", encoding="utf-8", errors=KEEP_NAMES, newline="")


def json_text(content: object, indent: int | None = None) -> str:
    """Return JSON that is UTF-8 whatever names are in it: a byte that is not is written as ``\\udcxx``."""
    text = json.dumps(plain(content), indent=indent, ensure_ascii=False)
    return _SURROGATE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def plain(value: object) -> Any:
    """Return a value as JSON can hold it: NumPy numbers as Python's, tuples as lists, NaN and infinity as None."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


def claim_folder(folder: Path, mark: str | None = None, *, overwrite: bool = False, flag: str = "-o") -> bool:
    """Make an output folder, or check that it may be written; return whether it holds earlier work of its kind.

    Nothing is removed: with ``overwrite`` the caller replaces its own files and leaves all others.

    Parameters
    ----------
    folder : Path
    mark : str, optional
        The file or folder that work of this kind leaves in its folder. Without it every folder that holds something is
        refused.
    overwrite : bool
        Write also into a folder that holds other work.
    flag : str
        The option that named the folder, for messages.

    Raises
    ------
    ConfigError
        If it is a file, holds other work and ``overwrite`` is false, or cannot be made.
    """
    try:
        ours = mark is not None and (folder / mark).exists()
        _require_free(folder, flag, others=ours or overwrite)
        folder.mkdir(parents=True, exist_ok=True)
        remove_stale_asides(folder)
    except OSError as e:
        raise ConfigError(f"{flag} {folder} cannot be made ({reason_of(e)}); pass a folder that can") from e
    return ours


def _require_free(folder: Path, flag: str, *, others: bool = False) -> None:
    """Raise a ConfigError if a folder is a file or holds something, which ``others`` allows."""
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{flag} {folder} is a file; pass a folder")
    holds = folder.is_dir() and any(not path.name.startswith(ASIDE_PREFIX) for path in folder.iterdir())
    if holds and not others:
        raise ConfigError(f"{flag} {folder} already holds files; pass {_advice(flag)}")


def _advice(flag: str) -> str:
    return "a new folder" if flag in _NEVER_REPLACED else "another folder, or --overwrite to replace flip's own"


def require_same_key(folder: Path, before: Mapping[str, object], key: Mapping[str, object], advice: str) -> None:
    """Check that work in a folder was begun with the same settings, data and model, so that it can be resumed.

    Parameters
    ----------
    folder : Path
    before, key : mappings
        What decided the work when it was begun, and what decides it now.
    advice : str
        What to do otherwise.

    Raises
    ------
    ConfigError
        If they differ; the message names every difference, with both values where they are short. Also if ``before``
        is no mapping: it was read from a file.
    """
    if not isinstance(before, Mapping):
        raise ConfigError(f"{folder} does not say with what settings it was begun: its files are damaged; {advice}")
    now = plain(key)
    changed = [name for name in now if before.get(name) != now[name]]
    if changed:
        differences = ", ".join(_difference(name, before.get(name), now[name]) for name in changed)
        raise ConfigError(f"{folder} was begun with other settings: {differences}; {advice}")


@functools.cache
def _of_process() -> TemporaryDirectory[str]:
    import tempfile

    return tempfile.TemporaryDirectory(prefix="flip-")


def folder_of_process() -> Path:
    """Return a temporary folder that goes with this process, for what the cache cannot hold.

    Raises
    ------
    OSError
        If it cannot be made.
    """
    return Path(_of_process().name)


def cache_folder(given: Path | None = None) -> Path:
    """Return the folder of what is kept between runs: as given, else ``FLIP_CACHE``, else the platform's."""
    if given is None and os.environ.get("FLIP_CACHE"):
        given = Path(os.environ["FLIP_CACHE"])
    if given is not None:
        return given.expanduser()
    from platformdirs import user_cache_path

    return user_cache_path("flip")


def remove_stale_asides(folder: Path) -> None:
    """Remove temporary files and folders that killed processes of this machine left in a folder."""
    import shutil

    host = host_id()
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            if path.name.startswith(f"{ASIDE_PREFIX}{host}-"):
                process = path.name[len(ASIDE_PREFIX) + len(host) + 1 :].partition("-")[0]
                if process.isdigit() and not is_alive(int(process)):
                    shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def set_aside(file: Path) -> Path | None:
    """Rename a damaged file so that nobody takes it for a sound one; return where it is, or None if it stays."""
    place = file.with_name(f"{file.name}.damaged")
    try:
        file.replace(place)
    except OSError:
        return None
    return place


def sync(path: Path) -> None:
    """Return when a file or folder is on the disk rather than in the system's memory."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _keep_names(error: UnicodeError) -> tuple[str | bytes, int]:
    """Codec error handler: keep a name's original bytes in UTF-8 and ASCII, escape characters in other encodings."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    # ASCII has no meaning for these bytes either, so that nothing is mistaken for them.
    keeps = codecs.lookup(error.encoding).name in ("utf-8", "ascii")
    written = b""
    for character in error.object[error.start : error.end]:
        code = ord(character)
        if keeps and 0xDC80 <= code <= 0xDCFF:
            written += bytes([code - 0xDC00])
        else:
            written += json.dumps(character)[1:-1].encode("ascii")
    return written, error.end


codecs.register_error(KEEP_NAMES, _keep_names)


def _difference(name: str, before: object, now: object) -> str:
    shown = f"{name.replace('_', '-')} {now} (was {before})"
    return shown if len(shown) <= 80 else name.replace("_", "-")


def _new_aside(folder: Path, name: str) -> Path:
    """Create an empty file that no other process can have: a name that is taken, or a link, is never opened."""
    import tempfile

    descriptor, aside = tempfile.mkstemp(prefix=_aside_prefix(), suffix=f"-{name[-80:]}", dir=folder)
    try:
        os.fchmod(descriptor, 0o666 & ~_umask())
    finally:
        os.close(descriptor)
    return Path(aside)


def _aside_prefix() -> str:
    return f"{ASIDE_PREFIX}{host_id()}-{os.getpid()}-"


@functools.cache
def host_id() -> str:
    """Return a short hash of the machine's name: processes of another machine cannot be asked whether they live."""
    import platform

    return hashlib.sha256(platform.node().encode()).hexdigest()[:6]


def is_alive(process: int) -> bool:
    """Return whether a process of this machine runs."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


@functools.cache
def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def _require_kind(file: Path, target: Path, kind: str) -> None:
    if target.is_file() and (found := _kind_of(target)) not in ("", kind):
        raise ConfigError(f"{file} holds {_KINDS[found]} and is not replaced by {_KINDS[kind]}; pass another name")


_KINDS = {
    "text": "text",
    "image": "an image",
    "table": "a table",
    "weights": "a model's weights",
    "other": "data of another kind",
}


def _kind_of(file: Path) -> str:
    """Return what a file holds, "" for nothing."""
    with file.open("rb") as stream:
        head = stream.read(4096)
    if not head:
        return ""
    for magic, kind in _MAGIC:
        if head.startswith(magic):
            return kind
    if b"<svg" in head:
        return "image"
    if len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 30:
        return "weights"
    try:
        # The last character may be cut.
        head[:-4].decode("utf-8") if len(head) == 4096 else head.decode("utf-8")
    except UnicodeDecodeError:
        return "other"
    return "other" if b"\0" in head else "text"
