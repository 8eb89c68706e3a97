"""Cases of documents: the evidence stands where the document has it."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest

from headprobe.errors import HeadprobeWarning
from headprobe.models.loading import LoadedModel, load_model
from headprobe.prompts.spec import CaseSpec
from headprobe.runs.documents import RULE, draw_documents
from headprobe.runs.prefix_tree import BLOCK, PrefixTree
from headprobe.runs.shared_prefixes import shared_prefixes
from headprobe.tasks import TASKS
from tests._support.refusals import refused

PROBE = TASKS["evidence"].probe
FILLER = "The quiet river crossed the meadow. "
FACT = "Noah likes velvet kettles. Carl lives in Oxley Mill."


@pytest.fixture(scope="module")
def nano() -> LoadedModel:
    return load_model("nano", weights=False)


def row(before: int, after: int, *pairs: dict[str, Any]) -> dict[str, Any]:
    text = FILLER * before + FACT.replace(". ", ".\n") + " " + FILLER * after
    return {"input": text, "qa_pairs": repr(list(pairs)), "output": "none"}


def pair(evidence: str | list[str] | None, **fields: str) -> dict[str, Any]:
    return {"Q": "What does Noah like?", "A": "velvet kettles", "S": evidence, **fields}


def write(path: Path, *rows: dict[str, Any]) -> str:
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    return str(path)


def draw(nano: LoadedModel, source: str, **spec: Any) -> Any:
    return draw_documents(nano, PROBE, CaseSpec(questions=source, **{"limit": None, **spec}))


@pytest.mark.parametrize(("before", "after"), [(60, 20), (0, 80), (80, 0), (20, 60)])
def test_a_document_is_cut_around_the_evidence_which_keeps_its_place(
    nano: LoadedModel, tmp_path: Path, before: int, after: int
) -> None:
    source = write(tmp_path / "rows.jsonl", row(before, after, pair(FACT)))
    drawn = draw(nano, source, lengths=(128, 256))
    assert [case.length for case in drawn.cases] == [128, 256]
    for case in drawn.cases:
        watched = nano.tokenizer.decode(case.input_ids[case.span])
        assert "".join(watched.split()) == "".join(FACT.split())
        assert case.depth == pytest.approx(100 * before / (before + after), abs=2)
        assert case.answer == "velvet kettles"
        said = nano.tokenizer.decode(case.input_ids)
        assert said.count("velvet kettles") == 1
        asked = case.question
        question = nano.tokenizer.decode(case.input_ids[asked.start : asked.end])
        assert "What does Noah like" in question
    assert drawn.plan.identity["truncation"] == RULE
    assert drawn.plan.identity["lengths"] == [128, 256]


def test_the_questions_about_a_document_share_it(nano: LoadedModel, tmp_path: Path) -> None:
    asked = [
        pair("Carl lives in Oxley Mill.", Q="Where does Carl live?", A="Oxley Mill"),
        pair(FACT),
        pair("Noah likes velvet kettles."),
    ]
    source = write(tmp_path / "rows.jsonl", row(30, 10, *asked))
    cases = draw(nano, source, lengths=(1000,)).cases
    documents = [case.input_ids[: case.question.start] for case in cases]
    shortest = min(map(len, documents))
    assert len({ids[:shortest] for ids in documents}) == 1
    tree = PrefixTree.of(shared_prefixes(cases, TASKS["evidence"]))
    asks = sum(case.length - len(ids) for case, ids in zip(cases, documents, strict=True))
    assert tree.unique_tokens <= shortest + asks + 3 * BLOCK
    watched = [nano.tokenizer.decode(case.input_ids[case.span]) for case in cases]
    assert [" ".join(text.split()) for text in watched] == [
        "Carl lives in Oxley Mill.",
        "Noah likes velvet kettles. Carl lives in Oxley Mill.",
        "Noah likes velvet kettles.",
    ]


def test_a_short_document_is_read_whole(nano: LoadedModel, tmp_path: Path) -> None:
    source = write(tmp_path / "rows.jsonl", row(2, 1, pair(FACT)))
    (case,) = draw(nano, source, lengths=(512,)).cases
    said = nano.tokenizer.decode(case.input_ids)
    assert case.length < 128
    assert said.count("quiet river") == 3


def test_the_longest_passage_that_stands_in_the_document_is_watched(
    nano: LoadedModel, tmp_path: Path
) -> None:
    rows = [
        row(5, 5, pair(["Noah likes velvet kettles.", FACT], type="computation")),
        row(5, 5, pair("Carl lives in Oxley Mill. Nobody wrote this.")),
        row(5, 5, pair("Nobody wrote this.")),
    ]
    source = write(tmp_path / "rows.jsonl", *rows)
    with pytest.warns(HeadprobeWarning, match="1 of 3 questions have no evidence"):
        drawn = draw(nano, source, lengths=(128,))
    watched = [nano.tokenizer.decode(case.input_ids[case.span]) for case in drawn.cases]
    assert ["Oxley" in text for text in watched] == [True, True]
    assert ["velvet" in text for text in watched] == [True, False]
    assert [case.kind for case in drawn.cases] == ["longdep_qa", "shortdep_qa"]
    with pytest.warns(HeadprobeWarning, match="left out"):
        assert draw(nano, source, lengths=(128,), limit=1).possible == 2


@pytest.mark.parametrize("missing", [None, "", []])
def test_a_question_without_evidence_is_left_out(
    nano: LoadedModel, tmp_path: Path, missing: Any
) -> None:
    source = write(tmp_path / "rows.jsonl", row(20, 0, pair(missing), pair(FACT, Q="Who likes?")))
    with pytest.warns(HeadprobeWarning, match="1 of 2 questions have no evidence"):
        drawn = draw(nano, source, lengths=(128,))
    assert [needle.question for needle in drawn.needles] == ["Who likes?"]


def test_a_row_of_one_question_is_asked_if_it_brings_evidence(
    nano: LoadedModel, tmp_path: Path
) -> None:
    flat = {"context": FILLER * 20 + FACT, "question": "What?", "answer": "velvet kettles"}
    drawn = draw(nano, write(tmp_path / "own.jsonl", {**flat, "evidence": [FACT]}), lengths=(128,))
    assert [case.answer for case in drawn.cases] == ["velvet kettles"]
    with refused("hub.jsonl, line 1: the row brings no evidence: LooGLE's own rows do"):
        draw(nano, write(tmp_path / "hub.jsonl", flat))


def test_what_cannot_be_asked_is_refused(nano: LoadedModel, tmp_path: Path) -> None:
    source = write(tmp_path / "rows.jsonl", row(5, 5, pair("Nobody wrote this.")))
    with refused("no question has evidence"):
        draw(nano, source)
    with refused("evidence stands where the document has it", option="depths", value=(0.0,)):
        draw(nano, source, depths=(0.0,))
    with refused("task evidence asks about documents"):
        draw_documents(nano, PROBE, CaseSpec())
    good = write(tmp_path / "good.jsonl", row(5, 5, pair(FACT)))
    with refused("too short for evidence 0", option="lengths", value=20):
        draw(nano, good, lengths=(20,))
    with refused("line 1: expected a text in field 'input'"):
        draw(nano, write(tmp_path / "bad.jsonl", {"qa_pairs": "[]"}))


def test_the_public_documents_are_asked(nano: LoadedModel) -> None:
    shared = Path(__file__).parents[2] / ".." / "shared" / "benchmarks"
    if not shared.is_dir():
        pytest.skip("the benchmarks' rows are not here")
    with warnings.catch_warnings(record=True, action="always") as told:
        drawn = draw(nano, str(shared / "loogle_shortdep_qa.jsonl"), lengths=(1000,), limit=4)
    assert len(drawn.cases) == 4
    assert len(drawn.needles) >= 60
    assert any("have no evidence" in str(one.message) for one in told)
