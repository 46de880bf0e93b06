"""Every example of README and documents: shell and Python run; what is only shown parses as the command line does."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import shlex
import struct
import subprocess
import sys
import termios
import threading
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.main import get_command

from flip.cli.app import app
from tests.documents import PAGES, ROOT, Block, blocks, commands, write_birds

#: Whole commands in fresh processes: minutes on a busy machine.
pytestmark = pytest.mark.timeout(1200)

#: Sections whose commands run elsewhere: in tests/test_wheel.py and .ci/run.
ELSEWHERE = {("README.md", "See it work"), ("README.md", "Run the tests")}

#: Pages whose Python runs in tests/test_docs.py, which also checks what it leaves behind; that of scale.md is for
#: libraries that flip does not need.
PYTHON_ELSEWHERE = {"README.md", "python.md", "contributing.md", "scale.md"}

#: Names of the scripts that pages show: a block that begins with #! is saved, and run by the next one.
SCRIPTS = {"scale.md": "shards.sbatch"}

#: Printed between blocks.
_END = "\x1e"

#: Runs the blocks of a page one after the other; a traceback names the section.
RUNNER = """
import json
names = {"__name__": "__main__"}
for section, code in json.load(open("blocks.json")):
    exec(compile(code, section, "exec"), names)
"""


def examples(page: Path) -> list[Block]:
    """Return the blocks of a page that run here, shell before Python."""
    shell = [b for b in blocks(page, "bash") if (page.name, b.section) not in ELSEWHERE]
    return shell + ([] if page.name in PYTHON_ELSEWHERE else blocks(page, "python"))


def identity(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.fixture
def folder(tmp_path: Path, squares: Path) -> Path:
    """A folder with data/birds, as the README has it: class folders of photos."""
    return write_birds(tmp_path, squares)


@pytest.mark.parametrize("page", [page for page in PAGES if examples(page)], ids=identity)
def test_the_examples_of_a_page_run(page: Path, folder: Path, tiny_model: Path) -> None:
    parts = examples(page)
    shell = [part for part in parts if part.language == "bash"]
    code = [(part.section, part.text.replace("ViT-B-32/openai", str(tiny_model))) for part in parts[len(shell) :]]
    (folder / "blocks.json").write_text(json.dumps(code))
    # Twenty photos cannot have twenty-one neighbours.
    for part in shell:
        if part.text.startswith("#!"):
            (folder / SCRIPTS[page.name]).write_text(part.text)
    run_now = [part._replace(text="") if part.text.startswith("#!") else part for part in shell]
    lines = [part.text.replace("3:20", "3:9") + f"printf '{_END}'; printf '{_END}' >&2\n" for part in run_now]
    python = [f"python -c {shlex.quote(RUNNER)}\n"] if code else []
    printed, notes = run("".join(lines + python), folder, tiny_model)
    for part, out, err in zip(shell, printed.split(_END), notes.split(_END), strict=False):
        if part.output:
            require_shown(part.output, (err + out).splitlines())
    if page.name == "README.md":
        assert (folder / "named.jsonl").read_text().count("\n") == 48
        assert (folder / "runs" / "knn" / "result.json").is_file()


def run(script: str, folder: Path, model: Path) -> tuple[str, str]:
    """Run a script with a terminal as stdout; return what came there and on stderr."""
    binaries = str(Path(sys.executable).parent)
    environment = os.environ | {
        "PATH": binaries + os.pathsep + os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        **{"FLIP_MODEL": str(model), "FLIP_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"},
        **{"TERM": "dumb", "NO_COLOR": "1", "COLUMNS": "100"},
    }
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    printed: list[bytes] = []
    reader = threading.Thread(target=_read_all, args=(ours, printed))
    reader.start()
    try:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=theirs,
            stderr=subprocess.PIPE,
        )
    finally:
        os.close(theirs)
        reader.join()
        os.close(ours)
    notes = done.stderr.decode()
    assert done.returncode == 0, notes[-2000:]
    return b"".join(printed).decode().replace("\r\n", "\n"), notes


def _read_all(terminal: int, into: list[bytes]) -> None:
    while True:
        try:
            part = os.read(terminal, 65536)
        except OSError:  # Linux says so when nobody writes any more
            return
        if not part:
            return
        into.append(part)


_NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")


def require_shown(shown: str, printed: list[str]) -> None:
    """Check that the lines of a shown output were printed, in order; numbers may differ a little, seconds freely.

    Lines that name the hardest classes or the best k, and curves, are not compared: near ties decide them, on each
    processor its own.
    """
    rest = iter(printed)
    for line in shown.splitlines():
        if line.strip() in ("", "…") or line.startswith((" ", "hardest", "most confused", "k ")):
            continue
        wanted = _words(line)
        found = next((candidate for candidate in rest if _words(candidate) == wanted), None)
        assert found is not None, f"not printed: {line!r}\n" + "\n".join(printed)
        if re.search(r"\d s\b|seconds", line):
            continue
        for told, is_ in zip(_NUMBER.findall(line), _NUMBER.findall(found), strict=True):
            a, b = (float(number.replace(",", "")) for number in (told, is_))
            assert abs(a - b) <= max(0.1, 0.05 * abs(a)), f"{line!r} was {found!r}"


def _words(line: str) -> list[str]:
    return _NUMBER.sub("0", line).split()


@pytest.mark.parametrize("page", PAGES, ids=identity)
def test_the_command_line_takes_what_is_shown(page: Path) -> None:
    for block in blocks(page, "bash", "console"):
        for words in commands(block):
            parse(words[1:])


def parse(words: list[str]) -> None:
    """Parse a command as the command line does, and run nothing."""
    command: Any = get_command(app)
    context = typer.Context(command, info_name="flip")
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        command, name = command.commands[words[0]], words[0]
        context = typer.Context(command, parent=context, info_name=name, **command.context_settings)
        words = words[1:]
    if {"-h", "--help", "--version", "-V", "--install-completion", "--show-completion"} & set(words):
        return
    # A variable of the shell may be a number, a word or a path: 1 is all of them.
    command.parse_args(context, ["1" if word.startswith("$") else word for word in words])


def test_an_option_that_does_not_exist_would_be_found() -> None:
    (words,) = commands(Block("", "console", "$ FLIP_DATA=x flip knn --vote uniform --neigbors > y\n"))
    with pytest.raises(typer.TyperException, match="neigbors"):
        parse(words[1:])
