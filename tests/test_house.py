"""The house keeps its shape: who may import whom, one room for each shared thing, and one word for each choice."""

import ast
import functools
import graphlib
import importlib
import re
import tomllib
from pathlib import Path

import pytest
import typer.main

from flip import names

ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted((ROOT / "flip").rglob("*.py"))
LIBRARY = [file for file in MODULES if file.relative_to(ROOT / "flip").parts[0] not in ("cli", "__main__.py")]

#: Each room, and the rooms below it that it may import. Arrows point down only; docs/design.md draws them.
WORDS = {"errors", "names", "settings", "shown"}
FILES = WORDS | {"arrays", "files", "mounts", "reading"}
LOW = FILES | {"machine", "metrics", "results", "features", "device"}
ALLOWED = {
    "shown": set(),
    "mounts": set(),
    "remote": {"errors", "mounts"},
    "reading": {"mounts"},
    "errors": {"shown"},
    "names": set(),
    "arrays": set(),
    "settings": {"errors"},
    "bars": {"settings"},
    "files": {"errors", "arrays", "reading"},
    "metrics": {"errors", "arrays"},
    "machine": FILES | {"device"},
    "results": FILES | {"machine", "metrics"},
    "features": {"errors", "arrays"},
    "device": WORDS,
    "sample": FILES,
    "classify": LOW,
    "data": LOW | {"sample", "remote"},
    "clip": LOW | {"sample", "data", "classify"},
    "embed": LOW | {"remote", "sample", "data", "classify", "clip"},
    "diffusion": LOW | {"sample", "data", "classify", "clip", "embed"},
    "training": LOW | {"sample", "data", "classify", "clip", "embed", "diffusion"},
    "studies": LOW | {"sample", "data", "classify", "clip", "embed", "diffusion", "training"},
    "report": LOW | {"sample", "data", "classify", "clip", "embed", "diffusion", "training", "studies"},
}
ALLOWED[""] = set(ALLOWED)
ALLOWED["cli"] = set(ALLOWED)
ALLOWED["__main__"] = {"cli"}

#: Libraries that change often, and the only file or folder that knows each.
ONLY_IMPORTERS = {
    "open_clip": ("flip/clip/",),
    "fsspec": ("flip/remote.py",),
    "faiss": ("flip/classify/index.py", "flip/classify/approximate.py"),
    "diffusers": ("flip/diffusion/",),
    "ray": ("flip/embed/ray_cluster.py",),
    "accelerate": ("flip/device.py",),
    "typer": ("flip/cli/",),
    "matplotlib": ("flip/report/",),
}


def path_of(file):
    """flip/clip/model.py, with slashes on every system."""
    return file.relative_to(ROOT).as_posix()


def module_of(file):
    """flip.clip.model; a package is called without its ``__init__``."""
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def room(module):
    """flip.clip.model is in clip; flip itself is the room without a name."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


KNOWN = {module_of(file) for file in MODULES}


@functools.cache
def parse(file):
    return ast.parse(file.read_text(encoding="utf-8"))


def imports(tree, *, types=True, inside=True):
    """Yield every module that is imported; without those that only annotations need, or that functions import."""
    skipped = set()
    for node in ast.walk(tree):
        for_types = isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        in_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if (for_types and not types) or (in_function and not inside):
            skipped.update(ast.walk(node))
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports name the whole path"
            # from flip.clip import model: a module, where there is one of that name.
            modules = {f"{node.module}.{alias.name}" for alias in node.names} & KNOWN
            yield from modules or {node.module}


@pytest.mark.parametrize("file", MODULES, ids=path_of)
def test_arrows_point_down(file):
    own = room(module_of(file))
    wrong = {m for m in imports(parse(file)) if m.split(".")[0] == "flip" and room(m) not in ALLOWED[own] | {own}}
    assert not wrong, f"{own or 'flip'} may not import these"


def test_no_room_is_without_a_rule_and_no_rule_without_a_room():
    assert {room(module_of(file)) for file in MODULES} == set(ALLOWED)


@pytest.mark.parametrize("inside", [False, True], ids=["when loaded", "when called"])
def test_no_import_goes_in_a_circle(inside):
    """Imports inside functions count in the second round, which looks at rooms: there a circle is a wrong arrow."""
    graph = {}
    for file in MODULES:
        targets = {m for m in imports(parse(file), types=False, inside=inside) if m in KNOWN}
        if inside:
            graph.setdefault(room(module_of(file)), set()).update(map(room, targets))
        else:
            graph[module_of(file)] = targets
    for node, targets in graph.items():
        targets.discard(node)
    graphlib.TopologicalSorter(graph).prepare()


@pytest.mark.parametrize("library", ONLY_IMPORTERS)
def test_one_place_imports_each_library(library):
    importers = {path_of(f) for f in MODULES if library in {m.split(".")[0] for m in imports(parse(f), types=False)}}
    assert importers, f"nothing imports {library} any more; take it out of the requirements"
    assert {path for path in importers if not path.startswith(ONLY_IMPORTERS[library])} == set()


def test_methods_import_no_other_method():
    methods = ("zeroshot", "knn", "heads")
    for file in (ROOT / "flip" / "classify").rglob("*.py"):
        own = file.relative_to(ROOT / "flip" / "classify").parts[0].removesuffix(".py")
        others = {("flip", "classify", method) for method in methods if method != own}
        if own in methods:
            assert not others & {tuple(module.split(".")[:3]) for module in imports(parse(file))}, path_of(file)


@pytest.mark.parametrize("file", [f for f in MODULES if f.name == "settings.py"], ids=path_of)
def test_settings_need_the_standard_library_only(file):
    """The command line reads them at start: ``flip.names`` and other settings are as light as they are."""
    import sys

    for module in imports(parse(file)):
        ours = module in ("flip.errors", "flip.names", "flip.settings") or module.endswith(".settings")
        # from flip import names
        assert ours or module == "flip" or module.split(".")[0] in sys.stdlib_module_names, module


# One room for each shared thing.


def calls(tree):
    """Yield ``(dotted name, call)`` of every call in a file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def test_only_files_py_writes_aside_and_renames():
    """Path.rename and Path.replace take one argument, str.replace two, dataclasses.replace keywords."""
    forbidden = {"os.rename", "os.replace", "shutil.move", "tempfile.mkstemp", "tempfile.mkdtemp"}
    found = set()
    for file in MODULES:
        tree = parse(file)
        for name, call in calls(tree):
            method = name.rpartition(".")[2] if "." in name else ""
            renames = method in ("rename", "replace") and len(call.args) == 1 and not call.keywords
            if name in forbidden or renames:
                found.add(path_of(file))
        literals = {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)}
        if any(re.search(r"\.tmp$", text) for text in literals):
            found.add(path_of(file))
    assert found == {"flip/files.py"}


def test_only_files_py_refuses_a_folder_in_use():
    sentence = re.compile("already holds files|holds other work")
    users = {path_of(f) for f in MODULES if any(sentence.search(text) for text in raised_texts(parse(f)))}
    assert users == {"flip/files.py"}


def raised_texts(tree):
    """Yield the literal text of every exception that a file raises."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) and node.exc is not None:
            for part in ast.walk(node.exc):
                if isinstance(part, ast.Constant) and isinstance(part.value, str):
                    yield part.value


@pytest.mark.parametrize("file", LIBRARY, ids=path_of)
def test_the_library_speaks_through_logging_and_reports_progress_by_one_name(file):
    for node in ast.walk(parse(file)):
        if isinstance(node, ast.FunctionDef):
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            found = {a.arg: ast.unparse(a.annotation) if a.annotation else "" for a in arguments}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found = {node.target.id: ast.unparse(node.annotation)}
        else:
            continue
        for name, annotation in found.items():
            if "Callable" in annotation or "Progress" in annotation or not annotation:
                assert name not in ("say", "note", "on_note"), f"line {node.lineno}: messages go through logging"
            if re.search(r"\bProgress\b|Callable\[\[int\], None\]", annotation):
                assert name in ("progress", "_progress", "Progress"), f"line {node.lineno}: {name} is called progress"


@pytest.mark.parametrize("file", LIBRARY, ids=path_of)
def test_the_library_neither_prints_nor_exits(file):
    tree = parse(file)
    # What can be run as python -m flip.sample.weights prints there alone.
    mains = {
        node
        for main in tree.body
        if (isinstance(main, ast.FunctionDef) and main.name == "main") or "__main__" in ast.unparse(main).split("\n")[0]
        for node in ast.walk(main)
    }
    for name, call in calls(tree):
        assert call in mains or name not in ("print", "sys.exit", "exit", "warnings.warn"), (
            f"line {call.lineno}: {name}"
        )


# One word for each choice.


def test_every_head_is_a_file_and_a_word():
    heads = importlib.import_module("flip.classify.heads")
    assert set(heads.head_classes()) == set(names.HEADS)
    assert all(cls.name == name for name, cls in heads.head_classes().items())


def test_every_layout_is_a_file_and_a_word():
    registry = importlib.import_module("flip.data.layout").layouts()
    assert [layout.name for layout in registry.values()] == list(registry) == list(names.LAYOUTS)
    files = {file.stem.replace("_", "-") for file in (ROOT / "flip" / "data" / "layouts").glob("*.py")}
    assert files - {"--init--"} == set(names.LAYOUTS)


def test_every_sampler_and_prompt_set_is_a_word():
    from flip.clip.prompts import class_prompts
    from flip.data.dataset import Rank
    from flip.diffusion import painter

    assert set(painter.SCHEDULERS) == set(names.SAMPLERS)
    for word in names.PROMPTS:
        assert class_prompts(word, ["Blue Jay"], ["001.Blue_Jay"], [Rank("genus", ("Cyanocitta",))]).source == word


#: The words of each option, on whatever command it stands.
CHOICES = {
    "--head": names.HEADS,
    "--layout": names.LAYOUTS,
    "--sampler": names.SAMPLERS,
    "--vote": names.VOTES,
    "--index": names.INDEXES,
    "--device": names.DEVICES,
    "--precision": names.PRECISIONS,
}


@pytest.mark.parametrize("flag", CHOICES)
def test_the_command_line_offers_the_words(flag):
    from flip.cli.reference import reference

    offered = re.findall(rf"^ .*{flag} [<\[]([^ ]*)[>\]]", reference(), re.M)
    assert offered, f"no command has {flag}"
    for words in offered:
        assert set(words.split("|")) == set(CHOICES[flag])


def test_every_command_is_a_file_and_a_word():
    from flip.cli.app import COMMANDS, app

    files = {file.stem for file in (ROOT / "flip" / "cli" / "commands").glob("*.py")} - {"__init__"}
    assert files == set(COMMANDS)
    assert set(typer.main.get_command(app).commands) == {*COMMANDS, "help"}


# What is installed.


def test_pip_installs_what_is_imported():
    """Every library that flip imports is a requirement, and every requirement is there for a reason."""
    import sys

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    required = {re.split(r"[\[<>=; ]", line)[0] for line in project["dependencies"]}
    optional = {re.split(r"[\[<>=; ]", d)[0] for extra in project["optional-dependencies"].values() for d in extra}
    called = {"sklearn": "scikit-learn", "PIL": "pillow", "open_clip": "open_clip_torch", "yaml": "pyyaml"}
    imported = {m.split(".")[0] for f in MODULES for m in imports(parse(f))} - {"flip"} - sys.stdlib_module_names
    # These come with torch, scikit-learn, transformers and Jinja, which need them themselves.
    imported -= {"numpy", "scipy", "huggingface_hub", "tokenizers", "markupsafe"}
    imported = {called.get(name, name) for name in imported}
    assert imported - {"faiss"} <= required | optional
    # peft is diffusers' own: its adapters need it installed.
    assert {r for r in required if not r.startswith("faiss-")} - imported <= {"peft"}
    assert {"faiss-gpu", "faiss-cpu"} <= required


def test_environment_yaml_takes_its_requirements_from_pyproject():
    text = (ROOT / "environment.yaml").read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert "- -e ." in text, "pip installs the project itself, and with it every requirement"
    assert f"python{project['requires-python']}" in text
    assert re.search(r"^\s+- pip$", text, re.M)


def test_ci_runs_every_python_that_is_promised():
    classifiers = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["classifiers"]
    promised = re.findall(r"Python :: (3\.\d+)$", "\n".join(classifiers), re.M)
    (listed,) = re.findall(r"^\s+python: \[(.*)\]$", (ROOT / ".github" / "workflows" / "ci.yml").read_text(), re.M)
    assert re.findall(r"\d\.\d+", listed) == promised
    assert len(promised) == 3


def test_the_top_level_holds_what_it_promises():
    allowed = {"flip", "tests", "docs", "pyproject.toml", "environment.yaml", "README.md", "LICENSE"}
    ignored = {"build", "dist", "data", "augmented", "shared"}
    found = {p.name for p in ROOT.iterdir() if not p.name.startswith(".")} - ignored
    assert {name for name in found if not name.endswith(".egg-info")} <= allowed


#: Calls that open files written by flip or Python itself.
OWN_FILES = (
    "flip/reading.py",
    "flip/files.py",
    "flip/machine.py",
    "flip/report/page.py",
    "flip/cli/lazy.py",
    "flip/sample/",
)


@pytest.mark.parametrize("file", MODULES, ids=path_of)
def test_files_of_others_are_opened_in_one_place(file):
    """It waits for no FIFO, and JSON has no surprises there."""
    if path_of(file).startswith(OWN_FILES):
        return
    found = re.findall(
        r"\.open\((?:\"rb\"|encoding|\))|\.read_bytes\(|\.read_text\(|json\.loads?\(", file.read_text("utf-8")
    )
    assert not found, "use flip.reading"


@pytest.mark.parametrize("file", sorted((ROOT / "tests" / "bench").glob("*.py")), ids=lambda file: file.stem)
def test_benchmarks_import_what_is_there(file):
    """A benchmark is run by hand, long after the code that it measures has moved."""
    for node in ast.walk(parse(file)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "flip":
            module = importlib.import_module(node.module)
            absent = [a.name for a in node.names if not hasattr(module, a.name)]
            for name in absent:
                importlib.import_module(f"{node.module}.{name}")
