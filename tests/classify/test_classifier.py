"""Classifiers over features: the shared checks, heads, zero-shot, saving and loading."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
from safetensors.numpy import save_file

from flip.classify.classifier import ARRAYS_FILE, HEAD_FILE, Origin, load_classifier, make_head
from flip.classify.heads import build_head
from flip.classify.knn import KnnClassifier
from flip.classify.settings import HeadSettings
from flip.classify.text_side import build_text_side
from flip.classify.training_set import TrainingSet
from flip.classify.zeroshot import ZeroShotClassifier
from flip.errors import CheckpointError, ConfigError, DataError, FeatureMismatchError
from tests.classify.features_data import CLASSNAMES, bird_features
from tests.classify.heads_data import CLASSES, class_embeddings, photos


def zero_shot(fingerprint="one"):
    return ZeroShotClassifier(class_embeddings(), 10.0, CLASSNAMES, fingerprint, prompts="bird")


def captioned(per_class, seed, **changes):
    """Birds with captions that are like their class embedding."""
    _, labels = photos(per_class, seed)
    return bird_features(per_class, seed, caption_features=class_embeddings()[labels], **changes)


KINDS = {
    "zeroshot": zero_shot,
    "knn": KnnClassifier,
    "gda": lambda: make_head("gda"),
    "gda with prompts": lambda: make_head("gda", text="prompts", zero_shot=zero_shot()),
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def test_objects_show_themselves_in_a_line():
    features = bird_features(8, unreadable=(3,))
    assert repr(features) == "<Features of 32 photos, 12 wide, 4 classes, train 32, 1 unreadable>"
    head = make_head("gda")
    assert repr(head) == "<HeadClassifier gda, not fitted>"
    assert repr(head.fit(features)) == "<HeadClassifier gda, 4 classes>"
    assert repr(KnnClassifier().fit(features)) == "<KnnClassifier knn, 4 classes>"


@every_kind
def test_fit_predict_and_score_agree(kind):
    test = bird_features(9, seed=2)
    classifier = KINDS[kind]()
    assert classifier.fit(bird_features(8)) is classifier
    assert classifier.classes_ == CLASSNAMES
    assert classifier.fingerprint == "one"
    probabilities = classifier.predict_proba(test)
    assert probabilities.shape == (36, CLASSES)
    assert probabilities.dtype == np.float32
    assert probabilities.sum(axis=1) == pytest.approx(np.ones(36), abs=1e-5)
    predicted = classifier.predict(test)
    assert predicted.dtype == np.int64
    assert (predicted == probabilities.argmax(axis=1)).all()
    assert classifier.score(test) == np.mean(predicted == test.labels) > 0.8


@every_kind
def test_unreadable_photos_get_no_answer_and_do_not_count(kind):
    whole, test = bird_features(4, seed=2), bird_features(4, seed=2, unreadable=(1, 15))
    classifier = KINDS[kind]().fit(bird_features(8))
    probabilities, predicted = classifier.predict_proba(test), classifier.predict(test)
    assert np.isnan(probabilities[[1, 15]]).all()
    assert (predicted[[1, 15]] == -1).all()
    rest = np.setdiff1d(np.arange(16), [1, 15])
    assert probabilities[rest] == pytest.approx(classifier.predict_proba(whole)[rest], abs=1e-6)
    assert classifier.score(test) == np.mean(predicted[rest] == test.labels[rest])
    none = test.take([1, 15])
    assert np.isnan(classifier.predict_proba(none)).all()
    with pytest.raises(DataError, match=r"none of the 2 given photos can be read \(truncated\)"):
        classifier.score(none)


@every_kind
def test_fit_leaves_unreadable_photos_out(kind):
    train, test = bird_features(5), bird_features(4, seed=2)
    rows = [i for i in range(20) if i not in (0, 7)]
    with_bad = KINDS[kind]().fit(bird_features(5, unreadable=(0, 7))).predict_proba(test)
    np.testing.assert_array_equal(with_bad, KINDS[kind]().fit(train.take(rows)).predict_proba(test))


@every_kind
def test_features_of_another_model_or_class_list_are_refused(kind):
    classifier = KINDS[kind]().fit(bird_features(5))
    with pytest.raises(FeatureMismatchError, match="fitted on features of model one, not of two; embed the photos"):
        classifier.predict(bird_features(2, fingerprint="two"))
    renamed = bird_features(2, classnames=("auk", *CLASSNAMES[1:]))
    with pytest.raises(DataError, match="knows 4 classes and the data has 4, such as 'auk'"):
        classifier.score(renamed)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "zeroshot"])
def test_a_fitted_classifier_does_not_change(kind):
    train, other, test = bird_features(5), bird_features(3, seed=7), bird_features(4, seed=2)
    classifier = KINDS[kind]()
    with pytest.raises(ConfigError, match="not fitted; call fit first"):
        classifier.predict(test)
    with pytest.raises(ConfigError, match="not fitted"):
        classifier.protocol  # noqa: B018
    before = classifier.fit(train).predict_proba(test)
    with pytest.raises(ConfigError, match="fitted and does not change"):
        classifier.fit(other)
    again = classifier.unfitted().fit(other)
    np.testing.assert_array_equal(again.predict_proba(test), KINDS[kind]().fit(other).predict_proba(test))
    np.testing.assert_array_equal(classifier.predict_proba(test), before)


def test_no_readable_photo_is_one_line():
    with pytest.raises(DataError, match="none of the 4 training photos can be read"):
        KnnClassifier().fit(bird_features(1, unreadable=(0, 1, 2, 3)))


@pytest.mark.parametrize("text", ["none", "prompts", "captions"])
def test_a_head_classifier_is_the_head_over_its_text_side(text):
    train, test = captioned(6, 1), captioned(4, 2)
    classifier = make_head("tip", text=text, zero_shot=zero_shot(), seed=3).fit(train)
    embeddings = None if text == "none" else class_embeddings()
    train_inputs, inputs = (
        build_text_side(f.image_features, embeddings, 10.0, f.caption_features if text == "captions" else None)
        for f in (train, test)
    )
    head = build_head("tip", CLASSES, 3).fit(train_inputs, train.labels)
    np.testing.assert_array_equal(classifier.predict_proba(test), head.predict_proba(inputs))
    expected = {"head": "tip", "text": text, "chosen": head.protocol}
    expected |= {} if text == "none" else {"prompts": "bird"}
    expected |= {"test_captions": True} if text == "captions" else {}
    assert classifier.protocol == expected


def test_generated_images_weigh_less_and_leave_with_their_photo():
    """A training set with generated images is fitted as its weight, real marks and groups say."""
    train, images, test = bird_features(6), bird_features(6, seed=5), bird_features(5, seed=2)
    joined = TrainingSet.of(train).with_generated(images, np.arange(24), 0.3)
    head = build_head("gda", CLASSES).fit(
        build_text_side(joined.features.image_features), joined.labels, joined.weight, joined.real, joined.group
    )
    fitted = make_head("gda").fit(joined)
    np.testing.assert_array_equal(fitted.predict_proba(test), head.predict_proba(build_text_side(test.image_features)))
    assert set(fitted.head.out_of_fold.rows) <= set(range(24))
    real_only = make_head("gda").fit(train)
    assert not np.array_equal(fitted.predict_proba(test), real_only.predict_proba(test))


def test_labels_of_test_photos_change_nothing():
    """A whole dataset is at hand; the labels of its test half are dealt out at random."""
    birds = bird_features(10)
    birds = replace(birds, splits=("train", "test") * 20)
    is_test = np.array([split == "test" for split in birds.splits])
    dealt = birds.labels.copy()
    dealt[is_test] = np.random.default_rng(0).permutation(dealt[is_test])
    asked = birds.split("test")
    for kind in KINDS:
        one, two = (KINDS[kind]().fit(f.split("train")) for f in (birds, replace(birds, labels=dealt)))
        np.testing.assert_array_equal(one.predict_proba(asked), two.predict_proba(asked))
        assert one.protocol == two.protocol


def test_auto_names_the_head_it_chose(monkeypatch):
    from flip.classify.heads import ensemble

    monkeypatch.setattr(ensemble, "MEMBERS", ("gda", "tip"))
    classifier = make_head()
    assert classifier.name == classifier.head_name == "auto"
    classifier.fit(bird_features(6))
    assert classifier.name == "auto"
    assert classifier.head_name == classifier.head.chosen.name
    assert classifier.protocol["chosen"]["head"].startswith(classifier.head_name)


def test_the_seed_of_a_draw_replaces_that_of_the_settings():
    train, test = bird_features(6), bird_features(5, seed=2)
    drawn = make_head("tip", seed=0).unfitted(seed=4).fit(train)
    np.testing.assert_array_equal(drawn.predict_proba(test), make_head("tip", seed=4).fit(train).predict_proba(test))
    assert drawn.head.seed == 4


def test_alpha_zero_is_zero_shot():
    train, test = bird_features(6), bird_features(5, seed=2)
    classifier = make_head("gda", text="prompts", zero_shot=zero_shot(), alpha=0.0).fit(train)
    assert (classifier.predict(test) == zero_shot().predict(test)).all()


def test_a_text_side_that_is_missing_or_of_another_model_is_refused():
    with pytest.raises(ConfigError, match="text='prompts' needs the class embeddings"):
        make_head("gda", text="prompts")
    with pytest.raises(DataError, match="text='captions' needs each photo's caption"):
        make_head("gda", text="captions").fit(bird_features(3))
    with pytest.raises(ConfigError, match=r"--head 'gdaa' is unknown; did you mean gda\?"):
        make_head("gdaa")
    with pytest.raises(ConfigError, match="--text 'captoins' is unknown; did you mean captions"):
        HeadSettings(text="captoins")
    with pytest.raises(FeatureMismatchError, match="make both with one model"):
        make_head("gda", text="prompts", zero_shot=zero_shot("two")).fit(bird_features(3))
    captions = make_head("gda", text="captions").fit(captioned(4, 1))
    with pytest.raises(ConfigError, match="needs each photo's caption; name photos with a head that"):
        captions.predict(bird_features(2))


def test_zero_shot_learns_nothing_and_checks_what_it_is_given():
    classifier = zero_shot()
    test = bird_features(5, seed=2)
    before = classifier.predict_proba(test)
    np.testing.assert_array_equal(classifier.fit(bird_features(3)).predict_proba(test), before)
    logits = np.float32(10) * test.image_features @ class_embeddings().T
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert before == pytest.approx(expected, abs=1e-6)
    assert classifier.protocol == {"prompts": "bird"}
    with pytest.raises(DataError, match="knows 4 classes"):
        classifier.fit(bird_features(3, classnames=CLASSNAMES[::-1]))
    with pytest.raises(ConfigError, match=r"shape \(4, 12\) for 3 class names"):
        ZeroShotClassifier(class_embeddings(), 10.0, CLASSNAMES[:3], "one")


@pytest.mark.parametrize("text", ["none", "prompts", "captions"])
def test_save_then_load_is_the_same_classifier(text, tmp_path):
    train, test = captioned(5, 1), captioned(4, 2)
    origin = Origin("ARCH/TAG", crop="boxes")
    classifier = make_head("gda", text=text, zero_shot=zero_shot(), origin=origin).fit(train)
    classifier.save(tmp_path / "head", protocol={"augmented": "more"})
    loaded = load_classifier(tmp_path / "head")
    np.testing.assert_array_equal(loaded.predict_proba(test), classifier.predict_proba(test))
    assert loaded.classes_ == CLASSNAMES
    assert loaded.origin == Origin("ARCH/TAG", "one", "boxes", "none")
    assert loaded.protocol == {**classifier.protocol, "augmented": "more"}
    assert (loaded.name, loaded.head_name, loaded.text) == ("gda", "gda", text)
    about = json.loads((tmp_path / "head" / HEAD_FILE).read_text())
    assert (about["command"], about["format"]) == ("hybrid", 1)
    with pytest.raises(FeatureMismatchError, match="fitted on features of model one"):
        loaded.predict(replace(test, fingerprint="two"))


def test_a_folder_that_holds_something_is_replaced_only_when_told_to(tmp_path):
    classifier = make_head("gda").fit(bird_features(5))
    with pytest.raises(ConfigError, match="not fitted"):
        make_head("gda").save(tmp_path / "none")
    assert not (tmp_path / "none").exists()
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(ConfigError, match="--save .* already holds files"):
        classifier.save(tmp_path)
    classifier.save(tmp_path, overwrite=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == [HEAD_FILE, ARRAYS_FILE, "letter.txt"]


def test_a_head_saved_before_files_named_their_command_is_read(tmp_path):
    """Format 1 as flip first wrote it: no ``command``, arrays and values of the head as they are."""
    train, test = bird_features(6), bird_features(4, seed=2)
    inputs, asked = (build_text_side(f.image_features, class_embeddings(), 10.0) for f in (train, test))
    head = build_head("gda", CLASSES, 2).fit(inputs, train.labels)
    arrays, values = head.to_arrays()
    origin = {"model": "ViT-B-32/openai", "fingerprint": "one", "crop": "none", "tta": "flip"}
    about = {
        "format": 1,
        "classnames": list(CLASSNAMES),
        "origin": origin,
        "text": "prompts",
        "logit_scale": 10.0,
        "head": values,
        "protocol": {"head": "gda", "text": "prompts", "prompts": "plain", "chosen": head.protocol},
        "versions": {"python": "3.11"},
    }
    (tmp_path / HEAD_FILE).write_text(json.dumps(about, indent=2))
    save_file({**arrays, "class_embeddings": class_embeddings()}, tmp_path / ARRAYS_FILE)
    loaded = load_classifier(tmp_path)
    np.testing.assert_array_equal(loaded.predict_proba(test), head.predict_proba(asked))
    assert asdict(loaded.origin) == {**origin, "precision": ""}, "an earlier head does not say"
    assert loaded.protocol["prompts"] == "plain"


def test_what_cannot_be_loaded_is_one_line(tmp_path):
    with pytest.raises(CheckpointError, match="holds no head.json"):
        load_classifier(tmp_path)
    folder = tmp_path / "head"
    make_head("gda", text="prompts", zero_shot=zero_shot()).fit(bird_features(5)).save(folder)
    about = json.loads((folder / HEAD_FILE).read_text())
    for change in ({"head": {**about["head"], "head": "gdaa"}}, {"origin": {"model": "x", "kind": 1}}, {"head": None}):
        (folder / HEAD_FILE).write_text(json.dumps({**about, **change}))
        with pytest.raises(CheckpointError, match="cannot be read .*save it again with --save"):
            load_classifier(folder)
    (folder / HEAD_FILE).write_text(json.dumps({**about, "format": 99}))
    with pytest.raises(DataError, match="format 99"):
        load_classifier(folder)
    (folder / HEAD_FILE).write_text(json.dumps(about))
    (folder / ARRAYS_FILE).write_bytes(b"\x00" * 20)
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_classifier(folder)


def test_an_origin_refuses_what_was_made_another_way():
    origin = Origin("a/b", "one", "none", "flip")
    origin.require(Origin("a/b", "one", "none", "flip"))
    with pytest.raises(FeatureMismatchError, match=r"of a/b \(one\), not of c/d \(two\); pass --model a/b"):
        origin.require(Origin("c/d", "two"))
    with pytest.raises(FeatureMismatchError, match="fitted with --tta flip; pass that, not none"):
        origin.require(Origin("a/b", "one"))


@pytest.mark.parametrize(
    ("fitted", "given", "said"),
    [("bf16", "fp32", True), ("fp32", "bf16", True), ("fp32", "fp32", False), ("", "bf16", False), ("bf16", "", False)],
)
def test_features_of_another_precision_are_said_and_taken(caplog, fitted, given, said):
    Origin("a/b", "one", precision=fitted).require(Origin("a/b", "one", precision=given))
    assert [f"features in {fitted}, and gets features in {given}" in text for text in caplog.messages] == [True] * said
    assert all(f"pass --precision {fitted}" in text for text in caplog.messages)
