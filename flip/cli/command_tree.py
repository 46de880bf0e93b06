"""The commands with their options, apart by what a command alone has and what several share: for the documents."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import Any

import typer
from typer.main import get_command

from flip.cli.app import app
from flip.cli.config import DataOptions, FormatOptions, ModelOptions, PredictOptions, ReadOptions, TrainedOptions
from flip.cli.drawing import DrawOptions

#: Titles of shared options, and the classes that declare them; the first class that declares an option has it.
SHARED = (
    ("Options of the data", (DataOptions,)),
    ("Options of the model", (ModelOptions, ReadOptions)),
    ("Options of drawing", (DrawOptions,)),
    ("Options of naming and scoring", (PredictOptions,)),
    ("Options of training photos", (TrainedOptions,)),
    ("Options of results and messages", (FormatOptions,)),
)

#: A command-line option as ``--help`` prints it: its flags, and its sentence.
Record = tuple[str, str]


@dataclass
class Entry:
    """One command.

    Attributes
    ----------
    path : str
        ``flip data info``.
    usage, text : str
        The usage line, and the help text without its options.
    arguments, own : list of Record
        What only this command has.
    shared : dict of str to list of Record
        Shared options by the title of their section.
    commands : list of Record
        Commands below it with their sentences.
    """

    path: str
    usage: str
    text: str
    arguments: list[Record] = field(default_factory=list)
    own: list[Record] = field(default_factory=list)
    shared: dict[str, list[Record]] = field(default_factory=dict)
    commands: list[Record] = field(default_factory=list)


def command_tree() -> tuple[list[Entry], dict[str, list[Record]]]:
    """Return all commands in the order of ``--help``, and the shared options by the title of their section."""
    contexts = list(_walk(get_command(app), "flip", None))
    sections = _sections()
    # An option is shared if two commands have it with the same sentence.
    counts = Counter(record for context in contexts for _, record in _options(context))
    entries, shared = [], {title: [] for title, _ in SHARED}  # type: tuple[list[Entry], dict[str, list[Record]]]
    for context in contexts:
        entry = _entry(context)
        for name, record in _options(context):
            title = sections.get((name, _sentence(context, name)))
            if title is None or counts[record] == 1:
                entry.own.append(record)
                continue
            entry.shared.setdefault(title, []).append(record)
            if record not in shared[title]:
                shared[title].append(record)
        entries.append(entry)
    return entries, {title: records for title, records in shared.items() if records}


def shared_options(entry: Entry, shared: dict[str, list[Record]]) -> Iterator[tuple[str, list[str]]]:
    """Yield the sections whose options a command has, each with its options; with none where it has all of them."""
    for title, everything in shared.items():
        flags = [flags for flags, _ in entry.shared.get(title, [])]
        if len(set(flags)) == len({flags for flags, _ in everything}):
            yield title, []
        elif flags:
            yield title, [flag.split()[0].rstrip(",") for flag in flags]


def _sections() -> dict[tuple[str, str], str]:
    """Return the section of each option that a shared class declares, by name and sentence."""
    last = fields(FormatOptions)
    found = {(f.name, f.metadata["help"]): SHARED[-1][0] for f in last}
    for title, kinds in SHARED:
        for f in (f for kind in kinds for f in fields(kind)):
            found.setdefault((f.name, f.metadata["help"]), title)
    # -o differs from command to command.
    return {key: title for key, title in found.items() if key[0] != "output"}


def _walk(command: Any, name: str, parent: typer.Context | None) -> Iterator[typer.Context]:
    settings = {**command.context_settings, "terminal_width": 100, "max_content_width": 100}
    context = typer.Context(command, parent=parent, info_name=name, **settings)
    yield context
    for sub_name, sub in getattr(command, "commands", {}).items():
        yield from _walk(sub, sub_name, context)


def _entry(context: typer.Context) -> Entry:
    command = context.command
    usage = command.get_usage(context).removeprefix("Usage: ")
    entry = Entry(context.command_path, " ".join(usage.split()), (command.help or "").strip())
    for parameter in command.get_params(context):
        if parameter.param_type_name == "argument" and (record := parameter.get_help_record(context)):
            entry.arguments.append(record)
    below: dict[str, Any] = getattr(command, "commands", {})
    entry.commands = [(name, " ".join((sub.help or "").split("\n\n")[0].split())) for name, sub in below.items()]
    return entry


def _options(context: typer.Context) -> Iterator[tuple[str, Record]]:
    """Yield the options of a command with the names of their fields; not ``--help``, which every command has."""
    for parameter in context.command.get_params(context):
        record = parameter.get_help_record(context)
        if parameter.param_type_name == "option" and parameter.name not in (None, "help") and record is not None:
            yield str(parameter.name), record


def _sentence(context: typer.Context, name: str) -> str:
    """Return an option's sentence as it is declared."""
    (parameter,) = (p for p in context.command.get_params(context) if p.name == name)
    return str(getattr(parameter, "help", ""))
