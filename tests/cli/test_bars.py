"""Bars on a terminal, and messages above them: seen by a program that is given a terminal."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import threading
from pathlib import Path

import flip

ROOT = Path(__file__).resolve().parents[2]

_SHOWS = """
import logging, time
from flip.cli.config import MessageOptions
from flip.cli import context
log = logging.getLogger("flip.cli")
options = MessageOptions({options})
with context.messages(options), context.{bar} as update:
    log.info("a path that is longer than the terminal is wide: /%s", "x" * 100)
    if update: {update}
"""


def on_terminal(code: str) -> str:
    """Run Python with a terminal as stderr; return what came there."""
    ours, theirs = pty.openpty()
    printed: list[bytes] = []

    def read() -> None:
        while True:
            try:
                printed.append(os.read(ours, 65536))
            except OSError:
                return
            if not printed[-1]:
                return

    reader = threading.Thread(target=read)
    reader.start()
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "80"}
    done = subprocess.run([sys.executable, "-c", code], stderr=theirs, env=environment, cwd=ROOT)
    os.close(theirs)
    reader.join()
    os.close(ours)
    text = b"".join(printed).decode()
    assert done.returncode == 0, text
    return text


def test_a_share_is_shown_with_the_caller_s_text() -> None:
    bar = "live_bar(options, 'step 1 of 2')"
    text = on_terminal(_SHOWS.format(options="", bar=bar, update="update(0.5, 'about 7 s left')"))
    assert "step 1 of 2" in text
    assert "about 7 s left" in text
    assert "/" + "x" * 100 in text.replace("\r\n", "\n"), "no line is wrapped"


def test_waiting_shows_how_long() -> None:
    text = on_terminal(_SHOWS.format(options="", bar="waiting(options, 'fitting hybrid')", update="pass"))
    assert "fitting hybrid" in text
    assert "0:00:00" in text


def test_quiet_shows_nothing() -> None:
    for bar in ("live_bar(options, 'step')", "waiting(options, 'fitting')", "progress(options, 'photos', 3)"):
        assert on_terminal(_SHOWS.format(options="quiet=True", bar=bar, update="update(1)")) == ""


def test_the_library_s_bar_counts() -> None:
    text = on_terminal("import flip\nwith flip.progress_bar('photos', 8) as done:\n    done(3); done(5)")
    assert "photos" in text
    assert "8/8" in text


def test_a_notebook_without_widgets_gets_a_line_and_no_warnings(monkeypatch, capsys, recwarn) -> None:
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    monkeypatch.setattr("flip.bars.find_spec", lambda name: None)
    with flip.progress_bar("photos", 3) as progress:
        progress(3)
    assert "3/3" in capsys.readouterr().err
    assert not recwarn.list
