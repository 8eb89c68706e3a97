"""The report in Chromium, which Debian has as a package: by mouse, by keyboard, by address."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from headprobe.budgets import HeadBudgets
from headprobe.models.layout import HeadLayout
from headprobe.report import build_record, find_sources, room, write_page
from headprobe.scores import HeadScores
from tests._support.reports import make_ablation, make_evaluation, make_run
from tests.report.test_page import EVIL

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium"),
]

sync_api = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install it")
Page = Any


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        # Root has no sandbox in a container.
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Page]:
    """A page on which nothing may go wrong unseen, and nothing is fetched."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    opened = context.new_page()
    problems: list[str] = []
    opened.on("console", lambda message: problems.append(message.text))
    opened.on("pageerror", lambda error: problems.append(str(error)))
    opened.on("dialog", lambda dialog: problems.append("dialog") or dialog.dismiss())
    opened.on(
        "request", lambda request: request.url.startswith("file:") or problems.append(request.url)
    )
    yield opened
    context.close()
    assert problems == []


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("browser")
    make_run(folder / "r2")
    make_run(folder / "retrieval", task="retrieval", measures=("retrieval",), kept=0, seed=1)
    make_evaluation(folder / "evaluate-r2")
    make_ablation(folder / "ablate-r2")
    return folder


@pytest.fixture(scope="module")
def report(folder: Path) -> str:
    return written(folder, folder / "report.html")


def written(folder: Path, out: Path) -> str:
    write_page(build_record(find_sources([folder]), room=room()), out)
    return out.as_uri()


def go(page: Page, address: str, view: str = "heads") -> None:
    page.goto(address)
    page.wait_for_selector(f"#view-{view} h2")


def cell(
    page: Page, layer: int, column: int, columns: int = 8, layers: int = 6
) -> tuple[float, float]:
    """The middle of a head's cell on the screen."""
    box = page.locator("#view-heads canvas.heatmap").bounding_box()
    width = (box["width"] - 32) / columns
    height = (box["height"] - 20) / layers
    return box["x"] + 30 + (column + 0.5) * width, box["y"] + 18 + (layer + 0.5) * height


def scores(folder: Path) -> HeadScores:
    return HeadScores.load(folder / "r2")


def test_the_head_that_ranks_first_is_shown_first(page: Page, report: str, folder: Path) -> None:
    go(page, report)
    rank = scores(folder).statistics("r2").rank
    layer, head = divmod(int(rank.argmin()), 8)
    assert page.inner_text("#head-card h2") == f"Layer {layer}, head {head}"
    assert page.inner_text("#title") == "tiny"
    page.wait_for_selector("#head-cases .grid")
    assert page.locator("#head-cases ol li").count() == 6


def test_hovering_says_score_interval_rank_and_entries(
    page: Page, report: str, folder: Path
) -> None:
    go(page, report)
    page.mouse.move(*cell(page, 2, 5))
    lines = page.locator("#hint > *").all_inner_texts()
    rank = scores(folder).statistics("r2").rank[2, 5]
    assert lines[0] == "Layer 2, head 5"
    assert re.fullmatch(r"r2 [\d.]+ \([\d.]+ to [\d.]+\)", lines[1])
    assert lines[2] == f"rank {rank} of 48, KV head 2"
    assert lines[3].endswith(" entries of 32k")
    page.mouse.move(5, 5)
    assert page.locator("#hint").is_hidden()


def test_a_click_chooses_a_head_and_the_address_says_so(page: Page, report: str) -> None:
    go(page, report)
    page.mouse.click(*cell(page, 3, 6))
    assert page.inner_text("#head-card h2") == "Layer 3, head 6"
    assert page.url.endswith("#L3H6&m=r2")
    page.select_option("select[aria-label=Measure]", label="contrast")
    assert page.url.endswith("#L3H6&m=contrast")
    assert page.inner_text("#heads-map .end >> nth=0").startswith("\u2212")


def test_an_address_opens_what_it_names(page: Page, report: str) -> None:
    go(page, f"{report}#L4H2&m=contrast&case=3&view=cases", "cases")
    page.wait_for_selector("#prompt")
    assert page.inner_text("#case h2") == "Case 3"
    page.evaluate("location.hash = '#L1H7&m=r2&scale=rank'")
    page.wait_for_selector("#view-heads:not([hidden])")
    assert page.inner_text("#head-card h2") == "Layer 1, head 7"
    assert page.locator("button[aria-pressed=true]", has_text="Rank").count() == 1


@pytest.mark.parametrize(
    "address",
    ["#L99H99&m=none&case=99999&view=none&run=77&budget=x", "#<img src=x>", "#L1&m=%", "#"],
)
def test_an_address_that_makes_no_sense_does_no_harm(page: Page, report: str, address: str) -> None:
    go(page, report + address)
    assert page.locator("#head-card h2").count() == 1


def test_the_keyboard_moves_brushes_and_turns_tabs(page: Page, report: str) -> None:
    go(page, f"{report}#L2H3")
    page.focus("#view-heads canvas.heatmap")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#head-card h2") == "Layer 3, head 4"
    assert page.inner_text("#said").startswith("Layer 3, head 4, r2 ")
    page.keyboard.press("Home")
    page.keyboard.press("PageUp")
    assert page.url.endswith("#L0H0&m=r2")
    page.keyboard.press("Shift+ArrowRight")
    page.keyboard.press("Shift+ArrowDown")
    assert page.inner_text("#brush code") == "0-0, 0-1, 1-0, 1-1"
    page.keyboard.press("Escape")
    assert page.locator("#brush code").count() == 0
    page.focus("#tab-heads")
    page.keyboard.press("ArrowRight")
    assert page.get_attribute("#tab-cases", "aria-selected") == "true"
    assert page.evaluate("document.activeElement.id") == "tab-cases"


def test_heads_that_are_brushed_are_copied_as_a_list(page: Page, report: str) -> None:
    go(page, report)
    page.mouse.move(*cell(page, 1, 2))
    page.mouse.down()
    page.mouse.move(*cell(page, 2, 3))
    page.mouse.up()
    page.click("text=Copy list")
    page.wait_for_function("document.getElementById('said').textContent === 'Copied.'")
    assert page.evaluate("navigator.clipboard.readText()") == "1-2, 1-3, 2-2, 2-3"
    page.click("text=Copy as JSON")
    page.wait_for_function("document.getElementById('said').textContent === 'Copied.'")
    assert page.evaluate("navigator.clipboard.readText()") == "[[1,2],[1,3],[2,2],[2,3]]"


def test_kv_heads_and_ranks_can_be_shown(page: Page, report: str) -> None:
    go(page, f"{report}#L2H5")
    page.click("button:text-is('KV heads')")
    page.mouse.move(*cell(page, 2, 1, columns=4))
    assert page.locator("#hint b").inner_text() == "Layer 2, KV head 1"
    page.click("button:text-is('Rank')")
    assert page.inner_text("#heads-map .end >> nth=1") == "rank 1"
    page.click("text=Cividis")
    assert "kv=1" in page.url
    assert "scale=rank&map=cividis" in page.url


def test_the_ranking_can_be_walked(page: Page, report: str, folder: Path) -> None:
    go(page, report)
    rank = scores(folder).statistics("r2").rank
    page.click("button[aria-label='The head one rank lower']")
    layer, head = divmod(int((rank == 2).argmax()), 8)
    assert page.inner_text("#head-card h2") == f"Layer {layer}, head {head}"
    page.click("#top-heads li >> nth=4")
    layer, head = divmod(int((rank == 5).argmax()), 8)
    assert page.url.endswith(f"#L{layer}H{head}&m=r2")


def test_a_case_shows_its_prompt_marked_and_shaded(page: Page, report: str, folder: Path) -> None:
    rank = scores(folder).statistics("r2").rank
    layer, head = divmod(int(rank.argmin()), 8)
    go(page, f"{report}#L{layer}H{head}&view=cases", "cases")
    page.wait_for_selector("#prompt")
    # Failed cases first.
    assert page.inner_text("#case-list button >> nth=0").startswith("Case 0")
    assert page.inner_text("#case .badge") == "failed"
    assert page.inner_text("#case dd >> nth=0") == "word 0"
    assert page.inner_text("#case dd >> nth=1") == "word201"
    assert page.locator("#prompt .needle").count() == 20
    assert page.inner_text("#prompt .answer").strip() == "word201"
    assert page.inner_text("#prompt .wrong").strip() == "word195"
    read = page.locator('#prompt [data-token="200"]')
    page.hover(".steps .chip:has-text('said0')")
    page.wait_for_function(
        "document.querySelector('#prompt [data-token=\"200\"]')"
        ".style.getPropertyValue('--strength') === '95%'"
    )
    read.hover()
    assert "(200)" in page.inner_text("#readers h3")
    assert page.locator("#readers .chip").count() >= 8
    page.click("#readers .chip >> nth=1")
    assert f"L{layer}H{head}&" not in page.url


def test_the_tokens_of_a_prompt_are_reached_by_keyboard(page: Page, report: str) -> None:
    go(page, f"{report}#view=cases", "cases")
    page.hover('#prompt [data-token="203"]')
    page.focus("#prompt")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowRight")
    assert "word202 (202)" in page.inner_text("#readers h3")
    assert page.locator("#prompt .at").get_attribute("data-token") == "202"


def test_choosing_another_head_keeps_the_focus_and_the_place(page: Page, report: str) -> None:
    go(page, f"{report}#view=cases", "cases")
    page.wait_for_selector("#prompt")
    page.evaluate("document.getElementById('prompt').scrollTop = 5")
    page.focus("select[aria-label='Read by']")
    before = page.url
    page.keyboard.press("ArrowDown")
    page.wait_for_function(f"location.href !== {before!r}")
    page.wait_for_function("document.activeElement.ariaLabel === 'Read by'")
    assert page.evaluate("document.getElementById('prompt').scrollTop") == 5


def test_a_case_without_rows_says_how_to_keep_them(page: Page, report: str) -> None:
    go(page, f"{report}#case=10&view=cases", "cases")
    assert "headprobe score --keep-rows 6" in page.inner_text("#case-body")
    # It is among those that failed: what was said is shown beside what was expected.
    assert page.locator("#case dd").all_inner_texts() == ["word 10", "word201", "word195"]


def test_the_slider_moves_over_budgets(page: Page, report: str, folder: Path) -> None:
    go(page, f"{report}#view=budgets", "budgets")
    page.focus("#slider")
    page.keyboard.press("Home")
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.id") == "slider"
    assert page.inner_text("#slider-label b") == "headkv 128"
    rows = page.locator("#budget-facts tbody tr").all_inner_texts()
    assert [row.split("\t")[0] for row in rows] == ["4k", "32k", "128k"]
    # 24 KV heads of 128 entries, each a key and a value of 32 numbers of two bytes.
    assert rows[1].split("\t")[1] == "384 KiB"
    assert rows[1].split("\t")[4] == "128"
    note = page.inner_text(".point-note")
    assert "headkv 128 keeps" in note
    page.keyboard.press("Home")
    assert "budget=" in page.url
    # 16 entries of 1,000 tokens lie between the points at 1 % and 10 %.
    assert re.search(
        r"keeps 1\.60 % of 1,000 tokens: about 4[89]\.\d", page.inner_text(".point-note")
    )
    assert page.locator("#curves svg").count() == 2


def test_two_runs_stand_side_by_side_with_one_cursor(page: Page, report: str) -> None:
    go(page, f"{report}#L2H2&view=compare", "compare")
    assert page.locator("#view-compare canvas.heatmap").count() == 3
    assert re.match(r"Rank correlation -?\d", page.inner_text("#agreement"))
    assert page.locator(".scatter circle").count() == 48
    page.locator("#view-compare canvas.heatmap >> nth=1").focus()
    page.keyboard.press("ArrowRight")
    assert "L2H3" in page.url
    assert "2-3" in page.locator(".scatter circle.now title").text_content()
    page.select_option("select[aria-label=Other]", label="tiny, r2: contrast")
    assert page.inner_text("#compare-name-1") == "tiny, r2: contrast"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
def test_every_view_fits_the_screen_in_both_themes(
    page: Page, report: str, scheme: str, width: int
) -> None:
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 800})
    for view in ("heads", "cases", "budgets", "compare"):
        go(page, f"{report}#view={view}", view)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    ground = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    assert (ground == "rgb(16, 19, 24)") == (scheme == "dark")


def test_the_theme_has_a_switch(page: Page, report: str) -> None:
    page.emulate_media(color_scheme="light")
    go(page, report)
    grounds = []
    for _ in range(3):
        page.click("#theme")
        grounds.append(page.evaluate("getComputedStyle(document.documentElement).backgroundColor"))
    light, dark = "rgb(245, 246, 248)", "rgb(16, 19, 24)"
    assert grounds == [light, dark, light]


def test_on_paper_every_view_is_there(page: Page, report: str) -> None:
    go(page, report)
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.wait_for_selector("#prompt")
    for view in ("heads", "cases", "budgets", "compare"):
        assert page.locator(f"#view-{view}").is_visible()
    assert page.locator("nav").is_hidden()
    assert len(page.pdf()) > 20_000


def test_without_scripts_the_page_says_so(browser: Any, report: str) -> None:
    context = browser.new_context(java_script_enabled=False)
    opened = context.new_page()
    opened.goto(report)
    assert opened.locator("noscript").is_visible()
    assert "headprobe show" in opened.inner_text("noscript")
    assert not opened.locator("main").is_visible()
    context.close()


def test_every_control_has_a_name(page: Page, report: str) -> None:
    for view in ("heads", "cases", "budgets", "compare"):
        go(page, f"{report}#view={view}", view)
        page.wait_for_timeout(150)
        nameless = page.evaluate(
            """() => [...document.querySelectorAll('button, select, input, canvas, svg')]
            .filter((one) => one.offsetParent !== null || one instanceof SVGElement)
            .filter((one) => !one.closest('[aria-hidden=true]'))
            .filter((one) => !one.getAttribute('aria-label')
              && !one.labels?.[0]?.textContent && !one.textContent)
            .map((one) => one.outerHTML.slice(0, 200))"""
        )
        assert nameless == []


def test_evil_texts_stay_texts(page: Page, tmp_path: Path) -> None:
    layout = HeadLayout(
        id=EVIL, architecture=EVIL, layers=2, num_heads=4, num_kv_heads=2, head_dim=8
    )
    folder = tmp_path / EVIL.replace("/", "|").replace("\x00", "")
    make_run(folder, layout=layout, word=EVIL, cases=12, kept=2, tokens=64)
    address = written(folder, tmp_path / "report.html")
    for view in ("heads", "cases", "budgets", "compare"):
        go(page, f"{address}#view={view}", view)
    go(page, f"{address}#view=cases", "cases")
    page.wait_for_selector("#prompt")
    assert page.locator("img").count() == 0
    assert page.locator("script").count() == 2
    assert "<img src=x onerror=" in page.inner_text("#title")
    assert "<img src=x onerror=" in page.text_content("#prompt")


def test_a_report_of_budgets_alone_opens(page: Page, folder: Path, tmp_path: Path) -> None:
    from headprobe.allocators import allocate, parse_budget

    run = scores(folder)
    made: HeadBudgets = allocate(run.mean("r2"), run.layout, budget=parse_budget("1.5%"))
    made.save(tmp_path / "budget-a.json")
    go(page, f"{written(tmp_path, tmp_path / 'r.html')}#view=budgets", "budgets")
    assert page.inner_text("#slider-label b") == "headkv 1.5%"
    page.click("#tab-heads")
    assert "No run is in this report." in page.inner_text("#view-heads")
