"""What is known of a model without its network, and when it no longer is."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from open_clip.factory import _find_checkpoint_in_dir

import flip.clip.model
from flip.clip.folder import find_weights
from flip.clip.model import load_model
from flip.errors import ModelError

HEAVY = ("torch", "open_clip", "transformers", "torchvision", "huggingface_hub")


def in_a_new_process(code, *arguments):
    """Run code that ends by printing a JSON object; returns it, and which heavy libraries were imported."""
    code = f"import json, sys\n{code}\nprint(json.dumps([result, [m for m in {HEAVY} if m in sys.modules]]))"
    done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def folder(tiny_model, tmp_path):
    return shutil.copytree(tiny_model, tmp_path / "model")


def test_a_second_load_knows_the_model_and_imports_no_network_library(folder, tmp_path):
    first = load_model(str(folder), cache=tmp_path / "c")
    code = (
        "from pathlib import Path; from flip.clip.model import load_model\n"
        "m = load_model(sys.argv[1], cache=Path(sys.argv[2]))\n"
        "result = [m.name, m.fingerprint, m.dim, m.logit_scale, m.context_length, m.config]"
    )
    again, imported = in_a_new_process(code, folder, tmp_path / "c")
    assert imported == []
    assert again == [str(folder), first.fingerprint, 32, first.logit_scale, 16, first.config]


def test_an_answer_from_cached_embeddings_imports_no_network_library(folder, squares, tmp_path):
    code = (
        "from pathlib import Path\n"
        "from flip.clip.model import load_model\n"
        "from flip.data.open import open_dataset\n"
        "from flip.embed.extractor import FeatureExtractor\n"
        "cache = Path(sys.argv[3])\n"
        "extractor = FeatureExtractor(load_model(sys.argv[1], cache=cache), cache=cache)\n"
        "features = extractor.features(open_dataset(sys.argv[2]))\n"
        "result = [float(features.image_features.sum()), float(extractor.texts(['a fox']).sum()), extractor.is_main]"
    )
    first, imported = in_a_new_process(code, folder, squares, tmp_path / "c")
    assert "torch" in imported
    again, imported = in_a_new_process(code, folder, squares, tmp_path / "c")
    assert imported == []
    assert again == first


def test_the_models_that_open_clip_lists_are_remembered(tmp_path):
    code = (
        "from pathlib import Path; from flip.clip.hub import known_models\n"
        "result = [[row.name, row.hub, row.here] for row in known_models(Path(sys.argv[1]))]"
    )
    first, imported = in_a_new_process(code, tmp_path)
    assert "open_clip" in imported
    again, imported = in_a_new_process(code, tmp_path)
    assert not {"torch", "open_clip"} & set(imported)
    assert again == first
    memory = tmp_path / "models" / "registry.json"
    memory.write_text(memory.read_text().replace('"version": "', '"version": "0.'))
    other, imported = in_a_new_process(code, tmp_path)
    assert "open_clip" in imported
    assert other == first


@pytest.mark.parametrize("change", ["weights", "config", "touched", "another file", "versions", "damaged memory"])
def test_a_changed_model_is_loaded_again(folder, other_model, tmp_path, monkeypatch, change):
    cache = tmp_path / "c"
    before = load_model(str(folder), cache=cache)
    weights, config = folder / "open_clip_model.safetensors", folder / "open_clip_config.json"
    memory = next((cache / "models").glob("*.json"))
    if change == "weights":
        shutil.copyfile(other_model / weights.name, weights)
    elif change == "config":
        content = json.loads(config.read_text())
        content["preprocess_cfg"]["interpolation"] = "bilinear"
        config.write_text(json.dumps(content))
    elif change == "touched":
        os.utime(weights, ns=(1, 1))
    elif change == "another file":
        weights.rename(folder / "model.safetensors")
        memory.write_text(memory.read_text().replace(weights.name, "a.bin"))
        shutil.copyfile(other_model / weights.name, folder / "a.bin")
    elif change == "versions":
        content = json.loads(memory.read_text())
        memory.write_text(json.dumps(content | {"versions": {}}))
    else:
        memory.write_text("[1")
    loads, load = [], flip.clip.model._load
    monkeypatch.setattr(flip.clip.model, "_load", lambda *a: loads.append(1) or load(*a))
    after = load_model(str(folder), cache=cache)
    assert loads == [1]
    assert (after.fingerprint != before.fingerprint) == (change in ("weights", "config"))


def test_weights_that_change_between_naming_and_loading_are_refused(folder, other_model, tmp_path):
    load_model(str(folder), cache=tmp_path / "c")
    known = load_model(str(folder), cache=tmp_path / "c")
    shutil.copyfile(other_model / "open_clip_model.safetensors", folder / "open_clip_model.safetensors")
    with pytest.raises(ModelError, match="changed while it was in use; run the command again"):
        known.encode_texts(["a fox"])
    assert load_model(str(folder), cache=tmp_path / "c").fingerprint != known.fingerprint


def test_a_cache_that_cannot_be_written_remembers_nothing_and_stops_nothing(folder, tmp_path):
    (tmp_path / "file").write_text("")
    assert load_model(str(folder), cache=tmp_path / "file").dim == 32


def test_fingerprints_are_those_of_earlier_caches(tmp_path):
    """A cache of embeddings stays valid for as long as these do not change."""
    assert load_model("sample").fingerprint == "83c99685c5fe344f"


def test_the_real_model_s_fingerprint_is_that_of_earlier_caches(shared):
    model = load_model(str(shared / "models" / "flip-lit-b0"))
    assert (model.fingerprint, model.dim) == ("67f92b7a3c7988cb", 384)


@pytest.mark.parametrize(
    "names",
    [
        ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"],
        ["open_clip_pytorch_model.bin", "model.safetensors"],
        ["model.pth", "pytorch_model.bin", "z.safetensors"],
        ["b.bin", "a.pth", "c.safetensors", "a.safetensors"],
        ["b.bin", "a.pth"],
        ["open_clip_pytorch_model.pth", "open_clip_pytorch_model.safetensors"],
        ["notes.txt"],
    ],
)
def test_the_weights_file_is_the_one_that_open_clip_chooses(tmp_path, names):
    for name in names:
        (tmp_path / name).touch()
    theirs = _find_checkpoint_in_dir(tmp_path)
    assert find_weights(tmp_path) == (theirs and Path(theirs))
