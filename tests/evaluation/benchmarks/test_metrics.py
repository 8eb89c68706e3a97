"""Every metric against its benchmark's published arithmetic, written plainly here."""

from __future__ import annotations

import json
import re
import string
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headprobe.errors import HeadprobeError
from headprobe.evaluation.benchmarks import metrics
from headprobe.evaluation.benchmarks.metrics import METRICS
from headprobe.evaluation.benchmarks.rouge import rouge_l

WORDS = st.lists(st.sampled_from(["the", "a", "red", "Kite.", "kites", "an", "7", "(b)"]))
TEXTS = WORDS.map(" ".join)


def squad_f1(response: str, answer: str) -> float:
    def normal(text: str) -> list[str]:
        plain = "".join(c for c in text.lower() if c not in string.punctuation)
        return re.sub(r"\b(a|an|the)\b", " ", plain).split()

    said, wanted = normal(response), normal(answer)
    same = sum(min(said.count(word), wanted.count(word)) for word in set(said))
    if same == 0:
        return 0.0
    precision, recall = same / len(said), same / len(wanted)
    return 2 * precision * recall / (precision + recall)


@given(TEXTS, st.lists(TEXTS, min_size=1, max_size=2))
def test_qa_f1_is_squads_of_the_best_answer(response: str, answers: list[str]) -> None:
    wanted = max(squad_f1(response, answer) for answer in answers)
    assert metrics.qa_f1(response, answers) == pytest.approx(100 * wanted)


def test_qa_f1_zh_counts_the_words_that_jieba_finds() -> None:
    pytest.importorskip("jieba")
    # 厦门大学 is one word of jieba's; 在 another; punctuation is none.
    assert metrics.qa_f1_zh("厦门大学", ["厦门大学。"]) == 100
    assert metrics.qa_f1_zh("在厦门大学。", ["厦门大学。"]) == pytest.approx(200 / 3)
    assert metrics.qa_f1_zh("北京", ["厦门大学。"]) == 0


def subsequences(words: Sequence[str]) -> Iterator[tuple[str, ...]]:
    for size in range(len(words), -1, -1):
        yield from combinations(words, size)


def longest_common(one: Sequence[str], other: Sequence[str]) -> set[tuple[str, ...]]:
    """All longest common subsequences, by trying every one."""
    common = set(subsequences(one)) & set(subsequences(other))
    longest = max(map(len, common))
    return {words for words in common if len(words) == longest}


@given(
    st.lists(st.sampled_from("abcd"), min_size=1, max_size=6),
    st.lists(st.sampled_from("abcd"), min_size=1, max_size=6),
)
def test_rouge_l_of_one_sentence_counts_words_of_a_longest_common_subsequence(
    response: list[str], reference: list[str]
) -> None:
    f, recall = rouge_l(" ".join(response), " ".join(reference))
    sizes = {len(set(words)) for words in longest_common(reference, response)}
    wanted = {size / len(set(reference)) for size in sizes}
    assert any(recall == pytest.approx(one) for one in wanted)
    precision = recall * len(set(reference)) / len(set(response))
    assert f == pytest.approx(2 * precision * recall / (precision + recall + 1e-8))


def test_rouge_l_unites_the_sentences() -> None:
    """The example of Lin (2004): w1 w2 of one sentence, w1 w3 w5 of the other."""
    f, recall = rouge_l("w1 w2 w6 w7 w8. w1 w3 w8 w9 w5", "w1 w2 w3 w4 w5")
    assert recall == pytest.approx(4 / 5)
    assert f == pytest.approx(2 * (4 / 8) * (4 / 5) / (4 / 8 + 4 / 5), abs=1e-7)
    assert rouge_l("", "a") == rouge_l("a", "") == (0.0, 0.0)
    assert metrics.rouge_l("w1 w2", ["x", "w1 w2"]) == pytest.approx(100, abs=1e-5)
    assert metrics.rouge_l_recall("w1 w2 x y", ["w1 w2"]) == 100


def test_rouge_l_zh_parts_chinese_into_words() -> None:
    pytest.importorskip("jieba")
    assert metrics.rouge_l_zh("厦门大学很大", ["厦门大学"]) == pytest.approx(
        100 * rouge_l("厦门大学 很大", "厦门大学")[0]
    )


def classified(prediction: str, truth: str, classes: Sequence[str]) -> float:
    matches = [name for name in classes if name in prediction]
    for match in matches:
        if match in truth and match != truth:
            matches.remove(match)
    return 1.0 / len(matches) if truth in matches else 0.0


CLASSES = ["Person", "Other person", "Other", "Date", "Number of something", "Number"]


@given(st.lists(st.sampled_from(CLASSES), max_size=3).map(" or ".join), st.sampled_from(CLASSES))
def test_classification_is_shared_among_the_classes_that_are_named(said: str, truth: str) -> None:
    wanted = classified(said, truth, CLASSES)
    assert metrics.classification(said, [truth], CLASSES) == pytest.approx(100 * wanted)


@pytest.mark.parametrize(
    ("metric", "response", "answer", "wanted"),
    [
        (metrics.retrieval, "Paragraph 3, or 4", "Paragraph 3", 50),
        (metrics.retrieval, "段落27", "段落27", 100),
        (metrics.retrieval, "none", "Paragraph 3", 0),
        (metrics.count, "There are 7, no 8, of 7.", "7", 200 / 3),
        (metrics.count, "seven", "7", 0),
        (metrics.string_match_part, "It is The Kite.\n", "the kite", 100),
        (metrics.substring, "the name is Ace Rothstein", "ACE ROTHSTEIN", 100),
        (metrics.substring, "the name is Ace", "ACE ROTHSTEIN", 0),
        (metrics.choice, "The correct answer is (B)", "B", 100),
        (metrics.choice, "**The correct answer is B**, not A", "B", 100),
        (metrics.choice, "The correct answer is C", "B", 0),
        (metrics.choice, "B", "B", 0),
        (METRICS["first_integer"], "It is 00712.", "00712", 100),
        (METRICS["first_integer"], "Of 3 keys 712", "712", 0),
        (METRICS["first_integer"], "none", "712", 0),
        (METRICS["last_integer"], "It returns: `-7`.", "-7", 100),
        (METRICS["last_integer"], "7 is returned", "7", 0),
        (METRICS["last_integer"], "foo", "foo", 0),
        (METRICS["first_number"], "-7, not 8", "7", 100),
        (METRICS["first_number"], "7.5", "7.5", 100),
        (METRICS["first_number"], "7.0", "7", 0),
        (METRICS["first_number"], "9" * 9999, "7", 0),
        (METRICS["first_number"], "none", "7", 0),
        (METRICS["word"], 'The value is "a-b".', "a-b", 100),
        (METRICS["word"], "a-bc", "a-b", 0),
        (METRICS["qa_f1_characters"], "在北京。", "北京", 80),
        (METRICS["qa_f1_characters"], "Ada", "ada!", 100),
    ],
)
def test_simple_metrics(
    metric: Callable[..., float], response: str, answer: str, wanted: float
) -> None:
    assert metric(response, [answer]) == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("said", "part"),
    [("[1, 4, 8]", 1), ("1 4 7 8", 2 / 3), ("4 1 8", 0), ("", 0), ("1, 4, 8, 9", 1)],
)
def test_values_count_up_to_the_first_wrong_one(said: str, part: float) -> None:
    found = METRICS["leading_integers"](said, ["1", "4", "8"], [])
    assert found == pytest.approx(100 * part)
    # Signs are passed over in the response, and in the values they are not.
    assert METRICS["leading_integers"]("-1", ["-1"], []) == 0


OPTIONS = ["read", "write", "close", "seek"]


@pytest.mark.parametrize(
    ("response", "book", "code"),
    [
        ("B", 100, 100),
        ("(B) write", 100, 100),
        # The last letter alone, if it is right; else what the response begins with.
        ("A or B", 100, 100),
        ("B, not A", 100, 100),
        ("Not B but A", 100, 0),
        ("Because it is so", 100, 100),
        ("write", 100, 100),
        ("write is the one", 0, 100),
        ("I say the answer is: write", 100, 100),
        ("I say the answer is: read", 0, 0),
        ("it is: write", 0, 100),
        ("I think AB", 0, 0),
        ("read", 0, 0),
        ("", 0, 0),
    ],
)
def test_a_choice_is_found_as_infinitebench_finds_it(
    response: str, book: float, code: float
) -> None:
    assert METRICS["book_choice"](response, ["B"], OPTIONS) == book
    assert METRICS["code_choice"](response, ["B"], OPTIONS) == code


def test_string_matches_count_all_answers_or_one() -> None:
    said = "First\x0017, then 23."
    assert metrics.string_match_all(said, ["17", "23", "29"]) == pytest.approx(200 / 3)
    assert metrics.string_match_part(said, ["29", "23"]) == 100
    assert metrics.string_match_part(said, ["29"]) == 0


def indel_similarity(one: str, other: str) -> float:
    """2 LCS over both lengths, by the textbook's table."""
    table = [[0] * (len(other) + 1) for _ in range(len(one) + 1)]
    for i, a in enumerate(one, start=1):
        for j, b in enumerate(other, start=1):
            same = table[i - 1][j - 1] + 1
            table[i][j] = same if a == b else max(table[i - 1][j], table[i][j - 1])
    size = len(one) + len(other)
    return 2 * table[-1][-1] / size if size else 1.0


@given(st.text("ab= ", max_size=8), st.text("ab= ", min_size=1, max_size=8))
def test_code_similarity_is_that_of_the_first_line_of_code(line: str, answer: str) -> None:
    pytest.importorskip("rapidfuzz")
    response = f"\n```python\n# a comment\n{line}\nmore"
    wanted = 100 * indel_similarity(line, answer)
    assert abs(metrics.code_similarity(response, [answer]) - wanted) <= 0.5


LABELS = ["bathroom", "kitchen", "office"]


@pytest.mark.parametrize(
    ("response", "answer", "labels", "wanted"),
    [
        ("The kitchen. Not the office.", "kitchen", LABELS, 100),
        ("The kitchen or the office.", "kitchen", LABELS, 0),
        ("office", "kitchen", LABELS, 0),
        ("none", "none", ["none", "one"], 100),
        ("apple,milk", "apple,milk", ["apple", "milk", "football"], 100),
        ("apple", "apple,milk", ["apple", "milk", "football"], 0),
    ],
)
def test_a_label_is_the_only_one_named(
    response: str, answer: str, labels: list[str], wanted: float
) -> None:
    assert metrics.label(response, [answer], labels) == wanted


def test_masked_entities_count_one_by_one() -> None:
    wanted = json.dumps({"<mask-0>": "Bob", "<mask-1>": "Rome"})
    assert metrics.cloze("{'<mask-0>': 'Bob', '<mask-1>': 'Paris'}", [wanted]) == 50
    assert metrics.cloze("Bob and Rome", [wanted]) == 0
    assert metrics.cloze("[" * 10_000, [wanted]) == 0


@pytest.mark.parametrize(
    "answers", [['{"<mask-0>": "Bob"}'], ["{'<mask-0>': 'Bob'}"], ["Bob"], ["Bob", "Rome"]]
)
def test_masked_entities_are_read_in_every_form_that_rows_have(answers: list[str]) -> None:
    assert metrics.cloze("{'<mask-0>': 'Bob'}", answers) == 100 / len(answers)
    assert metrics.masked_entities(answers)["<mask-0>"] == "Bob"


@pytest.mark.parametrize("answer", ["{'<mask-0>': 'Bob'", "{}", "{'Bob', 'Rome'}"])
def test_an_object_of_masked_entities_that_cannot_be_read_is_refused(answer: str) -> None:
    with pytest.raises(ValueError, match="expected an object of masked entities"):
        metrics.masked_entities([answer])


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_is_bounded_and_grades_nothing_with_nothing(name: str) -> None:
    if name in ("qa_f1_zh", "rouge_l_zh"):
        pytest.importorskip("jieba")
    if name == "code_similarity":
        pytest.importorskip("rapidfuzz")
    right = '{"<mask-0>": "A"}' if name == "cloze" else "A"
    assert METRICS[name]("", [right], ["A"]) == 0
    assert METRICS[name](right, [right], [right]) in (0, pytest.approx(100, abs=1e-5))


@pytest.mark.parametrize(
    ("name", "package", "extra"),
    [("qa_f1_zh", "jieba", "zh"), ("code_similarity", "rapidfuzz.fuzz", "code")],
)
def test_a_missing_package_is_one_line_that_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, name: str, package: str, extra: str
) -> None:
    metrics._segmenter.cache_clear()
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(HeadprobeError, match=rf"pip install 'headprobe\[{extra}\]'"):
        METRICS[name]("a", ["a"], [])
