"""The house keeps its shape: who may import whom, and what is installed."""

import ast
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted((ROOT / "flip").rglob("*.py"))

#: Each room, and the rooms below it that it may import.
BASE = {"errors"}
LOW = BASE | {"config", "metrics", "results", "device"}
ALLOWED = {
    "errors": set(),
    "config": BASE,
    "metrics": BASE,
    "results": BASE | {"metrics", ""},
    "device": BASE | {"config"},
    "sample": BASE,
    "data": LOW | {"sample"},
    "classify": LOW,
    "clip": LOW | {"data", "classify", "sample"},
    "diffusion": LOW | {"data", "clip", "classify", "sample"},
    "report": LOW,
    "studies": LOW | {"data", "clip", "classify", "diffusion", "sample", "report"},
    "cli": LOW | {"data", "clip", "classify", "diffusion", "sample", "report", "studies", ""},
    "": set(),
    "__main__": {"cli"},
}
ONLY_IMPORTERS = {
    "open_clip": "flip/clip/model.py",
    "faiss": "flip/classify/knn.py",
    "diffusers": "flip/diffusion/",
    "accelerate": "flip/device.py",
    "typer": "flip/cli/",
}


def room(module):
    """flip.clip.model is in clip; flip itself is the room without a name."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def imports(file, *, for_types=True):
    """Yield every module a file imports, wherever the import stands; without those that only annotations need."""
    tree = ast.parse(file.read_text())
    hidden = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            hidden.update(ast.walk(node))
    for node in ast.walk(tree):
        if node in hidden and not for_types:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            if node.module == "flip":
                yield from (f"flip.{alias.name}" for alias in node.names if alias.name in ALLOWED)


@pytest.mark.parametrize("file", MODULES, ids=lambda f: str(f.relative_to(ROOT)))
def test_arrows_point_down(file):
    own = room(".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"))
    allowed = ALLOWED[own] | {own}
    for module in imports(file):
        if module.split(".")[0] == "flip":
            assert room(module) in allowed, f"{own} imports {module}"


@pytest.mark.parametrize("library", ONLY_IMPORTERS)
def test_one_place_imports_each_library(library):
    for file in MODULES:
        path = str(file.relative_to(ROOT))
        if not path.startswith(ONLY_IMPORTERS[library]):
            assert library not in {module.split(".")[0] for module in imports(file, for_types=False)}, path


def test_methods_import_no_other_method():
    methods = ("zeroshot", "knn", "heads")
    for file in (ROOT / "flip" / "classify").rglob("*.py"):
        own = file.relative_to(ROOT / "flip" / "classify").parts[0].removesuffix(".py")
        if own in methods:
            others = {f"flip.classify.{m}" for m in methods if m != own}
            for module in imports(file):
                assert not any(module.startswith(other) for other in others), f"{file.name} imports {module}"


def test_the_library_speaks_no_command_line_and_asserts_nothing_of_users():
    for file in MODULES:
        assert "sys.exit" not in file.read_text() or file.parts[-2] == "cli", file


def test_environment_yaml_installs_what_pyproject_asks_for():
    text = (ROOT / "environment.yaml").read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert "- -e ." in text, "pip installs the project itself, and with it every requirement"
    assert f"python{project['requires-python']}" in text
    assert re.search(r"^\s+- pip$", text, re.M)
    names = {re.split(r"[\[<>=; ]", d)[0] for d in project["dependencies"]}
    required = (
        "torch torchvision open_clip_torch accelerate diffusers transformers peft typer rich scikit-learn pyarrow"
    )
    assert set(required.split()) | {"pillow", "safetensors", "platformdirs", "faiss-gpu", "faiss-cpu"} <= names
    assert "torch>=2.10" in project["dependencies"], "an upper bound on torch can pick a build without torchvision"
    assert set(project["optional-dependencies"]) >= {"dev", "docs", "ray"}
    assert project["name"] == "flip-clip"
    assert project["scripts"]["flip"].startswith("flip.cli")


def test_the_top_level_holds_what_it_promises():
    allowed = {"flip", "tests", "docs", "pyproject.toml", "environment.yaml", "README.md", "LICENSE"}
    ignored = {"build", "dist", "data", "augmented", "shared"}
    found = {p.name for p in ROOT.iterdir() if not p.name.startswith(".")} - ignored
    assert {name for name in found if not name.endswith(".egg-info")} <= allowed
