from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps
from PIL.PngImagePlugin import PngInfo

import flip.diffusion.augment as augmenting
from flip.clip.model import load_model
from flip.data.dataset import Dataset, Photo, Record
from flip.data.open import open_dataset
from flip.device import resolve_device
from flip.diffusion.augment import Callbacks, Kept, augment, fill_slots
from flip.diffusion.augment_folder import begin, finish, resume_key
from flip.diffusion.checkpoint import Loaded
from flip.diffusion.copies import PhotoHashes
from flip.diffusion.judge import COPY, LABEL, SIMILARITY, ClipFilter, ImageJudge, class_thresholds, open_filter
from flip.diffusion.metadata import ImageMetadata
from flip.diffusion.painter import Painter
from flip.diffusion.pictures import read_metadata
from flip.diffusion.settings import AugmentSettings, DrawSettings, parse_filter
from flip.diffusion.slots import plan_slots
from flip.diffusion.texts import caption_prompt, drawing_prompts
from flip.embed.extractor import FeatureExtractor, extract_features
from flip.embed.settings import EmbedSettings
from flip.embed.table import make_features
from flip.errors import ConfigError, DataError, ModelError
from tests.diffusion.tiny import make_pipeline

SIZE = (64, 64)
SETTINGS = DrawSettings(sampler="ddim", steps=1, guidance=1.0, size="64x64")
NOTHING = PhotoHashes([], SIZE)


def scene(seed: int) -> Image.Image:
    """A smooth picture with some structure, another for every seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 10, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((200, 160), Image.Resampling.BICUBIC)


@pytest.fixture
def birds(tmp_path: Path) -> Dataset:
    """Three classes with two training photos and one test photo each; the first two classes have captions."""
    records = []
    for label in range(3):
        for i, split in enumerate(("train", "train", "test")):
            path = f"{split}{label}{i}.png"
            scene(10 * label + i).save(tmp_path / path)
            captions = (f"caption {label}{i}", "shared") if label < 2 else ()
            records.append(Record(path, label, split, captions))
    names = ("Blue Jay", "a/b", "Crow")
    return Dataset(tmp_path, "manifest", names, ("1.Blue_Jay", "a/b", "Crow"), tuple(records))


def replaying(images: dict[str, Image.Image]) -> Any:
    """A pipeline that draws a given picture for prompts with a given word, and counts its drawings."""
    from diffusers import StableDiffusionPipeline

    class Replaying(StableDiffusionPipeline):
        drawn: list[str] = []  # noqa: RUF012

        def __call__(self, prompt: list[str], generator: Any, **_: Any) -> Any:
            self.drawn.extend(prompt)
            found = [next((image for word, image in images.items() if word in text), None) for text in prompt]
            fresh = [scene(1000 + g.initial_seed() % 1000) for g in generator]
            drawn = [ImageOps.fit(a or b, SIZE) for a, b in zip(found, fresh, strict=True)]
            return type("Result", (), {"images": drawn})()

    return Replaying(**make_pipeline().components, requires_safety_checker=False)


def painter(images: dict[str, Image.Image] | None = None) -> Painter:
    return Painter(replaying(images or {}), resolve_device("cpu"), SETTINGS, batch_size=4)


def slots_of(birds: Dataset, per_class: int = 2, *, from_photos: bool = False) -> Any:
    train = birds.select("train")
    return plan_slots(train, drawing_prompts(train, "auto"), per_class, seed=0, from_photos=from_photos)


def hashes(birds: Dataset, split: str) -> PhotoHashes:
    return PhotoHashes([birds.photo(r) for r in birds.records if r.split == split], SIZE)


def run(p: Painter, judge: ImageJudge, slots: Any, out: Path) -> list[Kept]:
    seen: list[Kept] = []
    begin(out, {"seed": 0}, overwrite=False)
    fill_slots(p, judge, slots, out, ImageMetadata(ckpt="x"), Callbacks(seen.append))
    return seen


def test_prompts_name_the_class(birds: Dataset) -> None:
    assert caption_prompt("Blue Jay", "a blue jay on a twig") == "a blue jay on a twig"
    assert caption_prompt("Blue Jay", "it is blue") == "a photo of a Blue Jay. it is blue"
    train = birds.select("train")
    auto = drawing_prompts(train, "auto")
    assert auto[0] == tuple(f"a photo of a Blue Jay. {c}" for c in ("caption 00", "shared", "caption 01"))
    assert auto[2] == ("a photo of a Crow.",)
    assert drawing_prompts(train, "bird")[0] == ("a photo of a Blue Jay, a type of bird.",)
    with pytest.raises(DataError, match="class 'Crow' has no caption"):
        drawing_prompts(train, "captions")


def test_slots_are_balanced_in_turns_and_take_other_prompts_and_photos(birds: Dataset) -> None:
    slots = slots_of(birds, 3, from_photos=True)
    assert [s.label for s in slots] == [0, 1, 2] * 3
    assert {s.picture(0).prompt for s in slots if s.label == 0} == set(
        drawing_prompts(birds.select("train"), "auto")[0]
    )
    assert slots[0].picture(0).source != slots[0].picture(1).source
    every = [s.picture(a) for s in slots for a in range(5)]
    assert len({p.seed for p in every}) == len(every)
    training = {birds.photo(r) for r in birds.records if r.split == "train"}
    assert {p.source for p in every} == training
    assert slots_of(birds, 2, from_photos=True) == slots[:6]


def test_near_copies_are_told(birds: Dataset, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no image")
    broken = [Photo(tmp_path / name) for name in ("broken.png", "absent.png")]
    photos = [*map(birds.photo, birds.records), *broken]
    known = PhotoHashes(photos, SIZE, workers=2)
    photo = scene(0)
    fitted = ImageOps.fit(photo, SIZE)
    noisy = np.asarray(fitted, dtype=float) + np.random.default_rng(0).normal(0, 8, (64, 64, 3))
    for changed in (
        fitted,
        ImageOps.mirror(fitted),
        fitted.resize((256, 256)),
        ImageEnhance.Brightness(fitted).enhance(0.8),
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)),
    ):
        assert known.near(changed) == birds.file(birds.records[0])
    assert all(known.near(ImageOps.fit(scene(seed), SIZE)) is None for seed in range(100, 140))
    assert NOTHING.near(fitted) is None


def test_thresholds_by_hand() -> None:
    texts = np.eye(3, dtype=np.float32)
    rows = np.array([[0.6, 0.8, 0], [0.8, 0.6, 0], [1, 0, 0], [0, 0.6, 0.8]], dtype=np.float32)
    dataset = Dataset(
        Path(),
        "x",
        ("a", "b", "c"),
        ("a", "b", "c"),
        tuple(Record(str(i), c, "train") for i, c in enumerate((0, 0, 0, 1))),
    )
    photos = make_features(dataset, rows, [None] * 4, "f")
    assert class_thresholds(photos, texts, 0.5).round(4).tolist() == [0.8, 0.6, 0.7]  # the third: the median of all
    assert class_thresholds(photos, texts, 0.0).round(4).tolist() == [0.6, 0.6, 0.6]


def test_clip_keeps_real_photos_by_their_quantile(squares: Path, tiny_model: Path, tmp_path: Path) -> None:
    train = open_dataset(squares).select("train")
    settings = EmbedSettings(device="cpu", precision="fp32")
    extractor = FeatureExtractor(load_model(str(tiny_model)), settings, tmp_path)
    photos = extractor.features(train)
    texts = [f"a photo of a {name}." for name in train.classnames]
    similarities = photos.image_features @ extractor.texts(texts).T
    clip = ClipFilter(extractor, photos, 0.5)
    images = [Image.open(train.file(r)).convert("RGB") for r in train.records]
    verdicts = clip.judge(images, list(train.labels))
    for row, label, verdict in zip(similarities, train.labels, verdicts, strict=True):
        assert verdict.clip_label == train.classnames[int(row.argmax())]
        assert verdict.similarity == pytest.approx(float(row[label]), abs=2e-3)
        expected = LABEL if row.argmax() != label else SIMILARITY if verdict.similarity < verdict.threshold else None
        assert verdict.dropped == expected
    agreeing = [v for v, row, c in zip(verdicts, similarities, train.labels, strict=True) if row.argmax() == c]
    assert {v.dropped for v in agreeing} == {None, SIMILARITY}  # half of a class's own photos reach their median
    assert extract_features(train, extractor.model, cache=tmp_path).fingerprint == photos.fingerprint


def test_copies_of_training_photos_are_dropped_and_of_test_photos_reported(birds: Dataset, tmp_path: Path) -> None:
    p = painter({"Blue Jay": scene(0), "a/b": scene(12)})  # a training photo of the first, a test photo of the second
    judge = ImageJudge(None, hashes(birds, "train"), hashes(birds, "test"))
    slots, out = slots_of(birds), tmp_path / "out"
    seen = run(p, judge, slots, out)
    assert sorted(image.metadata.classname or "" for image in seen) == ["Crow", "Crow", "a/b", "a/b"]
    assert all(image.drawn for image in seen)
    tally = finish(out, slots, {"seed": 0})
    assert (tally.wanted, tally.kept, tally.drawn) == (6, 4, 14)  # five attempts for each of two, then no more
    assert tally.dropped == {COPY: 10}
    assert tally.short == {"Blue Jay": 2}
    assert [entry["photo"] for entry in tally.near_test] == [str(birds.file(birds.records[5]))] * 2
    report = json.loads((out / "augment.json").read_text())
    assert (report["short"], report["dropped"]) == ({"Blue Jay": 2}, {COPY: 10})
    assert (report["command"], report["format"], report["drawn_with"]) == ("augment", 1, {"seed": 0})


def test_the_folder_is_a_dataset_with_labels_captions_and_origins(birds: Dataset, tmp_path: Path) -> None:
    slots, out = slots_of(birds, 3), tmp_path / "out"
    run(painter(), ImageJudge(None, NOTHING, NOTHING), slots, out)
    finish(out, slots, {"seed": 0})
    made = open_dataset(out)
    assert made.splits == {"train": 9}
    assert set(made.raw_names) == set(birds.raw_names)  # "a/b" too, which no folder can be called
    assert sorted(np.bincount(made.labels)) == [3, 3, 3]
    by_name = {made.raw_names[r.label]: r.captions for r in made.records}
    assert by_name["Crow"] == ("a photo of a Crow.",)
    row = json.loads((out / "metadata.jsonl").read_text().splitlines()[0])
    assert {"file_name", "text", "label", "source", "seed", "clip_label", "near_test"} <= row.keys()


def test_a_second_run_goes_on(birds: Dataset, tmp_path: Path) -> None:
    p, out = painter({"Blue Jay": scene(0)}), tmp_path / "out"
    judge = ImageJudge(None, hashes(birds, "train"), NOTHING)
    run(p, judge, slots_of(birds), out)
    count = len(p._pipeline.drawn)
    found = run(p, judge, slots_of(birds), out)
    assert len(found) == 4
    assert not any(image.drawn for image in found)
    assert all(image.metadata == read_metadata(image.path) for image in found)
    assert len(p._pipeline.drawn) == count  # neither kept nor rejected ones are drawn again
    before = (out / slots_of(birds)[1].file).read_bytes()
    (out / slots_of(birds)[1].file).unlink()
    run(p, judge, slots_of(birds, 3), out)
    assert (out / slots_of(birds)[1].file).read_bytes() == before
    assert len(p._pipeline.drawn) == count + 1 + 2 + 5  # the one removed, the third of two classes, five copies


def test_folders_of_others_are_refused_and_kept(birds: Dataset, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "train").mkdir(parents=True)
    scene(3).save(out / "train" / "mine.png")
    with pytest.raises(ConfigError, match="already holds files"):
        begin(out, {"seed": 0}, overwrite=False)
    begin(out, {"seed": 0}, overwrite=True)
    slots = slots_of(birds, 1)
    fill_slots(painter(), ImageJudge(None, NOTHING, NOTHING), slots, out, ImageMetadata(), Callbacks(lambda _: None))
    with pytest.raises(ConfigError, match=r"other settings: seed 1 \(was 0\), guidance 2\.0 .*; pass the same"):
        begin(out, {"seed": 1, "guidance": 2.0}, overwrite=False)
    assert finish(out, slots, {"seed": 0}).kept == 3
    begin(out, {"seed": 1}, overwrite=True)
    assert [f.name for f in (out / "train").rglob("*.png")] == ["mine.png"]
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="is a file"):
        begin(tmp_path / "file", {}, overwrite=True)


def test_nothing_kept_is_an_error_that_says_what_to_do(birds: Dataset, tmp_path: Path) -> None:
    slots = [s for s in slots_of(birds, 1) if s.label == 0]
    run(painter({"Blue Jay": scene(1)}), ImageJudge(None, hashes(birds, "train"), NOTHING), slots, tmp_path / "out")
    with pytest.raises(DataError, match=r"none of 5 images was kept \(5 copies a training photo\); fine-tune"):
        finish(tmp_path / "out", slots, {})


def test_settings_that_decide(birds: Dataset) -> None:
    def key(**change: Any) -> dict[str, Any]:
        return resume_key(
            birds, SETTINGS, **{"fingerprint": "f", "seed": 0, "prompts": [["a"]], "filter": "none", **change}
        )

    assert key() == key()
    assert {k for k, v in key(prompts=[["b"]], seed=2).items() if key()[k] != v} == {"prompts", "seed"}


@pytest.mark.parametrize(("text", "quantile"), [("none", None), ("auto", 0.1), ("clip:0", 0.0), ("clip:0.25", 0.25)])
def test_filters(text: str, quantile: float | None) -> None:
    assert parse_filter(text) == quantile


@pytest.mark.parametrize("text", ["clip", "clip:1", "clip:x", "clip:-0.1", "dino:0.1", "", "clip:nan"])
def test_unknown_filters(text: str) -> None:
    with pytest.raises(ConfigError, match="such as clip:0.1, auto, or none"):
        parse_filter(text)


def test_a_class_without_photos_to_begin_from(birds: Dataset) -> None:
    train = birds.take(i for i, r in enumerate(birds.records) if r.label != 2)
    with pytest.raises(DataError, match=r"class 'Crow' has no training photo to begin from; leave out --strength"):
        plan_slots(train, (("a",), ("b",), ("c",)), 1, seed=0, from_photos=True)


def test_classes_with_like_names_keep_their_own_images(birds: Dataset, tmp_path: Path) -> None:
    alike = replace(birds, classnames=("Ram C/V", "Ram C:V", "Ram C_V"), raw_names=("Ram C/V", "Ram C:V", "Ram C_V"))
    slots, out = slots_of(alike), tmp_path / "out"
    assert len(run(painter(), ImageJudge(None, NOTHING, NOTHING), slots, out)) == 6
    assert finish(out, slots, {"seed": 0}).kept == 6
    made = open_dataset(out)
    assert sorted(made.raw_names) == ["Ram C/V", "Ram C:V", "Ram C_V"]
    assert np.bincount(made.labels).tolist() == [2, 2, 2]


def test_a_cut_image_is_drawn_again(birds: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    slots, out, judge = slots_of(birds, 1), tmp_path / "out", ImageJudge(None, NOTHING, NOTHING)
    run(painter(), judge, slots, out)
    file = out / slots[0].file
    whole = file.read_bytes()
    for broken in (whole[: len(whole) // 2], b"", b"no image"):
        file.write_bytes(broken)
        again = run(painter(), judge, slots, out)
        assert [image.drawn for image in again] == [False, False, True]
        assert file.read_bytes() == whole
    assert "cannot be read as an image, and is drawn again" in caplog.text
    (out / "train" / "foreign.png").write_bytes(whole[:200])
    assert finish(out, slots, {"seed": 0}).kept == 3
    assert (out / "train" / "foreign.png").is_file()


@pytest.mark.parametrize("content", ["[1, 2]", "{", "null", '"x"', "[" * 100_000, '{"drawn_with": [1]}', "\\x00"])
def test_odd_json_in_the_folder_is_one_line(birds: Dataset, content: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "augment.json").write_text(content)
    with pytest.raises(ConfigError, match="augment.json is not what flip augment wrote") as error:
        begin(out, {"seed": 0}, overwrite=False)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400
    begin(out, {"seed": 0}, overwrite=True)


def test_odd_lines_among_the_rejected_are_left_out(
    birds: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="flip")
    slots, out, judge = slots_of(birds, 1), tmp_path / "out", ImageJudge(None, NOTHING, NOTHING)
    begin(out, {"seed": 0}, overwrite=False)
    row = json.dumps({"file": slots[0].file, "attempt": 0, "dropped": LABEL}).encode()
    odd = (b"[1]", b"{}", b'{"file": 1, "attempt": "x", "dropped": 2}', b"\xff\xfe", row[:20])
    (out / "rejected.jsonl").write_bytes(b"\n".join((row, *odd)))
    seen = run(painter(), judge, slots, out)
    assert {image.metadata.attempt for image in seen if image.path == out / slots[0].file} == {1}
    assert "line 2 is no rejected attempt; 5 such lines" in caplog.text
    assert finish(out, slots, {"seed": 0}).dropped == {LABEL: 1}


def test_images_of_earlier_versions_are_read(tmp_path: Path) -> None:
    about = {
        **{"ckpt": "sample", "fingerprint": "eacf", "filter": "clip:0.1 83c9", "sampler": "dpm++", "steps": 4},
        **{"guidance": 5.0, "width": 64, "height": 64, "negative": "", "strength": None, "seed": 187568283456403},
        **{"label": "001.Finch", "classname": "Finch", "source": None, "attempt": 0, "clip_label": "Finch"},
        **{"clip_similarity": 0.7291, "clip_threshold": 0.6367, "near_test": None},
    }
    info = PngInfo()
    info.add_itxt("prompt", "a photo of a Finch.")
    info.add_itxt("flip", json.dumps(about))
    scene(0).save(tmp_path / "old.png", pnginfo=info)
    found = read_metadata(tmp_path / "old.png")
    assert (found.label, found.similarity, found.seed) == ("001.Finch", 0.7291, 187568283456403)
    assert found.to_dict() == about
    assert list(found.to_dict()) == list(about)


@pytest.mark.parametrize("text", ["[1]", "3", "{", '{"label": 3, "seed": "x", "clip_similarity": true}', "[" * 50_000])
def test_foreign_text_in_an_image_is_no_metadata(text: str, tmp_path: Path) -> None:
    info = PngInfo()
    info.add_itxt("flip", text)
    scene(0).save(tmp_path / "a.png", pnginfo=info)
    assert read_metadata(tmp_path / "a.png") == ImageMetadata()


def test_one_call_generates_the_set(birds: Dataset, tmp_path: Path) -> None:
    loaded = Loaded(replaying({}), "tiny", "f")
    settings = AugmentSettings(sampler="ddim", steps=1, guidance=1.0, size="64", per_class=2, filter="none")
    seen: list[Kept] = []
    counted: list[int] = []
    tally = augment(birds, loaded, tmp_path / "out", settings, on_image=seen.append, progress=counted.append)
    assert (tally.wanted, tally.kept, sum(counted)) == (6, 6, 6)
    assert {image.metadata.filter for image in seen} == {"none"}
    assert str(tally) == "6 of 6 images after 6 attempts (none dropped)"
    again: list[Kept] = []
    augment(birds, loaded, tmp_path / "out", settings, on_image=again.append)
    assert [image.metadata for image in again] == [image.metadata for image in seen]
    table = replace(birds, embeddings=tmp_path)
    with pytest.raises(DataError, match="table of embeddings"):
        augmenting.augment(table, loaded, tmp_path / "x", settings)


def test_without_clip_weights_auto_filters_nothing_and_says_so(
    birds: Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    def absent() -> Any:
        raise ModelError("the weights of X are not on this machine")

    assert open_filter(birds, "none", absent) is None
    assert open_filter(birds, "auto", absent) is None
    assert "images are not filtered: the weights of X" in caplog.text
    for filter, required in (("clip:0.1", False), ("auto", True)):
        with pytest.raises(ModelError):
            open_filter(birds, filter, absent, required=required)
