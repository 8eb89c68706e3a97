"""RULER's tasks, made here: their form is that of the published prompts."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from random import Random

import pytest

from headprobe.errors import HeadprobeError
from headprobe.evaluation.benchmarks.ruler import words
from headprobe.evaluation.benchmarks.ruler.documents import read_corpus
from headprobe.evaluation.benchmarks.ruler.sample import Sample
from headprobe.evaluation.benchmarks.ruler.tasks import NEEDLES, TASKS, generate
from headprobe.evaluation.benchmarks.ruler.templates import FAMILIES, split_prompt
from tests._support.refusals import refused

SHARED = Path(__file__).parents[3] / ".." / "shared" / "benchmarks"
UUID = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
MADE = [task for task in TASKS if not task.startswith("qa")]


def whole(sample: Sample) -> str:
    return sample.context + sample.question + sample.answer_prefix


def within(characters: int) -> Callable[[Sample], bool]:
    return lambda sample: len(whole(sample)) <= characters


def first(task: str, count: int = 1, *, size: int = 6000, seed: int = 0) -> list[Sample]:
    if task != "vt" and NEEDLES.get(task, NEEDLES["niah_single_1"]).key_kind == "words":
        pytest.importorskip("wonderwords")
    made = generate(task, length=size // 4, seed=seed, fits=within(size))
    return list(islice(made, count))


@pytest.mark.parametrize("task", MADE)
def test_a_length_is_filled_and_the_same_seed_gives_the_same_samples(task: str) -> None:
    size = 12_000 if task == "fwe" else 6000
    samples = first(task, 3, size=size)
    assert samples == first(task, 3, size=size)
    assert samples[:2] == first(task, 2, size=size)
    assert samples != first(task, 3, size=size, seed=1)
    assert len({whole(sample) for sample in samples}) == 3
    assert all(0.85 * size < len(whole(sample)) <= size for sample in samples)


@pytest.mark.parametrize("task", MADE)
def test_a_sample_is_parted_where_the_published_prompts_are(task: str) -> None:
    (sample,) = first(task)
    family, context, question, prefix = split_prompt(whole(sample))
    assert task.startswith(family)
    assert (context, question, prefix) == (sample.context, sample.question, sample.answer_prefix)


@pytest.mark.parametrize("task", NEEDLES)
def test_every_answer_is_the_value_of_a_key_that_is_asked_for(task: str) -> None:
    (sample,) = first(task)
    needles = NEEDLES[task]
    assert len(sample.answers) == needles.queries * needles.values
    told = re.findall(r"One of the special magic (\w+) for (\S+) is: (\S+)\.", sample.context)
    values = {value: key for _, key, value in told}
    assert {kind for kind, _, _ in told} == {needles.value_kind}
    asked = re.findall(r"for (.+) mentioned", sample.question)[0]
    assert {values[answer] for answer in sample.answers} == set(
        asked.replace("and ", "").split(", ")
    )
    if needles.haystack == "essay":
        assert len(told) == max(needles.keys, needles.queries) * needles.values


def test_generated_rows_are_of_the_form_of_the_published_ones() -> None:
    path = SHARED / "ruler_4096_niah_multikey_3.jsonl"
    if not path.is_file():
        pytest.skip("the benchmarks' rows are not here")

    def form(prompt: str) -> str:
        lines = re.sub(UUID, "<uuid>", prompt).split("\n")
        return "\n".join(
            line for line, before in zip(lines, ["", *lines], strict=False) if line != before
        )

    with path.open() as file:
        rows = [json.loads(line) for line in islice(file, 5)]
    size = len(rows[0]["input"])
    for row, sample in zip(rows, first("niah_multikey_3", 5, size=size), strict=True):
        assert form(whole(sample)) == form(row["input"])
        assert whole(sample).count("\n") == row["input"].count("\n")
        assert (
            [re.sub(UUID, "u", one) for one in sample.answers]
            == ["u"]
            == [re.sub(UUID, "u", one) for one in row["outputs"]]
        )
        assert row["outputs"][0] in split_prompt(row["input"])[1]


def test_variables_follow_a_chain_from_one_value() -> None:
    (sample,) = first("vt")
    value = re.findall(r"value (\d+) in", sample.question)[0]
    told = dict(re.findall(r"VAR (\w{5}) = (?:VAR )?(\w+)", sample.context))
    assert set(sample.answers) == set(told)
    for name in sample.answers:
        while name in told:
            name = told[name]
        assert name == value
    # The worked example asks for shorter names.
    assert len(re.findall(r"VAR \w{3} =", sample.context)) == 5
    assert f"{len(sample.answers)} variables are assigned the value {value}" in sample.answer_prefix


def test_the_common_words_are_the_ten_most_listed() -> None:
    (sample,) = first("cwe")
    listed = re.findall(r"\d+\. (\S+)", sample.context.rsplit("Memorize the ones", 1)[1])
    often = Counter(listed).most_common(11)
    assert {word for word, _ in often[:10]} == set(sample.answers)
    assert [count for _, count in often] == [6] * 10 + [1]


def test_the_frequent_words_fall_with_the_square_of_their_rank() -> None:
    (sample,) = first("fwe", size=12_000)
    coded = sample.context.split("coded words. ")[1].split()
    (dots, top), *ranked = Counter(coded).most_common(4)
    assert dots == "..."
    assert [word for word, _ in ranked] == list(sample.answers)
    for rank, (_, count) in enumerate(ranked, start=2):
        assert count == pytest.approx(top / rank**2, abs=1.01)


def test_words_are_wonderwords() -> None:
    pytest.importorskip("wonderwords")
    assert len(words.all_words()) > 8000
    assert re.fullmatch(r"\S.*-.*\S", words.draw_value("words", Random(0)))


def test_the_package_of_words_is_named_where_it_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words._list_of.cache_clear()
    words.all_words.cache_clear()
    monkeypatch.setitem(sys.modules, "wonderwords", None)
    with pytest.raises(HeadprobeError, match=r"pip install 'headprobe\[ruler\]'"):
        next(generate("cwe", length=1000, seed=0, fits=within(4000)))


@pytest.mark.parametrize("task", ["niah_multikey_3", "vt"])
def test_a_length_that_holds_no_sample_is_refused(task: str) -> None:
    with refused("too short for this task of RULER", option="lengths", value=10):
        next(generate(task, length=10, seed=0, fits=within(40)))


BOAT = {"text": "boat"}
SQUAD = {
    "version": "v2.0",
    "data": [
        {
            "title": "Kites",
            "paragraphs": [
                {
                    "context": f"Paragraph {n} of kites.",
                    "qas": [
                        {"question": f"Which is {n}?", "answers": [{"text": f"Paragraph {n}"}]},
                        {"question": "Unanswerable?", "is_impossible": True, "answers": []},
                    ],
                }
                for n in range(3)
            ],
        },
        {
            "title": "Boats",
            "paragraphs": [{"context": f"Text {n} of boats.", "qas": []} for n in range(9)]
            + [
                {
                    "context": "A boat.",
                    "qas": [{"question": "What?", "answers": [{"text": "boat"}]}],
                }
            ],
        },
    ],
}


def test_questions_over_documents_take_squads_articles_first(tmp_path: Path) -> None:
    path = tmp_path / "squad.json"
    path.write_text(json.dumps(SQUAD))
    corpus = read_corpus(path)
    assert [one.question for one in corpus.questions] == [
        "Which is 0?",
        "Which is 1?",
        "Which is 2?",
        "What?",
    ]
    made = list(generate("qa_1", length=300, seed=0, fits=within(600), corpus=corpus))
    assert len(made) == 4
    for sample, asked in zip(made, corpus.questions, strict=True):
        assert sample.answers == asked.answers
        assert sample.question.endswith(f"Question: {asked.question}")
        assert corpus.documents[asked.own[0]] in sample.context
        assert re.findall(r"Document (\d+):", sample.context)[:2] == ["1", "2"]
    assert all(f"Paragraph {n} of kites." in made[0].context for n in range(3))


def test_questions_over_documents_take_hotpotqas_paragraphs(tmp_path: Path) -> None:
    path = tmp_path / "hotpot.jsonl"
    row = {
        "question": "Which?",
        "answer": "the kite",
        "context": [["Kite", ["A kite flies. ", "It is red."]], ["Boat", ["A boat floats."]]],
    }
    path.write_text(json.dumps(row) + "\n")
    corpus = read_corpus(path)
    (sample,) = generate("qa_2", length=300, seed=0, fits=within(900), corpus=corpus)
    assert "Kite\nA kite flies. It is red." in sample.context
    assert "Boat\nA boat floats." in sample.context
    assert sample.answers == ("the kite",)
    path.write_text(json.dumps({"context": "a", "question": "b", "answers": "c"}) + "\n")
    with refused("line 1: expected a row of SQuAD or HotpotQA"):
        read_corpus(path)


def test_a_text_that_no_template_wrote_is_no_prompt_of_ruler() -> None:
    with pytest.raises(ValueError, match="no prompt of RULER"):
        split_prompt("What is the special magic number?")
    assert set(FAMILIES) == {"niah", "vt", "cwe", "fwe", "qa"}
