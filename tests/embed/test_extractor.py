import os
import shutil
from dataclasses import replace

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image, ImageOps

from flip.clip.model import load_model
from flip.data.open import open_dataset
from flip.embed.extractor import FeatureExtractor, extract_features
from flip.embed.settings import EmbedSettings
from flip.embed.table import read_table_features, table_metadata, write_table
from flip.errors import ConfigError, FeatureMismatchError
from tests.conftest import write_squares

FP32 = EmbedSettings(device="cpu", precision="fp32")


@pytest.fixture(scope="module")
def model(tiny_model):
    return load_model(str(tiny_model))


@pytest.fixture
def extractor(model, tmp_path):
    return FeatureExtractor(model, replace(FP32, batch_size=5), tmp_path / "cache")


def direct(folder, files):
    """Embed with open_clip's API alone."""
    network, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
    network.eval()
    with torch.inference_mode():
        batch = torch.stack([preprocess(Image.open(file)) for file in files])
        return network.encode_image(batch, normalize=True).numpy()


def test_features_equal_open_clip_s_own(extractor, squares, tiny_model):
    dataset = open_dataset(squares)
    ours = extractor.features(dataset).image_features
    theirs = direct(tiny_model, [dataset.file(r) for r in dataset.records])
    assert (ours * theirs).sum(axis=1).min() > 0.9999
    assert np.linalg.norm(ours, axis=1) == pytest.approx(np.ones(len(dataset)), abs=1e-6)


def test_real_features_equal_open_clip_s_own(shared, tmp_path):
    folder = shared / "models" / "flip-lit-b0"
    dataset = open_dataset(shared / "data" / "birds").take(range(0, 1701, 90))
    ours = extract_features(dataset, load_model(str(folder)), settings=FP32, cache=tmp_path)
    theirs = direct(folder, [dataset.file(r) for r in dataset.records])
    assert (ours.image_features * theirs).sum(axis=1).min() > 0.9999


def test_a_second_run_embeds_nothing_and_returns_the_same(extractor, squares):
    dataset = open_dataset(squares)
    first = extractor.features(dataset)
    assert extractor.count_known(dataset) == len(dataset)
    again = replace(extractor)
    assert (again.features(dataset).image_features == first.image_features).all()
    assert "encoder" not in again.__dict__, "the network was placed although nothing was missing"


def test_only_what_is_new_or_changed_is_embedded(extractor, tmp_path):
    root = write_squares(tmp_path / "data" / "train", photos=2).parent
    extractor.features(open_dataset(root))
    file = root / "train" / "red_fox" / "0.png"
    Image.new("RGB", (40, 40), (0, 0, 255)).save(file)
    Image.new("RGB", (40, 40), (9, 9, 255)).save(root / "train" / "red_fox" / "new.png")
    dataset = open_dataset(root)
    before = dict(zip(dataset.records, range(len(dataset)), strict=True))
    assert extractor.count_known(dataset) == len(dataset) - 2
    features = extractor.features(dataset)
    row = next(i for r, i in before.items() if r.path.endswith("red_fox/0.png"))
    assert features.image_features[row] @ features.image_features[row - 1] < 1


def test_unreadable_photos_have_a_row_and_stop_nothing(extractor, tmp_path, squares):
    root = shutil.copytree(squares, tmp_path / "data")
    (root / "test" / "red_fox" / "0.png").write_text("I am text")
    whole = (root / "test" / "red_fox" / "1.png").read_bytes()
    (root / "test" / "red_fox" / "1.png").write_bytes(whole[: len(whole) // 2])
    dataset = open_dataset(root)
    features = extractor.features(dataset)
    broken = [path for path, error in zip(features.paths, features.errors, strict=True) if error]
    assert broken == ["test/red_fox/0.png", "test/red_fox/1.png"]
    assert features.unreadable == 2
    assert len(features.readable()) == len(dataset) - 2
    again = extractor.features(dataset)
    assert again.errors == features.errors, "errors are remembered too"


def test_a_file_that_vanished_is_an_error_row_and_not_cached(extractor, tmp_path):
    root = write_squares(tmp_path / "data" / "train", photos=2).parent
    dataset = open_dataset(root)
    gone = root / "train" / "red_fox" / "1.png"
    kept = gone.read_bytes()
    gone.unlink()
    assert extractor.features(dataset).errors.count("no such file") == 1
    gone.write_bytes(kept)
    assert extractor.features(dataset).unreadable == 0


def test_stream_keeps_the_order_and_yields_batches(extractor, squares):
    files = sorted(str(p) for p in squares.rglob("*.png"))
    files = [*files, "/nowhere.png", files[0]]
    batches = list(extractor.stream(files))
    assert [source.file for batch in batches for source in batch.sources] == files
    assert [len(batch.sources) for batch in batches[:2]] == [5, 5]
    errors = [error for batch in batches for error in batch.errors]
    assert errors.count(None) == len(files) - 1
    assert batches[-1].embeddings[-1] == pytest.approx(batches[0].embeddings[0])


def test_an_interruption_keeps_what_was_finished(extractor, squares):
    dataset = open_dataset(squares)
    stream = extractor.stream(str(dataset.file(r)) for r in dataset.records)
    next(stream)
    next(stream)
    stream.close()
    assert extractor.count_known(dataset) == 10


def test_mirror_images_are_averaged(model, tmp_path, squares, tiny_model):
    file = next(squares.rglob("*.png"))
    flipped = tmp_path / "flipped.png"
    ImageOps.mirror(Image.open(file)).save(flipped)
    a, b = direct(tiny_model, [file, flipped])
    extractor = FeatureExtractor(model, replace(FP32, tta="flip"), tmp_path)
    got = next(iter(extractor.stream([str(file)]))).embeddings[0]
    assert got == pytest.approx((a + b) / np.linalg.norm(a + b), abs=2e-3)


def test_crop_boxes_sees_the_box_alone_and_never_the_whole_photo_s_cache(model, tmp_path):
    (tmp_path / "train" / "a").mkdir(parents=True)
    picture = Image.new("RGB", (80, 40), (255, 0, 0))
    picture.paste((0, 0, 255), (0, 0, 40, 40))
    picture.save(tmp_path / "train" / "a" / "0.png")
    (tmp_path / "m.csv").write_text("path,label,split,x,y,w,h\ntrain/a/0.png,a,train,0,0,40,40\n")
    blue = tmp_path / "blue.png"
    Image.new("RGB", (40, 40), (0, 0, 255)).save(blue)
    cropping = replace(FP32, crop="boxes")
    dataset = open_dataset(tmp_path / "m.csv")
    whole = FeatureExtractor(model, FP32, tmp_path / "c").features(dataset).image_features[0]
    cropped = FeatureExtractor(model, cropping, tmp_path / "c").features(dataset).image_features[0]
    expected = next(iter(FeatureExtractor(model, FP32, tmp_path / "c").stream([str(blue)]))).embeddings[0]
    assert cropped == pytest.approx(expected, abs=1e-4)
    assert cropped @ whole < 0.9999


def test_crop_without_boxes_is_one_line(model, tmp_path, squares):
    with pytest.raises(ConfigError, match="has no boxes"):
        extract_features(open_dataset(squares), model, settings=EmbedSettings(crop="boxes"), cache=tmp_path)


def test_bf16_stays_close_to_fp32(model, tmp_path, squares):
    dataset = open_dataset(squares).take(range(4))
    fp32, bf16 = (
        extract_features(dataset, model, settings=replace(FP32, precision=p), cache=tmp_path).image_features
        for p in ("fp32", "bf16")
    )
    cosines = (fp32 * bf16).sum(axis=1)
    assert cosines.mean() >= 0.999
    assert cosines.min() >= 0.98
    assert (fp32 != bf16).any()


def test_texts_are_encoded_once_each_and_equal_open_clip_s(extractor, tiny_model):
    texts = ["a red fox", "a blue jay", "a red fox"]
    ours = extractor.texts(texts)
    network = open_clip.create_model_from_pretrained(f"local-dir:{tiny_model}", return_transform=False)
    with torch.inference_mode():
        theirs = network.encode_text(open_clip.get_tokenizer(f"local-dir:{tiny_model}")(texts), normalize=True).numpy()
    assert ours == pytest.approx(theirs, abs=1e-5)
    assert (extractor.texts(["a blue jay"])[0] == ours[1]).all()


def test_the_written_table_is_read_back_without_photos_or_model(extractor, squares, tmp_path, tiny_model, other_model):
    dataset = open_dataset(squares)
    features = extractor.features(dataset)
    folder = tmp_path / "table"
    write_table(folder, features, dataset, str(tiny_model))
    back = open_dataset(folder)
    assert back.layout == "embeddings"
    assert back.classnames == dataset.classnames
    assert table_metadata(back)["model"] == str(tiny_model)
    read = read_table_features(back.select("test"))
    assert read.image_features == pytest.approx(features.split("test").image_features, abs=1e-3)
    assert (read.labels == features.split("test").labels).all()
    with pytest.raises(FeatureMismatchError, match="was made by"):
        read_table_features(back, load_model(str(other_model)))
    with pytest.raises(ConfigError, match="already holds files"):
        write_table(folder, features, dataset, "m")


def test_memory_of_the_stream_does_not_grow_with_the_photos(extractor, squares):
    """At no time are more than three batches decoded: what runs ahead of the network is bounded."""
    file = str(next(squares.rglob("*.png")))
    asked = 0

    def sources():
        nonlocal asked
        for _ in range(200):
            asked += 1
            yield file

    stream = extractor.stream(sources())
    next(stream)
    assert asked <= 4 * extractor.settings.batch_size
    stream.close()


@pytest.mark.slow
def test_two_processes_share_the_work(tiny_model, squares, tmp_path):
    import json
    import subprocess
    import sys

    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "-m", "flip"]
    command += [
        "embed",
        "--data",
        str(squares),
        "--model",
        str(tiny_model),
        "--cache",
        str(tmp_path),
        "--device",
        "cpu",
    ]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["n"] == 48
    parts = list(tmp_path.glob("*/images/*.parquet"))
    assert len(parts) == 2
