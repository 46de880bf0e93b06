"""flip embed --shard, --join and --layout-out, and embeddings of any program as data."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.cli.conftest import one_line, read_json, read_rows

ROOT = Path(__file__).resolve().parents[2]


def shards(flip, data, folder, *names, **environment):
    return [read_json(flip("embed", "--data", data, "-o", folder, "--shard", name)) for name in names]


def test_shards_joined_are_the_table_of_one_run(flip, squares, tmp_path):
    read_json(flip("embed", "--data", squares, "-o", tmp_path / "local"))
    done = shards(flip, squares, tmp_path / "t", "2/3", "0/3", "1/3")
    assert [(one["shard"], one["n"], one["of"]) for one in done] == [("2/3", 16, 48), ("0/3", 16, 48), ("1/3", 16, 48)]
    joined = read_json(flip("embed", "--join", tmp_path / "t"))
    assert (joined["n"], joined["shards"], joined["files"]) == (48, 3, ["embeddings.parquet"])
    assert pq.read_table(tmp_path / "t").equals(pq.read_table(tmp_path / "local"))
    scores = [read_json(flip("knn", "--data", tmp_path / name, "-k", "3"))["top1"] for name in ("t", "local")]
    assert scores[0] == scores[1]


def test_what_is_done_is_one_line(flip, squares, tmp_path):
    shards(flip, squares, tmp_path / "t", "0/2", "1/2")
    again = flip("embed", "--data", squares, "-o", tmp_path / "t", "--shard", "1/2")
    assert (again.exit_code, again.stdout) == (0, "")
    assert "shard 1/2 of" in again.stderr.splitlines()[-1]
    assert "is there (24 rows); nothing to do" in again.stderr.splitlines()[-1]
    read_json(flip("embed", "--join", tmp_path / "t"))
    for command in (["--data", squares, "-o", tmp_path / "t", "--shard", "0/2"], ["--join", tmp_path / "t"]):
        last = flip("embed", *command)
        assert (last.exit_code, last.stdout) == (0, "")
        assert "nothing to do" in last.stderr.splitlines()[-1]


def test_auto_takes_the_numbers_of_a_slurm_array(flip, squares, tmp_path, monkeypatch):
    for name, value in {"MIN": 5, "COUNT": 3, "STEP": 2}.items():
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", str(value))
    for task in (9, 5, 7):
        monkeypatch.setenv("SLURM_ARRAY_TASK_ID", str(task))
        shards(flip, squares, tmp_path / "t", "auto")
    assert read_json(flip("embed", "--join", tmp_path / "t"))["n"] == 48
    monkeypatch.setenv("WORLD_SIZE", "2")
    refused = flip("embed", "--data", squares, "-o", tmp_path / "t", "--shard", "auto")
    assert "pass --shard I/N under accelerate launch" in one_line(refused, 1)


def test_without_the_option_the_environment_is_ignored(flip, squares, tmp_path, monkeypatch):
    read_json(flip("embed", "--data", squares, "-o", tmp_path / "local"))
    strays = {"RANK": "3", "LOCAL_RANK": "3", "SLURM_PROCID": "3", "SLURM_LOCALID": "3", "SLURM_ARRAY_TASK_ID": "3"}
    for name, value in {**strays, "SLURM_ARRAY_TASK_COUNT": "4", "SLURM_ARRAY_TASK_MIN": "0"}.items():
        monkeypatch.setenv(name, value)
    assert read_json(flip("embed", "--data", squares, "-o", tmp_path / "t"))["n"] == 48
    assert pq.read_table(tmp_path / "t").equals(pq.read_table(tmp_path / "local"))


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--shard", "4/4", "-o", "t"], 2, "shards count from 0; pass 0/4 to 3/4"),
        (["--shard", "1", "-o", "t"], 2, "--shard 1 is no shard; pass I/N"),
        (["--shard", "0/4"], 2, "pass -o with the folder of all shards"),
        (["--shard", "0/4", "-o", "t", "--map"], 2, "leave it out with --shard"),
        (["--shard", "0/4", "-o", "t", "--overwrite"], 2, "would remove what other shards wrote"),
        (["--shard", "auto", "-o", "t"], 1, "SLURM_ARRAY_TASK_ID is no number here"),
        (["--shard", "0/4", "-o", "t", "--layout-out", "clip-retrieval"], 2, "join them"),
        (["--layout-out", "clip-retrieval"], 2, "pass -o with a folder too"),
        (["--layout-out", "clip-retrieval", "-o", "t", "--map"], 2, "leave it out with --layout-out"),
        (["--join", "t", "-o", "u"], 2, "leave out --output"),
        (["--join", "t", "--shard", "0/4"], 2, "leave out --shard"),
        (["--join", "nothing"], 1, "holds no shards"),
        (["--embedding-column", "x"], 1, "has no column of float lists"),
    ],
)
def test_slips_are_one_line(flip, squares, monkeypatch, arguments, code, said):
    data = [] if "--join" in arguments else ["--data", squares]
    assert said in one_line(flip("embed", *data, *arguments), code)


def test_unreadable_photos_of_shards_are_told_each_time(flip, birds, tmp_path):
    (birds / "train" / "red_fox" / "0.png").write_text("text")
    place = next(i for i in range(2) if "cannot be read" in flip("embed", "-o", "t", "--shard", f"{i}/2").stderr)
    again = flip("embed", "-o", "t", "--shard", f"{place}/2", "--strict")
    assert (again.exit_code, "1 inputs were unreadable" in again.stderr) == (3, True)
    flip("embed", "-o", "t", "--shard", f"{1 - place}/2")
    for _ in range(2):
        joined = flip("embed", "--join", "t", "--strict")
        assert (joined.exit_code, "1 inputs were unreadable" in joined.stderr) == (3, True)


def test_a_join_and_a_run_leave_what_is_not_theirs(flip, birds, tmp_path):
    read_json(flip("embed", "-o", "other"))
    read_json(flip("embed", "-o", "t", "--shard", "0/2"))
    assert "holds shards of a table" in one_line(flip("embed", "-o", "t", "--overwrite"), 1)
    read_json(flip("embed", "-o", "t", "--shard", "1/2"))
    (tmp_path / "t" / "shards" / "notes.txt").write_text("mine")
    assert "notes.txt is no part of the table; move it out" in one_line(flip("embed", "--join", "t"), 1)
    (tmp_path / "t" / "shards" / "notes.txt").unlink()
    table = (tmp_path / "other" / "embeddings.parquet").read_bytes()
    (tmp_path / "t" / "embeddings.parquet").write_bytes(table)
    assert "is a table of something else; move it out" in one_line(flip("embed", "--join", "t"), 1)
    assert (tmp_path / "t" / "embeddings.parquet").read_bytes() == table
    (tmp_path / "t" / "embeddings.parquet").unlink()
    assert read_json(flip("embed", "--join", "t"))["n"] == 20
    (tmp_path / "u").mkdir()
    (tmp_path / "u" / "mine.txt").write_text("mine")
    refused = one_line(flip("embed", "-o", "u", "--shard", "0/2"), 1)
    assert refused == "flip: -o of --shard u already holds files; pass a new folder"


@pytest.mark.parametrize("options", [[], ["--shard", "0/1"], ["--layout-out", "clip-retrieval"], ["--map"]])
def test_a_folder_may_have_any_name(flip, birds, tmp_path, options):
    folder = tmp_path / os.fsdecode(b"pl\xff")
    result = flip("embed", "-o", folder, *options)
    assert result.exit_code == 0, result.output
    assert list(folder.rglob("*.parquet"))


def test_join_takes_no_data(flip, squares, monkeypatch):
    assert "leave out --data" in one_line(flip("embed", "--data", squares, "--join", "t"), 2)
    monkeypatch.setenv("FLIP_DATA", str(squares))
    assert "holds no shards" in one_line(flip("embed", "--join", "t"), 1)


def test_the_wrong_shard_is_one_line(flip, squares, tmp_path, other_model):
    shards(flip, squares, tmp_path / "t", "0/2")
    wrong = {
        ("--shard", "0/4"): "shards 4 (was 2)",
        ("--shard", "1/2", "--model", other_model): "model ",
        ("--shard", "1/2", "--split", "test"): "rows 24 (was 48)",
        ("--shard", "1/2", "--tta", "flip"): "tta flip (was none)",
    }
    for arguments, said in wrong.items():
        message = one_line(flip("embed", "--data", squares, "-o", tmp_path / "t", *arguments), 1)
        assert "was begun with other settings" in message
        assert said in message
    assert "lacks shard 1 of 2" in one_line(flip("embed", "--join", tmp_path / "t"), 1)
    assert "not joined; run flip embed --join" in one_line(flip("knn", "--data", tmp_path / "t"), 1)


@pytest.mark.slow
def test_processes_of_a_launcher_share_a_shard(flip, squares, tmp_path):
    # On processors alone accelerate launch starts one process; torchrun starts what it starts on GPUs.
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "flip"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    for shard in ("0/2", "1/2"):
        call = [*launch, "embed", "--data", squares, "-o", tmp_path / "t", "--shard", shard, "--device", "cpu"]
        done = subprocess.run(list(map(str, call)), cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["embedded"] == 24
    read_json(flip("embed", "--join", tmp_path / "t"))
    read_json(flip("embed", "--data", squares, "-o", tmp_path / "local"))
    assert pq.read_table(tmp_path / "t").equals(pq.read_table(tmp_path / "local"))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_real_photos_give_one_table_by_every_way(flip, shared, tmp_path):
    """Each way has a cache of its own, so that all photos are embedded anew."""
    model = shared / "models" / "flip-lit-b0"
    given = ["--data", shared / "data" / "birds", "--model", model, "--precision", "fp32", "--device", "cpu"]
    read_json(flip("embed", *given, "-o", tmp_path / "local", "--cache", tmp_path / "a"))
    for i in (3, 0, 2, 1):
        read_json(flip("embed", *given, "-o", tmp_path / "t", "--shard", f"{i}/4", "--cache", tmp_path / f"b{i}"))
    read_json(flip("embed", "--join", tmp_path / "t"))
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "flip"]
    call = [*launch, "embed", *given, "-o", tmp_path / "two", "--cache", tmp_path / "c"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(list(map(str, call)), cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    local = pq.read_table(tmp_path / "local")
    for other in (pq.read_table(tmp_path / name) for name in ("t", "two")):
        assert other.drop_columns(["embedding"]).equals(local.drop_columns(["embedding"]))
        rows = [np.stack(t["embedding"].to_numpy(zero_copy_only=False)).astype(np.float32) for t in (local, other)]
        unit = [r / np.linalg.norm(r, axis=1, keepdims=True) for r in rows]
        assert np.einsum("nd,nd->n", *unit).min() >= 0.9999


# clip-retrieval's folders.


def test_clip_retrieval_s_folders_are_written_and_read_back(flip, squares, tmp_path):
    read_json(flip("embed", "--data", squares, "-o", tmp_path / "flip"))
    made = read_json(flip("embed", "--data", squares, "-o", tmp_path / "cr", "--layout-out", "clip-retrieval"))
    assert made["n"] == 48
    files = sorted(path.relative_to(tmp_path / "cr").as_posix() for path in (tmp_path / "cr").rglob("*.*"))
    assert files == ["img_emb/img_emb_0.npy", "metadata/metadata_0.parquet"]
    rows, table = np.load(tmp_path / "cr" / "img_emb" / "img_emb_0.npy"), pq.read_table(tmp_path / "flip")
    assert (rows.dtype, rows.shape) == (np.float16, (48, 32))
    assert (rows == np.stack(table["embedding"].to_numpy(zero_copy_only=False))).all()
    metadata = pq.read_table(tmp_path / "cr" / "metadata" / "metadata_0.parquet")
    assert metadata["image_path"].to_pylist() == [str(squares / path) for path in table["path"].to_pylist()]
    assert metadata["label"].equals(table["label"])
    scores = [read_json(flip("knn", "--data", tmp_path / name, "-k", "3"))["top1"] for name in ("cr", "flip")]
    assert scores[0] == scores[1]


def test_a_table_becomes_clip_retrieval_s_folders_without_its_model(flip, squares, tmp_path, monkeypatch):
    read_json(flip("embed", "--data", squares, "-o", tmp_path / "flip"))
    monkeypatch.delenv("FLIP_MODEL")
    file = tmp_path / "flip" / "embeddings.parquet"
    metadata = {key: value.replace(b"tiny", b"gone") for key, value in pq.read_schema(file).metadata.items()}
    pq.write_table(pq.read_table(file).replace_schema_metadata({b"flip": metadata[b"flip"]}), file)
    made = read_json(
        flip("embed", "--data", tmp_path / "flip", "-o", tmp_path / "cr", "--layout-out", "clip-retrieval")
    )
    assert (made["n"], made["embedded"], made["device"]) == (48, 0, "none")
    assert np.load(tmp_path / "cr" / "img_emb" / "img_emb_0.npy").shape == (48, 32)


def test_unreadable_photos_and_captions_in_clip_retrieval_s_folders(flip, birds, tmp_path):
    (birds / "train" / "red_fox" / "0.png").write_text("text")
    lines = [json.dumps({"file_name": f"blue_jay/{i}.png", "text": ["a jay", "a bird"]}) for i in range(2)]
    (birds / "test" / "metadata.jsonl").write_text("\n".join(lines))
    made = flip("embed", "-o", tmp_path / "cr", "--layout-out", "clip-retrieval")
    assert "1 photos without an embedding are left out" in made.stderr
    metadata = pq.read_table(tmp_path / "cr" / "metadata" / "metadata_0.parquet").to_pylist()
    assert len(metadata) == len(np.load(tmp_path / "cr" / "img_emb" / "img_emb_0.npy")) == 19
    assert {row["caption"] for row in metadata} == {"a jay", None}


def test_clip_retrieval_s_paths_are_those_of_the_photos_also_from_a_table(flip, birds, tmp_path):
    (birds / "train" / "red_fox" / "0.png").rename(birds / "train" / "red_fox" / os.fsdecode(b"na\xefve.png"))
    read_json(flip("embed", "-o", "t"))
    paths = []
    for data, folder in ((birds, "a"), ("t", "b")):
        read_json(flip("embed", "--data", data, "-o", folder, "--layout-out", "clip-retrieval"))
        paths.append([row["image_path"] for row in metadata_of(tmp_path / folder / "img_emb" / "img_emb_0.npy")])
    assert paths[0] == paths[1]
    assert f"file://{birds}/train/red_fox/na%EFve.png" in paths[0]


@pytest.mark.parametrize("rows_a_file", [1, 5, 18, 19, 20])
def test_clip_retrieval_s_files_have_so_many_rows(flip, birds, tmp_path, monkeypatch, rows_a_file):
    from flip.embed import clip_retrieval, row_groups

    (birds / "train" / "red_fox" / "0.png").write_text("text")
    read_json(flip("embed", "--data", birds, "-o", tmp_path / "whole", "--layout-out", "clip-retrieval"))
    whole = np.load(tmp_path / "whole" / "img_emb" / "img_emb_0.npy")
    monkeypatch.setattr(row_groups, "GROUP_ROWS", 7)
    monkeypatch.setattr(clip_retrieval.write_clip_retrieval, "__kwdefaults__", {"rows_a_file": rows_a_file})
    for name, source in {"photos": birds, "table": tmp_path / "flip"}.items():
        if source != birds:
            read_json(flip("embed", "--data", birds, "-o", source))
        read_json(flip("embed", "--data", source, "-o", tmp_path / name, "--layout-out", "clip-retrieval"))
        arrays = sorted((tmp_path / name / "img_emb").iterdir())
        assert [len(np.load(file)) for file in arrays[:-1]] == [rows_a_file] * (len(arrays) - 1)
        assert (np.concatenate([np.load(file) for file in arrays]) == whole).all()
        rows = [row for file in arrays for row in metadata_of(file)]
        assert rows == metadata_of(tmp_path / "whole" / "img_emb" / "img_emb_0.npy")


def metadata_of(array):
    name = array.name.replace("img_emb", "metadata").replace(".npy", ".parquet")
    return pq.read_table(array.parent.parent / "metadata" / name).to_pylist()


# Embeddings of any program.


@pytest.fixture
def colleague(tmp_path):
    """A table as a colleague's program writes it: three kinds, 12 numbers each, no word of the model."""
    rng = np.random.default_rng(0)
    centres = rng.normal(0, 1, (3, 12))
    labels = np.arange(90) % 3
    rows = centres[labels] + rng.normal(0, 0.4, (90, 12))
    cells = {
        "image_path": [f"/gone/{i}.jpg" for i in range(90)],
        "class": [("wren", "gull", "robin")[c] for c in labels],
        "emb": [list(row) for row in rows],
    }
    pq.write_table(pa.table(cells), tmp_path / "dino.parquet")
    return tmp_path / "dino.parquet"


def test_knn_hybrid_check_and_report_need_no_model(flip, colleague, tmp_path, monkeypatch):
    monkeypatch.setenv("FLIP_MODEL", "no-such/model")
    for k, command in enumerate((["knn"], ["hybrid"], ["hybrid", "--text", "none", "--head", "gda"])):
        result = flip(*command, "--data", colleague, "--run", tmp_path / f"run{k}", "--shots", "1,4", "--seeds", "2")
        if command == ["hybrid"]:
            assert "no-such/model" in one_line(result, 1), "the model that is named must be there where it is asked"
            monkeypatch.delenv("FLIP_MODEL")
            result = flip(
                *command, "--data", colleague, "--run", tmp_path / f"run{k}", "--shots", "1,4", "--seeds", "2"
            )
            assert result.stderr.count("does not say which model made it, so there is no text side") == 1
        evaluation = read_json(result)
        assert evaluation["top1"] > 80
        assert evaluation["model"] == "embeddings of dino.parquet:emb"
    assert read_json(flip("data", "check", colleague))["photos"] == 90
    assert flip("report", tmp_path / "run0", tmp_path / "run1", "-o", tmp_path / "r.html").exit_code == 0
    assert '"map":0' in (tmp_path / "r.html").read_text()
    assert flip("compare", tmp_path / "run0", tmp_path / "run1").exit_code == 0


def test_a_model_of_another_width_gives_no_text_side(flip, colleague):
    result = flip("hybrid", "--data", colleague, "--head", "gda")
    assert read_json(result)["top1"] > 80
    assert "so there is no text side" in result.stderr


def test_photos_are_named_with_the_model_of_the_table_only(flip, colleague, squares, photo, tmp_path, tiny_model):
    assert "needs the model that made its embeddings" in one_line(flip("knn", "--data", colleague, photo), 1)
    assert "needs the model that made its embeddings" in one_line(flip("zeroshot", "--data", colleague), 1)
    read_json(flip("embed", "--data", squares, "-o", tmp_path / "t", "--layout-out", "clip-retrieval"))
    (row,) = read_rows(flip("knn", "--data", tmp_path / "t", photo))
    assert row["label"] == "red fox"
    result = flip("hybrid", "--data", tmp_path / "t", "--head", "gda", "--save", tmp_path / "head")
    assert f"{tiny_model} is taken for that one" in result.stderr
    loaded = read_json(flip("hybrid", "--load", tmp_path / "head", "--data", tmp_path / "t"))
    assert loaded["top1"] == read_json(result)["top1"]
    assert read_rows(flip("hybrid", "--load", tmp_path / "head", photo))[0]["label"] == "red fox"


def test_a_head_of_a_colleague_s_table(flip, colleague, tmp_path):
    fitted = read_json(flip("hybrid", "--data", colleague, "--head", "gda", "--text", "none", "--save", tmp_path / "h"))
    loaded = read_json(flip("hybrid", "--load", tmp_path / "h", "--data", colleague))
    assert loaded["top1"] == fitted["top1"]


def test_a_colleague_s_table_becomes_flip_s(flip, colleague, tmp_path):
    made = read_json(flip("embed", "--data", colleague, "-o", tmp_path / "t"))
    assert made["n"] == 90
    scores = [read_json(flip("knn", "--data", data, "-k", "5"))["top1"] for data in (colleague, tmp_path / "t")]
    assert abs(scores[0] - scores[1]) < 5
    assert "so there is no text side" in flip("hybrid", "--data", tmp_path / "t", "--head", "gda").stderr


def test_the_column_is_chosen(flip, colleague, tmp_path):
    table = pq.read_table(colleague)
    pq.write_table(table.append_column("more", table["emb"]), colleague)
    assert "pass --embedding-column emb" in one_line(flip("knn", "--data", colleague), 1)
    assert read_json(flip("knn", "--data", colleague, "--embedding-column", "more"))["top1"] > 80
