"""From a configuration to a command: each dataclass field becomes an option of the same name, default and sentence."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import MISSING, Field, fields
from typing import Annotated, Any, Literal, TypeVar, get_type_hints

import typer

from flip.cli.context import messages
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


def command(app: typer.Typer, name: str, config_type: type[Config]) -> Callable[[Body[Config]], Body[Config]]:
    """Register a function of one configuration as a command whose options are the configuration's fields."""

    def register(body: Body[Config]) -> Body[Config]:
        hints = get_type_hints(config_type)

        def call(**values: Any) -> None:
            options = config_type(**values)
            with messages(options):
                body(options)

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
        app.command(name, help=inspect.getdoc(body))(call)
        return body

    return register


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
    return typer.Option(*FLAGS.get(f.name, (flag(f.name),)), help=text, envvar=envvar, show_default=shown)
