from __future__ import annotations

import json

import pytest

from flip.errors import CheckpointError, ConfigError
from flip.training.resume import begin_run, finished_result, may_resume

KEY = {"lr": 1e-3, "epochs": 2, "data_fingerprint": "d", "model_fingerprint": "m"}


def may(folder, key=KEY, *, resume=False, overwrite=False):
    return may_resume(folder, key, result="result.json", work=("model",), resume=resume, overwrite=overwrite)


def test_an_unfinished_run_with_the_same_key_is_resumed_and_another_key_is_named(tmp_path):
    run = tmp_path / "run"
    assert not may(run)
    begin_run(run, KEY, ())
    # Before its first checkpoint nothing is lost, whatever the key.
    assert not may(run, KEY | {"lr": 1e-2})
    (run / "checkpoints").mkdir()
    assert may(run)
    assert may(run, resume=True)
    with pytest.raises(
        ConfigError, match=r"run was begun with other settings: lr 0.01 \(was 0.001\), epochs 3 \(was 2\)"
    ) as e:
        may(run, KEY | {"lr": 1e-2, "epochs": 3})
    assert "--overwrite to begin again" in str(e.value)
    assert not may(run, KEY | {"lr": 1e-2}, overwrite=True)


def test_a_finished_run_is_refused_and_returned_to_resume(tmp_path):
    begin_run(tmp_path, KEY, ())
    assert finished_result(tmp_path / "result.json", resume=True) is None
    (tmp_path / "result.json").write_text('{"loss": 1}')
    with pytest.raises(ConfigError, match="holds a finished run; pass --overwrite to replace it, or another folder"):
        may(tmp_path)
    assert finished_result(tmp_path / "result.json", resume=False) is None
    assert finished_result(tmp_path / "result.json", resume=True) == {"loss": 1}
    assert not may(tmp_path, overwrite=True)
    (tmp_path / "result.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"result.json is damaged .*--overwrite"):
        finished_result(tmp_path / "result.json", resume=True)


def test_a_new_run_removes_its_own_files_only(tmp_path):
    begin_run(tmp_path, KEY, ("result.json", "start"))
    (tmp_path / "start").mkdir()
    for name in ("result.json", "start/a.bin", "thesis.txt"):
        (tmp_path / name).write_text("{}")
    (tmp_path / "checkpoints" / "step-00000005").mkdir(parents=True)
    begin_run(tmp_path, KEY, ("result.json", "start"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["environment.json", "thesis.txt"]


def test_runs_of_earlier_versions_are_resumed_or_refused_in_one_line(tmp_path):
    (tmp_path / "environment.json").write_text(json.dumps({"decisive": KEY | {"layout": None}}))
    (tmp_path / "model").write_text("")
    assert may(tmp_path)
    old = tmp_path / "diffusion"
    old.mkdir()
    (old / "checkpoint.pt").write_bytes(b"PK")
    with pytest.raises(CheckpointError, match="was written by an earlier flip .*pass --overwrite to begin again"):
        may(old, resume=True)
    assert not may(old, overwrite=True)
    (tmp_path / "environment.json").write_text("[]")
    with pytest.raises(CheckpointError, match=r"environment.json is damaged"):
        may(tmp_path)


@pytest.mark.parametrize("name", ["config.json", "open_clip_config.json", "checkpoints/photo.jpg"])
def test_files_of_the_same_names_are_removed_of_runs_alone(tmp_path, name):
    own = ("config.json", "open_clip_config.json")
    theirs = tmp_path / "theirs" / name
    theirs.parent.mkdir(parents=True)
    theirs.write_text("{}")
    with pytest.raises(ConfigError, match="which is of no run of flip finetune; pass another folder"):
        begin_run(tmp_path / "theirs", KEY, own)
    assert theirs.read_text() == "{}"
    run = tmp_path / "run"
    begin_run(run, KEY, own)
    (run / "config.json").write_text("{}")
    begin_run(run, KEY, own)
    assert not (run / "config.json").exists()


@pytest.mark.parametrize("begun", [3, "text", None, []])
def test_a_run_whose_settings_are_damaged_is_one_line(tmp_path, begun):
    begin_run(tmp_path, KEY, ())
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "environment.json").write_text(json.dumps({"resume_key": begun}))
    with pytest.raises(ConfigError, match="does not say with what settings it was begun"):
        may(tmp_path)
