"""Documents that execute: Python runs, pieces of code work where they are put, generated pages are up to date."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.documents import PAGES, ROOT, blocks, write_birds

#: Whole commands in fresh processes: minutes on a busy machine.
pytestmark = pytest.mark.timeout(1200)

CONTRIBUTING = (ROOT / "docs" / "contributing.md").read_text()


@pytest.fixture
def folder(tmp_path, tiny_model, squares):
    """A folder with data/birds, as the README has it: class folders of photos."""
    return write_birds(tmp_path, squares)


@pytest.fixture
def environment(tiny_model, tmp_path):
    binaries = str(Path(sys.executable).parent)
    more = {"FLIP_MODEL": str(tiny_model), "FLIP_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    return os.environ | more | {"PATH": binaries + os.pathsep + os.environ["PATH"]}


#: Runs the blocks of a page one after the other; a traceback names the section.
RUNNER = """
import json, sys
names = {"__name__": "__main__"}
for section, code in json.load(sys.stdin):
    exec(compile(code, section, "exec"), names)
"""


def python_blocks(page):
    """Return (section, code) of each python block of a page, in order."""
    return [(f"{page.name}, {block.section}", block.text) for block in blocks(page, "python")]


def run_python(page, folder, environment, tiny_model):
    blocks = [(section, code.replace("ViT-B-32/openai", str(tiny_model))) for section, code in python_blocks(page)]
    done = subprocess.run(
        [sys.executable, "-c", RUNNER],
        cwd=folder,
        env=environment,
        input=json.dumps(blocks),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


#: What an evaluation prints.
SCORE = re.compile(r"^(\d+\.\d) % \(95 %: (\d+\.\d) to (\d+\.\d)\), n ([\d,]+)$", re.M)


def test_readme_python_prints_an_interval(folder, environment, tiny_model):
    printed = run_python(ROOT / "README.md", folder, environment, tiny_model)
    ((top1, low, high, n),) = SCORE.findall(printed)
    assert float(low) <= float(top1) <= float(high)
    assert float(top1) > 50, "coloured squares are easy"
    assert 0 < int(n) < 48


def test_the_python_page_runs(folder, environment, tiny_model):
    printed = run_python(ROOT / "docs" / "python.md", folder, environment, tiny_model)
    page = (ROOT / "docs" / "python.md").read_text()
    assert len(SCORE.findall(printed)) == len(re.findall(r"print\((?:flip\.evaluate|run\.evaluation\))", page))
    for heading in ("Few shots", "Saving and loading", "Drawing", "Generated images in training", "Fine-tuning"):
        assert f"\n## {heading}\n\n```python\n" in page
    assert "fitted on features of" in printed
    assert "did you mean gda" in printed
    assert len(list((folder / "augmented").rglob("*.png"))) == 4 * 4
    assert (folder / "tuned" / "open_clip_config.json").is_file()


@pytest.fixture
def copied(tmp_path):
    """A copy of the package, without the sample's weights, to which the examples of docs/contributing.md are added."""
    package = tmp_path / "checkout" / "flip"
    shutil.copytree(ROOT / "flip", package, ignore=shutil.ignore_patterns("__pycache__", "*.safetensors"))

    def add(section, words):
        """Write the example of a section to the file it names, and a word into a tuple of another file."""
        text = re.search(rf"^## {section}$(.*?)(?=^## |\Z)", CONTRIBUTING, re.M | re.S).group(1)
        file, code = re.search(r"`(flip/[\w/]+\.py)`.*?^```python\n(.*?)^```", text, re.M | re.S).groups()
        assert not (package.parent / file).exists()
        (package.parent / file).write_text(code)
        for register, (name, word) in words.items():
            assert f"`{name}` of `{register}`" in text
            source = (package.parent / register).read_text()
            (package.parent / register).write_text(
                re.sub(rf"^{name} = \(", f'{name} = ("{word}", ', source, flags=re.M)
            )
        return package.parent

    return add


def run_copy(checkout, arguments, environment, cwd):
    paths = {"PYTHONPATH": str(checkout)}
    command = [sys.executable, "-m", "flip", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=environment | paths, capture_output=True, text=True)


def test_a_head_is_two_files(copied, folder, environment):
    checkout = copied("Add a head", {"flip/names.py": ("HEADS", "centroid")})
    fitted = run_copy(checkout, ["hybrid", "--head", "centroid", "--text", "none", "--save", "h"], environment, folder)
    assert fitted.returncode == 0, fitted.stderr
    assert json.loads(fitted.stdout)["top1"] > 50, "coloured squares are easy"
    loaded = run_copy(checkout, ["hybrid", "--load", "h"], environment, folder)
    assert json.loads(loaded.stdout)["top1"] == json.loads(fitted.stdout)["top1"]


def test_a_layout_is_two_files(copied, folder, environment):
    checkout = copied("Add a layout", {"flip/names.py": ("LAYOUTS", "list-file")})
    photos = sorted((folder / "data" / "birds").rglob("*.png"))
    (folder / "list.txt").write_text("".join(f"{p.relative_to(folder)} {p.parent.name}\n" for p in photos))
    told = run_copy(checkout, ["data", "info", "--data", "."], environment, folder)
    assert told.returncode == 0, told.stderr
    assert (json.loads(told.stdout)["layout"], json.loads(told.stdout)["photos"]) == ("list-file", 48)


def test_a_command_is_two_files(copied, folder, environment):
    checkout = copied("Add a command", {"flip/cli/app.py": ("COMMANDS", "count")})
    counted = run_copy(checkout, ["count"], environment, folder)
    assert (counted.returncode, counted.stdout) == (0, "48\n"), counted.stderr


def test_an_encoder_is_a_class(folder, environment, monkeypatch):
    import flip

    monkeypatch.setenv("FLIP_CACHE", environment["FLIP_CACHE"])
    (code,) = [code for section, code in python_blocks(ROOT / "docs" / "contributing.md") if "encoder" in section]
    names = {}
    exec(compile(code, "contributing.md", "exec"), names)
    features = flip.extract_features(flip.open_dataset(folder / "data" / "birds"), names["ColourEncoder"]())
    knn = flip.KnnClassifier().fit(features.split("train"))
    assert knn.score(features.split("test")) == 1, "the squares differ in colour"


def test_the_reference_is_what_help_prints():
    command = [sys.executable, "-m", "flip.cli.reference"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert (ROOT / "docs" / "cli.md").read_text() == printed, "run: python -m flip.cli.reference > docs/cli.md"


def test_the_manual_page_is_up_to_date():
    command = [sys.executable, "-m", "flip.cli.manual"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    page = ROOT / "flip" / "cli" / "man" / "flip.1"
    assert page.read_text() == printed, "run: python -m flip.cli.manual > flip/cli/man/flip.1"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name}: {target}"
