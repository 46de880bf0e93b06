"""The page in a browser: sorted, searched, opened, hovered, by keyboard alone; and axe-core finds nothing.

Needs Chromium, playwright for Python, and axe-core: ``pip install playwright``, ``npm pack axe-core``, and ``AXE`` with
the path of its axe.min.js. Tests skip where one is absent.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from flip.features import Features
from flip.report.page import write_report
from flip.results import Neighbor
from tests.report.conftest import make_run

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
if CHROMIUM is None:
    pytest.skip("no Chromium here", allow_module_level=True)
AXE = Path(os.environ.get("AXE", "/tmp/axe/package/axe.min.js"))

#: Names that people, or an attacker, may use.
ODD = (
    "</script><script>window.hacked=1</script>",
    "<img src=x onerror=window.hacked=1>",
    "quotes \" and ' and `",
    "two\nlines\u2028and three",
    "\u202eright to left\u202c \u05d0\u05d1",
    "{{ 7 * 7 }} &amp; ${window.hacked=1}",
    "L" * 300,
    "\u2069unclosed\u2066",
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs of photos of eight oddly named classes, with neighbours, embeddings and few-shot numbers."""
    folder = tmp_path_factory.mktemp("odd")
    rng = np.random.default_rng(0)
    rows, others, names = [], [], []
    for c, name in enumerate(ODD):
        for i in range(4):
            path = f"{c}/<b onclick=window.hacked=1>{i}.png"
            names.append((path, c, "test"))
            guess, other = (ODD[(c + 1) % 8], ODD[c]) if i == 0 else (ODD[c], ODD[(c + 1) % 8])
            rows.append((path, name, {guess: 0.7, other: 0.3}))
            others.append((path, name, {name: 0.6, ODD[(c + 1) % 8]: 0.4}))
        names.append((f"{c}/train.png", c, "train"))
    for path, c, _ in names:
        (folder / "photos" / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (60, 40), (30 * c, 100, 200)).save(folder / "photos" / path)
    data = str(folder / "photos")
    shots = [{"shots": k, "top1": 50.0 + k, "ci95": [40, 60 + k], "seeds": 3, "head": "knn"} for k in (1, 2, 4)]
    votes = [Neighbor(f"{c}/train.png", ODD[c], 0.9) for c in (1, 2)]
    runs = [
        make_run(folder / "<i>first</i>", rows, neighbors=lambda _: votes, config={"data": data}, data=data),
        make_run(folder / "second", others, config={"data": data}, details={"shots": shots}, data=data),
    ]
    features = Features(
        image_features=np.asarray(rng.normal(size=(len(names), 8)), np.float32),
        labels=np.array([c for _, c, _ in names]),
        paths=tuple(path for path, _, _ in names),
        splits=tuple(split for _, _, split in names),
        captions=((),) * len(names),
        errors=(None,) * len(names),
        classnames=ODD,
        raw_names=ODD,
        fingerprint="f" * 16,
    )
    groups = folder / "groups.csv"
    with groups.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows((name, "<u>odd</u>" if i % 2 else "even") for i, name in enumerate(ODD))
    write_report(runs, folder / "report.html", features=[features, features], groups=groups)
    return folder / "report.html"


class Opened:
    """A page, with what went wrong on it."""

    def __init__(self, browser: Any, file: Path, **options: Any) -> None:
        self.context = browser.new_context(**options)
        self.page = self.context.new_page()
        self.trouble: list[str] = []
        self.page.on("console", lambda m: self.trouble.append(m.text) if m.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda error: self.trouble.append(str(error)))
        self.page.on(
            "request",
            lambda r: (
                self.trouble.append(r.url[:90]) if r.url != file.as_uri() and not r.url.startswith("data:") else None
            ),
        )
        start = time.perf_counter()
        self.page.goto(file.as_uri())
        self.seconds = time.perf_counter() - start


@pytest.fixture
def opened(browser: Any, report: Path) -> Iterator[Opened]:
    found = Opened(browser, report, viewport={"width": 1280, "height": 900})
    yield found
    assert not found.trouble
    assert found.page.evaluate("window.hacked") is None
    found.context.close()


def test_odd_names_do_nothing_but_show(opened: Opened) -> None:
    page = opened.page
    shown = page.locator("#class-table tbody th").all_inner_texts()
    assert {" ".join(name.split()) for name in shown} == {" ".join(name.split()) for name in ODD}
    assert page.locator("body script").count() == 2
    assert page.locator("main img[src=x]").count() == 0
    assert page.title().startswith("flip report")


def test_the_table_sorts_and_is_searched(opened: Opened) -> None:
    page = opened.page
    head = page.locator("#class-table thead th").nth(3)
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    values = [
        float(v)
        for v in page.locator("#class-table tbody tr td:nth-child(4)").evaluate_all("c => c.map(x => x.dataset.value)")
    ]
    assert values == sorted(values)
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "descending"
    page.locator("#class-search").fill("QUOTES")
    assert page.locator("#class-table tbody tr:visible").count() == 1
    assert page.locator("#class-count").inner_text() == "1 of 8 classes"


def test_a_matrix_cell_opens_its_photos(opened: Opened) -> None:
    page = opened.page
    wrong = page.locator("#matrix [role=gridcell]", has_text="1").first
    wrong.click()
    assert page.locator("#photos").evaluate("d => d.open")
    assert page.locator("#photos-list li").count() == 1
    assert page.locator("#photos-list img").evaluate("i => i.complete && i.naturalWidth > 0")
    link = page.locator("#photos-list a").get_attribute("href")
    assert link.startswith("photos/")
    assert link.endswith(".png")
    assert (Path(page.url.removeprefix("file://")).parent / page.evaluate("decodeURIComponent", link)).is_file()
    page.keyboard.press("Escape")
    assert not page.locator("#photos").evaluate("d => d.open")


def test_the_matrix_by_keyboard(opened: Opened) -> None:
    page = opened.page
    assert page.locator("#matrix [tabindex='0']").count() == 1, "one stop on the way through the page"
    page.locator("#matrix [tabindex='0']").focus()
    before = page.evaluate("document.activeElement.getAttribute('aria-label')")
    for _ in range(3):
        page.keyboard.press("ArrowDown")
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") != before
    assert page.locator("#matrix [tabindex='0']").count() == 1
    page.keyboard.press("Enter")
    assert page.locator("#photos").evaluate("d => d.open")
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.getAttribute('role')") == "gridcell", "focus comes back"


def test_the_map_by_pointer_and_by_keyboard(opened: Opened) -> None:
    page = opened.page
    page.locator("#map-canvas").scroll_into_view_if_needed()
    spot = page.evaluate("[data.maps[0].x[5], data.maps[0].y[5], data.maps[0].width, data.maps[0].height]")
    box = page.locator("#map-canvas").bounding_box()
    scale = min((box["width"] - 48) / spot[2], (box["height"] - 48) / spot[3])
    x = box["x"] + box["width"] / 2 + (spot[0] - spot[2] / 2) * scale
    y = box["y"] + box["height"] / 2 + (spot[1] - spot[3] / 2) * scale
    page.mouse.move(x, y)
    assert page.locator("#map-tip").is_visible()
    assert page.locator("#map-tip img").count() == 1
    page.mouse.move(box["x"] + 1, box["y"] + 1)
    page.locator("#map-cursor").focus()
    first = page.locator("#map-cursor").inner_text()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    assert page.locator("#map-cursor").inner_text() != first
    assert page.locator("#map-tip").is_visible()
    for colour in ("group", "split", "right"):
        page.locator("#map-colour").select_option(colour)
        assert page.locator("#map-legend li").count() >= 2
    page.locator("#map-cursor").focus()
    page.keyboard.press("Enter")
    assert page.locator("#photos").evaluate("d => d.open")


def test_another_run_is_shown(opened: Opened) -> None:
    page = opened.page
    cells = page.locator("#matrix [role=gridcell]").count()
    page.locator("#run").select_option("1")
    assert page.locator("#matrix [role=gridcell]").count() == 8 < cells
    assert page.locator("#mistakes .panel:visible").inner_text().endswith("names every photo rightly.")


def test_everything_is_reached_with_tab(opened: Opened) -> None:
    page = opened.page
    wanted = set(
        page.evaluate(
            "[...document.querySelectorAll('a[href], button, select, input, summary, [tabindex=\"0\"]')]"
            ".filter(e => e.checkVisibility() && e.tabIndex >= 0 && !e.closest('dialog'))"
            ".map((e, i) => (e.dataset.t = i, i))"
        )
    )
    reached = set()
    for _ in range(len(wanted) + 5):
        page.keyboard.press("Tab")
        mark = page.evaluate("document.activeElement.dataset.t")
        reached |= {int(mark)} if mark is not None else set()
    assert reached == wanted


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_axe_finds_nothing_and_nothing_overflows(browser: Any, report: Path, scheme: str, width: int) -> None:
    if not AXE.is_file():
        pytest.skip("no axe-core here")
    opened = Opened(browser, report, viewport={"width": width, "height": 844}, color_scheme=scheme, bypass_csp=True)
    page = opened.page
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.add_script_tag(content=AXE.read_text())
    page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    violations = page.evaluate("axe.run().then(r => r.violations)")
    bad = [(v["id"], v["impact"], [n["html"][:200] for n in v["nodes"][:3]]) for v in violations]
    assert not bad, json.dumps(bad, indent=1)
    page.locator("#matrix [role=gridcell]").first.click()
    violations = page.evaluate("axe.run('#photos').then(r => r.violations)")
    assert not [v["id"] for v in violations]
    opened.context.close()


def test_the_theme_is_chosen_and_kept(opened: Opened) -> None:
    page = opened.page
    paper = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(paper)
    page.locator("#theme").click()
    page.locator("#theme").click()
    assert page.locator("#theme").inner_text() == "Theme: dark"
    dark = page.evaluate(paper)
    assert dark != light
    page.reload()
    assert page.evaluate(paper) == dark


def test_two_hundred_classes_open_in_three_seconds(browser: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    names = [f"class number {c} of a long list" for c in range(200)]
    rows = []
    for i in range(5794):
        c = i % 200
        guess = c if rng.random() < 0.75 else int((c + rng.integers(1, 8)) % 200)
        top = {names[guess]: 0.8, names[(guess + 1) % 200]: 0.1, names[(guess + 2) % 200]: 0.05}
        rows.append((f"images/{c:03d}.{names[c].replace(' ', '_')}/photo_{i:04d}_{i * 37}.jpg", names[c], top))
    write_report([make_run(tmp_path / "big", rows)], tmp_path / "big.html", features=[None])
    assert (tmp_path / "big.html").stat().st_size <= 8_000_000
    opened = Opened(browser, tmp_path / "big.html", viewport={"width": 1280, "height": 900})
    assert opened.seconds < 3
    assert not opened.trouble
    assert opened.page.locator("#matrix [role=row]").count() == 201
    opened.context.close()
