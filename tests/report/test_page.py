"""The page without a browser: what is in it, how large it is, what is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from flip.cli.app import app
from flip.errors import ConfigError, DataError
from flip.features import Features
from flip.report.page import write_report
from flip.report.payload import safe_json
from flip.report.source import photo_url
from flip.results import Neighbor, Run

RunOf = Callable[..., Run]
CLASSES = ("blue jay", "fish crow", "american crow")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    for c, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for i in range(6):
            Image.new("RGB", (64, 48), (80 * c, 40 * i, 90)).save(folder / name / f"{i}.png")
    return folder


def rows(wrong: tuple[int, ...] = (0,)) -> list[Any]:
    """Four photos of each class; these of each crow are called the other crow."""
    found: list[Any] = []
    for c, name in enumerate(CLASSES):
        for i in range(4):
            other = CLASSES[3 - c] if c else "fish crow"
            guess = other if c and i in wrong else name
            found.append((f"{name}/{i}.png", name, {guess: 0.875, (other if guess == name else name): 0.125}))
    return found


def features(photos: Path) -> Features:
    names = [(f"{name}/{i}.png", c, "test" if i < 4 else "train") for c, name in enumerate(CLASSES) for i in range(6)]
    vectors = np.eye(3, dtype=np.float32)[[c for _, c, _ in names]]
    return Features(
        image_features=vectors,
        labels=np.array([c for _, c, _ in names]),
        paths=tuple(path for path, _, _ in names),
        splits=tuple(split for _, _, split in names),
        captions=((),) * len(names),
        errors=(None,) * len(names),
        classnames=CLASSES,
        raw_names=CLASSES,
        fingerprint="f" * 16,
    )


class Page(HTMLParser):
    """Attributes and the scripts' data of a page."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.html = file.read_text(encoding="utf-8")
        self.links: list[str] = []
        self.tags: list[str] = []
        self.feed(self.html)
        self.data = json.loads(re.search(r'id="payload">(.*?)</script>', self.html, re.S)[1])  # type: ignore[index]
        self.text = " ".join(
            re.sub(r"<[^>]*>", " ", re.sub(r"<(script|style).*?</\1>", "", self.html, flags=re.S)).split()
        )

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [str(value) for name, value in attrs if name in ("href", "src")]


def test_one_run(run_of: RunOf, photos: Path, tmp_path: Path) -> None:
    run = run_of("knn", rows(), config={"data": str(photos)}, data=str(photos))
    write_report([run], tmp_path / "report.html", features=[None])
    page = Page(tmp_path / "report.html")
    assert "12 photos of the test split, 3 classes, 1 run." in page.text
    assert "83.3 % 95 %: 55.2 to 95.3" in page.text.replace("&nbsp;", " ")
    assert "McNemar" not in page.text
    assert page.data["classes"] == sorted(CLASSES)
    assert len(page.data["thumbs"]) == 12
    assert "flip knn --data" in page.text
    assert "embeddings of these photos are not in the cache" in page.text


def test_it_holds_all_it_needs(run_of: RunOf, photos: Path, tmp_path: Path) -> None:
    run = run_of("knn", rows(), config={"data": str(photos)}, data=str(photos))
    write_report([run], tmp_path / "report.html", features=[features(photos)])
    page = Page(tmp_path / "report.html")
    assert all(link.startswith(("#", "data:", "photos/")) for link in page.links)
    assert not re.search(r"https?://|@import|url\(", page.html)
    assert "default-src 'none'" in page.html
    assert {"iframe", "object", "embed", "form"}.isdisjoint(page.tags)
    assert page.data["maps"][0]["method"] == "t-SNE"
    assert len(page.data["maps"][0]["x"]) == 18


def test_photos_bounds_the_thumbnails_a_mistake_and_the_most_alike_come_first(
    run_of: RunOf, photos: Path, tmp_path: Path
) -> None:
    run = run_of("knn", rows(), config={"data": str(photos)}, data=str(photos))
    for most, expected in ((0, set()), (2, {"4", "14"})):
        write_report([run], tmp_path / "report.html", photos=most, features=[features(photos)])
        assert set(Page(tmp_path / "report.html").data["thumbs"]) == expected
    assert (tmp_path / "report.html").stat().st_size < 100_000


def test_runs_are_compared_and_refused_when_of_other_photos(run_of: RunOf, tmp_path: Path) -> None:
    first, second = run_of("a", rows((0, 1, 2, 3))), run_of("b", rows(()))
    write_report([first, second], tmp_path / "report.html", features=[None, None])
    page = Page(tmp_path / "report.html")
    assert "+66.7" in page.text
    assert "0.008" in page.text
    assert "better" in page.text
    with pytest.raises(DataError, match="scored 12 photos and .* 8, of which 8 are the same"):
        write_report([first, run_of("c", rows()[:8])], tmp_path / "report.html", features=[None, None])
    with pytest.raises(ConfigError, match="no run to report"):
        write_report([], tmp_path / "report.html")


def test_accuracy_by_rank_of_the_runs_that_have_it(run_of: RunOf, tmp_path: Path) -> None:
    ranks = [
        {"rank": "class", "groups": 3, "top1": 83.3, "ci95": [55.2, 95.3], "mean_per_group": 83.3},
        {"rank": "genus", "groups": 2, "top1": 91.7, "ci95": [64.6, 98.5], "mean_per_group": 90.0},
    ]
    first, second = run_of("a", rows(), details={"ranks": ranks}), run_of("b", rows())
    write_report([first, second], tmp_path / "report.html", features=[None, None])
    page = Page(tmp_path / "report.html")
    assert "Accuracy by rank" in page.text
    assert "genus 2 64.6 to 98.5 91.7 –" in page.text
    write_report([second], tmp_path / "report.html", features=[None])
    assert "Accuracy by rank" not in Page(tmp_path / "report.html").text


def test_groups_of_a_file_and_of_the_last_words(run_of: RunOf, tmp_path: Path) -> None:
    run = run_of("a", rows())
    write_report([run], tmp_path / "report.html", features=[None])
    assert Page(tmp_path / "report.html").data["groups"] == ["crow", "jay"]
    (tmp_path / "groups.csv").write_text("class,family\nblue jay,jays\nfish crow,black\namerican crow,black\n")
    write_report([run], tmp_path / "report.html", features=[None], groups=tmp_path / "groups.csv")
    assert Page(tmp_path / "report.html").data["groups"] == ["black", "jays"]
    (tmp_path / "groups.csv").write_text("class,family\nblue jay,jays\nfish crow,black\n")
    with pytest.raises(DataError, match="misses class 'american crow'"):
        write_report([run], tmp_path / "report.html", features=[None], groups=tmp_path / "groups.csv")


def test_neighbours_that_voted_or_else_the_most_alike(run_of: RunOf, photos: Path, tmp_path: Path) -> None:
    config = {"data": str(photos)}
    votes = [Neighbor("fish crow/5.png", "fish crow", 0.8765)]
    runs = [run_of("voted", rows(), neighbors=lambda _: votes, config=config), run_of("alike", rows(), config=config)]
    write_report(runs, tmp_path / "report.html", features=[None, features(photos)])
    page = Page(tmp_path / "report.html")
    assert "0.88" in page.text
    assert "training photos that voted" in page.text
    assert "look most like it" in page.text


def test_absent_photos_are_placeholders_without_links(run_of: RunOf, tmp_path: Path) -> None:
    run = run_of("knn", rows(), data=str(tmp_path / "moved"))
    write_report([run], tmp_path / "report.html", features=[None])
    page = Page(tmp_path / "report.html")
    assert page.data["thumbs"] == {}
    assert page.data["base"] is None
    assert "no longer where the run found them" in page.text
    assert not any("png" in link for link in page.links)


def test_a_page_replaces_a_page_and_nothing_of_another_kind(run_of: RunOf, photos: Path, tmp_path: Path) -> None:
    run = run_of("knn", rows(), data=str(photos))
    for _ in range(2):
        write_report([run], tmp_path / "report.html", features=[None])
    with pytest.raises(ConfigError, match="is not replaced"):
        write_report([run], photos / "blue jay" / "0.png", features=[None])


def test_unreadable_and_perfect_runs(run_of: RunOf, tmp_path: Path) -> None:
    broken = [(path, truth, "is truncated" if i == 0 else p) for i, (path, truth, p) in enumerate(rows(()))]
    write_report([run_of("a", broken), run_of("b", rows(()))], tmp_path / "report.html", features=[None, None])
    page = Page(tmp_path / "report.html")
    assert page.data["runs"][0]["guess"][0] == -1
    assert page.data["labels"][0] >= 0, "the other run knows the label"
    assert "This run names every photo rightly." in page.text
    assert "No label is contradicted." in page.text


def test_json_ends_no_script() -> None:
    text = "</script><!-- & \u2028\u2029 é 'x'"
    made = str(safe_json({"x": text}))
    assert not set("<>&\u2028\u2029") & set(made)
    assert json.loads(made) == {"x": text}


@pytest.mark.parametrize(
    ("path", "root", "url"),
    [
        ("a b/#1?.jpg", "/site/photos", "photos/a%20b/%231%3F.jpg"),
        ("1.jpg", "/data", "file:///data/1.jpg"),
        ("/else/1.jpg", "/site", "file:///else/1.jpg"),
        ("javascript:x", "/site", "javascript%3Ax"),
    ],
)
def test_links(path: str, root: str, url: str) -> None:
    assert photo_url(path, Path(root), Path("/site/report.html")) == url


def test_the_command_writes_a_page_and_refuses_in_one_line(run_of: RunOf, photos: Path, tmp_path: Path) -> None:
    run = run_of("knn", rows(), config={"data": str(photos), "cache": str(tmp_path / "cache")}, data=str(photos))
    result = CliRunner().invoke(app, ["report", str(run.folder), "-o", str(tmp_path / "r.html"), "--photos", "0"])
    assert result.exit_code == 0, result.output
    assert Page(tmp_path / "r.html").data["thumbs"] == {}
    assert CliRunner().invoke(app, ["report"]).exit_code == 2
    for arguments, code, message in (
        ([str(photos)], 1, "is no run of flip"),
        ([str(run.folder), "--photos", "-1"], 2, "--photos -1 is negative"),
    ):
        result = CliRunner().invoke(app, ["report", *arguments, "-o", str(tmp_path / "r.html")])
        assert (result.exit_code, result.stderr.count("\n")) == (code, 1)
        assert message in result.stderr
    (run.folder / "result.json").write_text(
        (run.folder / "result.json").read_text().replace('"format": 1', '"format": 9')
    )
    result = CliRunner().invoke(app, ["report", str(run.folder), "-o", str(tmp_path / "r.html")])
    assert "has format 9" in result.stderr


def test_embeddings_come_from_the_cache_and_nothing_is_embedded(
    squares: Path, tiny_model: Path, tmp_path: Path
) -> None:
    from flip.report.source import features_of

    options = ["--data", str(squares), "--model", str(tiny_model), "--cache", str(tmp_path / "cache"), "-q"]
    made = CliRunner().invoke(
        app, ["knn", *options, "-k", "3", "--run", str(tmp_path / "run"), "-o", str(tmp_path / "x.json")]
    )
    assert made.exit_code == 0, made.output
    run = Run.open(tmp_path / "run")
    found = features_of(run)
    assert found is not None
    assert len(found) == 48
    without = Run(run.folder, run.evaluation, {**run.config, "cache": str(tmp_path / "empty")}, {}, "", "")
    assert features_of(without) is None
