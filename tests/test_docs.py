"""Documents that execute: the README's commands run, and the reference is what --help prints."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language, section):
    text = re.search(rf"^## {section}$(.*?)^## ", README, re.M | re.S).group(1)
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.M | re.S)


@pytest.fixture
def folder(tmp_path, tiny_model, squares):
    """A folder with data/birds, as the README has it: class folders of photos."""
    for split in ("train", "test"):
        for kind in (squares / split).iterdir():
            target = tmp_path / "data" / "birds" / kind.name
            target.mkdir(parents=True, exist_ok=True)
            for photo in kind.iterdir():
                shutil.copy(photo, target / f"{split}{photo.name}")
    return tmp_path


@pytest.fixture
def environment(tiny_model, tmp_path):
    binaries = str(Path(sys.executable).parent)
    more = {"FLIP_MODEL": str(tiny_model), "FLIP_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    return os.environ | more | {"PATH": binaries + os.pathsep + os.environ["PATH"]}


def test_readme_commands_run_as_they_stand(folder, environment):
    commands = "\n".join(blocks("bash", "Use"))
    # Twenty photos cannot have twenty-one neighbours: the sweep is cut for the small folder of this test alone.
    commands = commands.replace("3:20", "3:9")
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert (folder / "named.jsonl").read_text().count("\n") == 48
    assert (folder / "runs" / "knn" / "result.json").is_file()


def test_readme_python_runs(folder, environment, tiny_model):
    (code,) = blocks("python", "Use")
    code = code.replace("ViT-B-32/openai", str(tiny_model))
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert 0.5 < float(done.stdout) <= 1


def test_the_reference_is_what_help_prints():
    command = [sys.executable, "-m", "flip.cli.reference"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert (ROOT / "docs" / "cli.md").read_text() == printed, "run: python -m flip.cli.reference > docs/cli.md"


def test_links_lead_somewhere():
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
