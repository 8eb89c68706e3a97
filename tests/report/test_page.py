from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from headprobe.errors import HeadprobeError, UsageError
from headprobe.models.layout import HeadLayout
from headprobe.report import build_record, find_sources, read_page, room, write_page
from headprobe.report.packing import unpack
from headprobe.report.page import LIMIT, LONGEST_SCRIPT, SCRIPTS, in_script
from tests._support.reports import LARGE, make_evaluation, make_run

EVIL = '</script><!--<img src=x onerror="alert(1)">\u2028\u2029\x00\x1b[31m]]>&amp;{{ 7 * 7 }}'
REPORT = Path(__file__).parents[2] / "headprobe" / "report"


def report_of(*paths: Path, out: Path) -> tuple[str, dict[str, object]]:
    record = build_record(find_sources(paths), room=room())
    size = write_page(record, out)
    assert size == out.stat().st_size
    return out.read_text(encoding="utf-8"), record


@pytest.mark.slow
def test_a_report_of_32_by_32_heads_stays_under_a_megabyte(tmp_path: Path) -> None:
    # By seven measures, with six kept cases of 10,000 tokens.
    folder = tmp_path / "large"
    measures = ("r2", "retrieval", "semantic", "mass", "contrast", "locos", "qr")
    make_run(folder, layout=LARGE, measures=measures, cases=200, kept=6, tokens=10_000)
    page, record = report_of(folder, out=tmp_path / "report.html")
    assert len(page.encode()) < LIMIT == 1_000_000
    (run,) = record["runs"]  # type: ignore[misc]
    assert run["measures"][0]["details"]
    assert len(run["kept"]) == 6


def test_the_page_asks_nothing_of_the_network(tmp_path: Path) -> None:
    make_run(tmp_path)
    page, _ = report_of(tmp_path, out=tmp_path / "report.html")
    head = page.partition('<script type="application/json"')[0]
    assert "default-src 'none'" in head
    assert not re.search(r"\b(?:src|href)\s*=\s*[\"'](?!#)", head)
    assert "@import" not in head
    assert "url(" not in head


def test_the_record_reads_back(tmp_path: Path) -> None:
    make_run(tmp_path / "r2")
    make_evaluation(tmp_path / "evaluate-r2")
    _, record = report_of(tmp_path, out=tmp_path / "report.html")
    assert read_page(tmp_path / "report.html") == unpack(json.loads(json.dumps(record)))


def test_the_same_files_make_the_same_report(tmp_path: Path) -> None:
    make_run(tmp_path / "r2")
    one, _ = report_of(tmp_path / "r2", out=tmp_path / "one.html")
    other, _ = report_of(tmp_path / "r2", out=tmp_path / "other.html")
    assert one == other


@pytest.mark.parametrize("text", [EVIL, "x" * 10**6, "</ScRiPt >", "<!--", "\u2028"])
def test_no_text_leaves_the_block_of_the_record(text: str, tmp_path: Path) -> None:
    layout = HeadLayout(
        id=text, architecture=text, layers=2, num_heads=2, num_kv_heads=1, head_dim=8
    )
    folder = tmp_path / EVIL.replace("/", "|").replace("\x00", "")
    # The texts of tokens and responses come from model and needle.
    make_run(folder, layout=layout, word=text[:2000], cases=12, kept=1, tokens=64)
    page, record = report_of(folder, out=tmp_path / "report.html")
    assert len(page) < LIMIT
    assert page.count("<script") == 2
    assert page.count("</script") == 2
    assert page.count("<!--") == 0
    assert page.count("onerror") == page.count('onerror=\\"')
    assert not re.search("[\x00-\x08\x0b-\x1f\u2028\u2029]", page)
    assert read_page(tmp_path / "report.html") == unpack(json.loads(json.dumps(record)))


def test_a_record_in_a_script_is_the_same_json() -> None:
    record = {"text": EVIL, EVIL: ["<", ">", "&"]}
    text = in_script(record)
    assert json.loads(text) == record
    assert not set("<>&\u2028\u2029") & set(text)
    assert text.isascii()


def test_the_script_is_short(tmp_path: Path) -> None:
    make_run(tmp_path)
    page, _ = report_of(tmp_path, out=tmp_path / "report.html")
    script = page.rpartition('<script type="module">')[2].partition("</script>")[0]
    assert 0 < len(script.encode()) <= LONGEST_SCRIPT


def test_scripts_write_texts_as_texts_alone() -> None:
    scripts = "".join((REPORT / f"{name}.js").read_text() for name in SCRIPTS)
    # Markup is parsed in one place, of the strings of a template, not of its values.
    assert scripts.count("innerHTML") == 1
    parse = scripts.partition("function parse(strings) {")[2].partition("\n}\n")[0]
    assert "innerHTML" in parse
    assert "values" not in parse
    assert not re.search(r"\bparse\((?!strings\))", scripts.replace("JSON.parse(", ""))
    for danger in ("outerHTML", "insertAdjacent", "document.write", "eval(", "http:"):
        assert danger not in scripts.replace("http://www.w3.org/2000/svg", "")
    assert {path.stem for path in REPORT.glob("*.js")} == set(SCRIPTS)


@pytest.mark.parametrize(
    "page",
    [
        "<html></html>",
        '<script type="application/json" id="record">[</script>',
        '<script type="application/json" id="record">{"format": "other"}</script>',
        '<script type="application/json" id="record">'
        '{"format": "headprobe-report", "version": 2}</script>',
    ],
)
def test_another_page_is_refused(page: str, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(page)
    with pytest.raises(HeadprobeError, match="no report of this headprobe"):
        read_page(tmp_path / "page.html")


def test_an_absent_report_is_wrong_usage(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="headprobe report"):
        read_page(tmp_path / "absent.html")
