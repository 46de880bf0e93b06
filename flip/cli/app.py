"""The ``flip`` command: which commands there are, and the one boundary where errors become one line each.

Nothing here imports torch, NumPy, scikit-learn, faiss or diffusers: ``flip --help`` answers at once.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import signal
import sys
import warnings
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from flip import __version__
from flip.cli.help import help_without_command
from flip.cli.lazy import LazyCommands
from flip.errors import FlipError, Interrupted
from flip.shown import one_line

#: Command modules under ``flip.cli.commands``, in the order in which ``--help`` lists them.
COMMANDS = (
    *("demo", "embed", "zeroshot", "knn", "hybrid", "finetune", "generate", "augment", "reproduce"),
    *("report", "compare", "models", "data"),
)


class ErrorBoundary(TyperGroup):
    """Turns a FlipError into one line on stderr and exit code 1, a usage error into one line and 2."""

    def __init__(self, *, commands: Any = None, **settings: Any) -> None:
        super().__init__(commands=commands, **settings)
        self.commands = LazyCommands(COMMANDS, dict(commands or {}))

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the commands in their order."""
        return list(self.commands)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the list of commands, importing none."""
        commands: Any = self.commands
        with formatter.section("Commands"):
            formatter.write_dl([(name, commands.sentence(name)) for name in commands])

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: object,
    ) -> object:
        """Run as ``flip``, however it was started, and print a usage error as one line."""
        try:
            # Not standalone, Typer returns the code of an Exit and raises usage errors.
            code = super().main(args, "flip", complete_var, False, windows_expand_args, **extra)
            if not standalone_mode:
                return code
        except typer.TyperException as e:
            if not standalone_mode:
                raise
            _say(_usage(e))
            sys.exit(e.exit_code)
        except typer.Abort:
            sys.exit(130)
        except OSError as e:  # of --help and --version, which are printed before there is a command
            _drop_output()
            if not isinstance(e, BrokenPipeError):
                _say(_of_system(e))
            sys.exit(0 if isinstance(e, BrokenPipeError) else 1)
        sys.exit(code if isinstance(code, int) else 0)

    def invoke(self, ctx: Any) -> object:
        """Run the command; every error that a user can cause ends here."""
        try:
            return super().invoke(ctx)
        except FlipError as e:
            if os.environ.get("FLIP_DEBUG"):
                raise
            _say(str(e))
            raise typer.Exit(1) from e
        except KeyboardInterrupt as e:
            _say("interrupted; finished work is kept, and the same command resumes it, with --resume if it asks")
            raise typer.Exit(128 + getattr(e, "signal", signal.SIGINT)) from e
        except BrokenPipeError as e:
            # The reader has seen enough.
            _drop_output()
            raise typer.Exit(0) from e
        except OSError as e:
            if os.environ.get("FLIP_DEBUG"):
                raise
            _drop_output()
            _say(_of_system(e))
            raise typer.Exit(1) from e
        except MemoryError as e:
            _say("out of memory; try a smaller --batch-size, or fewer --workers")
            raise typer.Exit(1) from e
        except (typer.Exit, typer.Abort, typer.TyperException):
            raise
        except Exception as e:
            if os.environ.get("FLIP_DEBUG"):
                raise
            _say(f"unexpected {type(e).__name__}: {one_line(e, 200)}; please report it, with what FLIP_DEBUG=1 prints")
            raise typer.Exit(1) from e


def _say(message: str) -> None:
    """Print a message as one safe line on stderr, where there is one."""
    with contextlib.suppress(OSError):
        typer.echo(f"flip: {one_line(message)}", err=True)


def _of_system(error: OSError) -> str:
    """Return one line on what the system refused; without a file it was stdout."""
    reason = error.strerror or str(error) or type(error).__name__
    if error.filename is None and error.errno in (errno.EBADF, errno.ENOSPC, errno.EIO, errno.EFBIG, errno.EDQUOT):
        return f"results cannot be written ({reason}); free space, or pass -o with a file that can be written"
    return f"{os.fsdecode(error.filename)}: {reason}" if error.filename is not None else reason


def _drop_output() -> None:
    """Send what is still in stdout's buffer nowhere: Python would complain when it closes stdout."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _usage(error: typer.TyperException) -> str:
    message = " ".join(str(error.format_message()).replace("Value error, ", "").split())
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "flip"
    return f"{message.rstrip('.')}; see {path} --help"


app = typer.Typer(
    cls=ErrorBoundary,
    add_completion=True,
    invoke_without_command=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    pretty_exceptions_enable=False,
    help="Tell look-alike things apart with CLIP: a folder of photos in, an honest number and a usable classifier out.",
)


@app.callback()
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("-V", "--version", help="Print the version and exit.")] = False,
    verbose: Annotated[
        bool, typer.Option("-v", "--verbose", help="With --version: also the packages and the machine.")
    ] = False,
) -> None:
    if version:
        typer.echo(f"flip {__version__}")
        if verbose:
            _print_details()
        raise typer.Exit
    help_without_command(context)


def _print_details() -> None:
    """Print the versions of packages and what is known of the machine, as ``--run`` keeps them."""
    from flip.machine import surroundings, versions

    importlib.import_module("torch")
    about = surroundings()
    del about["command_line"]
    for name, value in {**versions(), **about}.items():
        typer.echo(f"{name} {value if value is not None else 'none'}")


@app.command("help")
def _help(
    context: typer.Context,
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="COMMAND", help="A command; below data also the one in it: data check.", show_default=False
        ),
    ] = None,
) -> None:
    """Print the help of a command."""
    root = context.parent
    assert root is not None
    at, command = root, root.command
    for word in words or ():
        commands: dict[str, Any] = getattr(command, "commands", {})
        if word not in commands:
            raise typer.BadParameter(f"there is no command {word!r}; pass one of {', '.join(commands) or 'none'}")
        command = commands[word]
        at = type(at)(command, info_name=word, parent=at)
    typer.echo(command.get_help(at))


def _interrupt(number: int, frame: object) -> None:
    raise Interrupted(number)


def _hold_standard_streams() -> None:
    """Keep the numbers of stdin, stdout and stderr from files that are opened later, where they are closed (cron).

    What is written to a closed stdout is an error then, as on any output that cannot be written.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # The lowest free number is taken, which is this one.
            os.open(os.devnull, os.O_WRONLY if number == 2 else os.O_RDONLY)
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - lives as long as the process
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; returns by raising SystemExit with the exit code."""
    _hold_standard_streams()
    if not os.environ.get("FLIP_DEBUG"):
        # Libraries warn on stderr, of odd EXIF or coming changes of theirs; there each line is flip's to say.
        warnings.simplefilter("ignore")
    for number in (signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])):
        # A service or a closed terminal ends a run as Ctrl-C does: rows are flushed, caches and checkpoints written.
        # What ignores a signal (nohup) goes on ignoring it.
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _interrupt)
    app(list(arguments) if arguments is not None else None)
