"""From a configuration to a command: each dataclass field becomes an option of the same name, default and sentence."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_type_hints

import typer

from flip.cli.config import FileOutput
from flip.cli.context import is_main_process, messages
from flip.cli.delivery import delivered
from flip.cli.pictures import parse_plot
from flip.errors import ConfigError
from flip.files import is_special, require_new_folder, require_writable
from flip.settings import flag

Config = TypeVar("Config")

#: Short forms, and long forms that differ from the field's name.
FLAGS = {
    "output": ("-o", "--output"),
    "quiet": ("-q", "--quiet"),
    "verbose": ("-v", "--verbose"),
    "k": ("-k",),
    "n": ("-n",),
    "null": ("-0", "--null"),
}

ARGUMENTS = {"images": "IMAGE", "prompt": "PROMPT", "runs": "RUN", "folder": "DATA", "archive": "NAME"}

_Field = Field[Any]

Body = Callable[[Config], None]


class _Invalid(typer.BadParameter):
    """A value that no data could make valid; the message names the option."""

    def format_message(self) -> str:
        return self.message


def command(app: typer.Typer, name: str, config_type: type[Config]) -> Callable[[Body[Config]], Body[Config]]:
    """Register a function of one configuration as a command whose options are the configuration's fields."""

    def register(body: Body[Config]) -> Body[Config]:
        hints = get_type_hints(config_type)

        def call(**values: Any) -> None:
            for name, value in values.items():
                if isinstance(value, Path) and str(value).startswith("file:/"):
                    from flip.remote import local_path

                    values[name] = local_path(value)
            if issubclass(config_type, FileOutput) and values["output"] == Path("-"):
                values["output"] = None  # stdout, as for other commands
            try:
                options = config_type(**values)
            except ConfigError as e:
                raise _Invalid(str(e)) from e
            with messages(options), delivered(options) as local:
                if is_main_process():
                    require_outputs(local)
                body(local)

        parameters = [
            inspect.Parameter(
                f.name,
                inspect.Parameter.KEYWORD_ONLY,
                annotation=Annotated[_type(f, hints[f.name]), _parameter(f)],
                default=None if f.default is MISSING else f.default,
            )
            for f in _own_first(config_type)
        ]
        call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        call.__annotations__ = {p.name: p.annotation for p in parameters}
        text = inspect.getdoc(body) or ""
        # A list of commands cuts a help text to one line, and wraps a short one.
        app.command(name, help=text, short_help=text.partition("\n\n")[0].replace("\n", " "))(call)
        return body

    return register


def require_outputs(options: Any) -> None:
    """Check, before any work, that each output can be written, is no input, and is not another output too.

    Raises
    ------
    ConfigError
    """
    paths = {f.name: Path(value) for f in fields(options) if isinstance(value := getattr(options, f.name), (str, Path))}
    writes = {f.name: f.metadata["writes"] for f in fields(options) if f.name in paths and "writes" in f.metadata}
    if isinstance(plot := getattr(options, "plot", None), str) and (picture := parse_plot(plot)):
        paths["plot"], writes["plot"] = picture.file, "image"
    for name, kind in writes.items():
        path, option_name = paths[name], _flags(name)[0]
        if kind == "folder":
            require_new_folder(path, option_name)
        else:
            require_writable(path, kind, option_name)
        for other, place in paths.items():
            if other != name and _is_same(path, place, written=other in writes):
                other_name = ARGUMENTS.get(other) or _flags(other)[0]
                raise ConfigError(f"{option_name} {path} is what {other_name} names too; pass another name")


def _flags(name: str) -> tuple[str, ...]:
    """Return a field's option as the command line spells it."""
    return FLAGS.get(name, (flag(name),))


def _is_same(path: Path, place: Path, *, written: bool) -> bool:
    """Return whether an output is another output, or an input that is there. Devices may be named twice."""
    try:
        return path.resolve() == place.resolve() and (written or place.exists()) and not is_special(path)
    except (OSError, ValueError):
        # Text that is no path.
        return False


def _own_first(config_type: type[Any]) -> list[_Field]:
    """Return a configuration's fields: the photos, then what only this command has, then what its bases share."""
    depth: dict[str, int] = {}
    for i, base in enumerate(config_type.__mro__):
        for name in inspect.get_annotations(base):
            depth.setdefault(name, i)
    return sorted(fields(config_type), key=lambda f: (f.name not in ARGUMENTS, depth[f.name]))


def _type(f: _Field, hint: object) -> object:
    """Return an option's type; the words of ``choices`` become the ones that the command line takes."""
    choices = f.metadata.get("choices")
    if not choices:
        return hint
    words: Any = Literal[tuple(choices)]
    return words | None if f.default is None else words


def _parameter(f: _Field) -> object:
    text, envvar = f.metadata["help"], f.metadata.get("envvar")
    if f.name in ARGUMENTS:
        return typer.Argument(help=text, metavar=ARGUMENTS[f.name], show_default=False)
    shown = f.default is not None and f.default is not False
    words = f.metadata.get("completes")
    return typer.Option(
        *_flags(f.name),
        help=text,
        envvar=envvar,
        show_default=shown,
        autocompletion=_completion(words) if words else None,
    )


def _completion(words: tuple[str, ...]) -> Callable[[str], list[str]]:
    """Return a shell completion callback: the words that start with the text typed so far."""

    def begun(incomplete: str) -> list[str]:
        return [word for word in words if word.startswith(incomplete)]

    return begun
