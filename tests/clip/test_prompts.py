import json

import pytest

from flip.clip.coarse import coarse_word
from flip.clip.prompts import about_class, class_prompts, fold
from flip.data.dataset import Rank
from flip.errors import ConfigError, DataError

NAMES = ("Black footed Albatross", "Blue Jay")
RAW = ("001.Black_footed_Albatross", "073.Blue_Jay")


def test_named_prompt_sets():
    assert class_prompts("plain", NAMES).texts[1] == ("a photo of a Blue Jay.",)
    assert class_prompts("bird", NAMES).texts[1] == ("a photo of a Blue Jay, a type of bird.",)
    assert class_prompts("paper", NAMES, RAW).texts[0] == ("a photo of a black_footed_albatross",)
    assert class_prompts("a {} in the wild", NAMES).texts[1] == ("a Blue Jay in the wild",)


def test_clip_s_80_templates_keep_the_name_as_it_is():
    texts = class_prompts("clip", NAMES).texts[0]
    assert len(texts) == 80
    assert len(set(texts)) == 80
    assert all("Black footed Albatross" in text for text in texts)


def test_text_file_of_templates(tmp_path):
    file = tmp_path / "t.txt"
    file.write_text("# two\na {}.\n\nthe {}.\n")
    assert class_prompts(str(file), NAMES).texts[1] == ("a Blue Jay.", "the Blue Jay.")


def test_json_matches_names_across_hyphens_case_and_apostrophes(tmp_path):
    file = tmp_path / "p.json"
    content = {"black-footed albatross": ["a long hooked bill"], "BLUE JAY": "A Blue Jay is blue."}
    file.write_text(json.dumps(content))
    prompts = class_prompts(str(file), NAMES)
    assert prompts.texts == (("Black footed Albatross, which has a long hooked bill",), ("A Blue Jay is blue.",))
    assert prompts.unmatched == ()


def test_json_says_which_classes_it_does_not_name(tmp_path):
    file = tmp_path / "p.json"
    file.write_text(json.dumps({"Blue Jay": ["blue"]}))
    prompts = class_prompts(str(file), NAMES)
    assert prompts.unmatched == ("Black footed Albatross",)
    assert prompts.texts[0] == ("a photo of a Black footed Albatross.",)


@pytest.mark.parametrize("name", ["CuPL_prompts_cub.json", "descriptors_cub.json"])
def test_real_prompt_files_name_all_the_real_birds(shared, name):
    from flip.data.open import open_dataset

    dataset = open_dataset(shared / "data" / "birds")
    prompts = class_prompts(str(shared / "data" / "prompts" / name), dataset.classnames, dataset.raw_names)
    assert prompts.unmatched == ()
    assert all(fold(n) in fold(t) for n, texts in zip(dataset.classnames, prompts.texts, strict=True) for t in texts)


def test_a_sentence_that_names_the_class_stays():
    assert about_class("Blue Jay", "The Blue-Jay sings.") == "The Blue-Jay sings."
    assert about_class("Blue Jay", "a crest") == "Blue Jay, which has a crest"
    assert about_class("{text} {}", "a crest", "a photo of a {}. {text}") == "a photo of a {text} {}. a crest"


def test_bad_prompts_are_one_line_errors(tmp_path):
    with pytest.raises(ConfigError, match="a template needs {} where the class name goes; did you mean plain"):
        class_prompts("plian", NAMES)
    with pytest.raises(ConfigError, match="no such prompt file"):
        class_prompts("nowhere/p.txt", NAMES)
    with pytest.raises(ConfigError, match="no such file"):
        class_prompts("nowhere/p.json", NAMES)
    file = tmp_path / "t.txt"
    file.write_text("a {}.\na photo\n")
    with pytest.raises(DataError, match=r"t.txt line 2: 'a photo' has no {}"):
        class_prompts(str(file), NAMES)
    file.write_text("\n")
    with pytest.raises(DataError, match="holds no template"):
        class_prompts(str(file), NAMES)
    bad = tmp_path / "p.json"
    for content, message in [
        ("[1]", "holds a list"),
        ("{", "is not JSON"),
        ('{"Blue Jay": 3}', "must be a list of sentences"),
        ('{"Emu": ["tall"]}', "names none of the 2 classes; it has 'Emu'"),
    ]:
        bad.write_text(content)
        with pytest.raises(DataError, match=message):
            class_prompts(str(bad), NAMES)


def test_texts_longer_than_the_context_are_counted(tiny_model, tmp_path, caplog):
    import logging

    from flip.clip.model import load_model
    from flip.embed.texts import build_zero_shot_classifier

    model = load_model(str(tiny_model), cache=tmp_path)
    long = "a photo of a " + "very " * 30 + "{}"
    with caplog.at_level(logging.INFO, "flip"):
        build_zero_shot_classifier(class_prompts(long, ("a", "b")), model, cache=tmp_path)
        build_zero_shot_classifier(class_prompts("plain", ("a", "b")), model, cache=tmp_path)
    assert caplog.messages == ["2 of 2 texts are longer than the 16 tokens the model reads; the rest is cut"]


@pytest.mark.parametrize(
    ("names", "word"),
    [
        (("Black footed Albatross", "Blue Jay", "Scott's Orioles"), "bird"),
        (("bishop of llandaff dahlia", "sword lily", "Tree-Mallow"), "flower"),
        (("Audi TT RS Coupe 2012", "Jeep Wrangler SUV 2012"), "car"),
        (("Boeing 747", "Airbus A320"), "aircraft"),
        (("Blue Jay", "Boeing 747"), None),
        (("Blue Jay", "class 12"), None),
        ((), None),
    ],
)
def test_a_coarse_word_is_one_that_all_names_fit(names, word):
    assert coarse_word(names) == word


def test_coarse_prompts_name_the_kind_or_say_that_there_is_none():
    assert class_prompts("coarse", NAMES).texts[1] == ("a photo of a Blue Jay, a type of bird.",)
    with pytest.raises(ConfigError, match="--prompts coarse: the class names do not all fit one word"):
        class_prompts("coarse", ("Blue Jay", "Boeing 747"))


def ranked(**groups):
    return [Rank(name, (group,)) for name, group in groups.items()]


@pytest.mark.parametrize(
    ("name", "raw", "ranks", "text"),
    [
        (
            "Turdus merula",
            "04500_Animalia_Chordata_Aves_Passeriformes_Turdidae_Turdus_merula",
            ranked(
                kingdom="Animalia",
                phylum="Chordata",
                **{"class": "Aves"},
                order="Passeriformes",
                family="Turdidae",
                genus="Turdus",
            ),
            "a photo of Animalia Chordata Aves Passeriformes Turdidae Turdus merula.",
        ),
        (
            "Blackbird",
            "04500_Animalia_Chordata_Aves_Passeriformes_Turdidae_Turdus_merula",
            ranked(family="Turdidae", genus="Turdus"),
            "a photo of Turdidae Turdus merula with common name Blackbird.",
        ),
        (
            "Acadian Flycatcher",
            "Acadian Flycatcher",
            ranked(scientific="Empidonax virescens"),
            "a photo of Empidonax virescens with common name Acadian Flycatcher.",
        ),
        ("Robins", "Robins", ranked(genus="Erithacus"), "a photo of Erithacus with common name Robins."),
    ],
)
def test_taxonomic_prompts_have_the_form_of_bioclip_s_captions(name, raw, ranks, text):
    assert class_prompts("taxon", [name], [raw], ranks).texts == ((text,),)


@pytest.mark.parametrize("ranks", [(), ranked(species="cat"), ranked(order="Ducks", parent="Swans")])
def test_taxonomic_prompts_need_a_genus(ranks):
    with pytest.raises(ConfigError, match="--prompts taxon: the data comes with no genus or scientific name"):
        class_prompts("taxon", ["Blue Jay"], ["Blue Jay"], ranks)
