"""What starts quickly: help, the package and the settings load nothing heavy."""

import subprocess
import sys
from pathlib import Path

import pytest

from flip.cli.app import COMMANDS
from flip.cli.lazy import LazyCommands

ROOT = Path(__file__).resolve().parents[1]
HEAVY = ("torch", "numpy", "sklearn", "faiss", "diffusers", "open_clip", "PIL", "pyarrow", "scipy", "rich")
SETTINGS = sorted(".".join(f.relative_to(ROOT).with_suffix("").parts) for f in (ROOT / "flip").rglob("settings.py"))


def run_fresh(code, *, typer=True):
    """Run code in a fresh interpreter and check that it loaded nothing heavy; return what it printed."""
    absent = HEAVY if typer else (*HEAVY, "typer")
    code += f"\nloaded = [name for name in {absent!r} if name in sys.modules]\nassert not loaded, loaded\n"
    done = subprocess.run([sys.executable, "-c", "import sys\n" + code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("arguments", [["--help"], *([name, "--help"] for name in COMMANDS)], ids=" ".join)
def test_help_loads_nothing_heavy(arguments):
    code = (
        f"from flip.cli.app import main\ntry:\n    main({arguments!r})\nexcept SystemExit as e:\n    assert not e.code"
    )
    assert "Usage:" in run_fresh(code)


def test_the_list_of_commands_imports_none_of_them():
    code = (
        "from flip.cli.app import main\ntry:\n    main(['--help'])\nexcept SystemExit as e:\n    assert not e.code\n"
        "loaded = [name for name in sys.modules if name.startswith('flip.cli.commands.')]\nassert not loaded, loaded"
    )
    assert all(f"\n  {name}" in run_fresh(code) for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_says_of_a_command_what_its_help_begins_with(name):
    assert LazyCommands((name,), {}).sentence(name) == " ".join(
        LazyCommands((name,), {})[name].help.split("\n\n")[0].split()
    )


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_imports_no_other(name):
    code = (
        f"from flip.cli.app import main\ntry:\n    main([{name!r}, '--help'])\nexcept SystemExit as e:\n"
        "    assert not e.code\n"
        f"loaded = [m for m in sys.modules if m.startswith('flip.cli.commands.') and not m.endswith({name!r})]\n"
        "assert not loaded, loaded"
    )
    assert "Usage:" in run_fresh(code)


def test_import_flip_loads_nothing_heavy_and_knows_its_names():
    names = run_fresh("import flip\nprint(*flip.__all__)\nassert set(flip.__all__) <= set(dir(flip))", typer=False)
    assert {"open_dataset", "load_model", "extract_features", "make_head", "evaluate"} <= set(names.split())


def test_every_public_name_is_there():
    import flip

    for name in flip.__all__:
        assert getattr(flip, name) is not None, name
    with pytest.raises(AttributeError, match="no_such_name"):
        flip.no_such_name  # noqa: B018


@pytest.mark.parametrize("module", ["flip.names", "flip.errors", *SETTINGS])
def test_names_and_settings_load_nothing_heavy(module):
    run_fresh(f"import {module}", typer=False)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "PASSIVE 2000"),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE None"),
        ({"GOMP_SPINCOUNT": "0"}, "None 0"),
    ],
)
def test_threads_wait_with_little_spinning_unless_told_otherwise(given, expected, monkeypatch):
    """It is set before a library that reads it is loaded: run_fresh checks that none is."""
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    code = "import flip, os\nprint(*map(os.environ.get, ('OMP_WAIT_POLICY', 'GOMP_SPINCOUNT')))"
    assert run_fresh(code, typer=False).strip() == expected
