"""The metrics of public benchmarks: a response against the right answers, in per cent.

The arithmetic is that of the benchmarks' published code, whose numbers it must give; the project's
own grades (``tasks.grading``) compare words in every script alike.
"""

from __future__ import annotations

import json
import re
import string
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from headprobe.evaluation.benchmarks import infinitebench_metrics as infinitebench
from headprobe.evaluation.benchmarks.extras import require
from headprobe.evaluation.benchmarks.overlap import CHINESE_MARKS, token_f1
from headprobe.evaluation.benchmarks.rouge import rouge_l as rouge_l_of
from headprobe.inputs.literals import parse_literal
from headprobe.inputs.printable import brief
from headprobe.prompts.documents import number_masks

Metric = Callable[[str, Sequence[str], Sequence[str]], float]
"""A response, the right answers, and the classes to tell apart; 0 to 100."""

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NUMBER = re.compile(r"\d+")
_CONTROL = re.compile(r"[\x00-\x1f]")
_NO_MARKS = str.maketrans("", "", string.punctuation)
_NOCHINESE_MARKS = str.maketrans("", "", string.punctuation + CHINESE_MARKS)
_CHOICES = (r"The correct answer is \(([A-D])\)", r"The correct answer is ([A-D])")
# Lines of a model's code that are no code: fences and comments.
_NO_CODE = ("`", "#", "//")


def qa_f1(response: str, answers: Sequence[str], classes: Sequence[str] = ()) -> float:
    """Compute LongBench's and SQuAD's token F1 against the nearest answer."""
    said = _english(response)
    return 100 * max(token_f1(said, _english(answer)) for answer in answers)


def qa_f1_zh(response: str, answers: Sequence[str], classes: Sequence[str] = ()) -> float:
    """Compute LongBench's F1 of the words that jieba finds in Chinese."""
    said = _chinese(response)
    return 100 * max(token_f1(said, _chinese(answer)) for answer in answers)


def rouge_l(response: str, answers: Sequence[str], classes: Sequence[str] = ()) -> float:
    """Compute the F score of ROUGE-L (LongBench) against the nearest answer."""
    return 100 * max(rouge_l_of(response, answer)[0] for answer in answers)


def rouge_l_zh(response: str, answers: Sequence[str], classes: Sequence[str] = ()) -> float:
    """Compute the F score of ROUGE-L (LongBench) on the words that jieba finds in Chinese."""
    return rouge_l(_spaced(response), [_spaced(answer) for answer in answers])


def rouge_l_recall(response: str, answers: Sequence[str], classes: Sequence[str] = ()) -> float:
    """Compute the recall of ROUGE-L (LooGLE) against the nearest answer."""
    return 100 * max(rouge_l_of(response, answer)[1] for answer in answers)


def classification(response: str, answers: Sequence[str], classes: Sequence[str] = ()) -> float:
    """Divide 100 among the classes that a response names (LongBench), if it names the right one.

    A class whose name is part of the right one's does not count.
    """
    return 100 * max(_classified(response, answer, classes) for answer in answers)


def retrieval(response: str, answers: Sequence[str], classes: Sequence[str] = ()) -> float:
    """Compute how many of a response's numbers are the right paragraph's (LongBench)."""
    wanted = [found[0] for answer in answers if (found := _NUMBER.findall(answer))]
    return count(response, wanted or [""])


def count(response: str, answers: Sequence[str], classes: Sequence[str] = ()) -> float:
    """Compute how many of a response's numbers are the right one (LongBench)."""
    numbers = _NUMBER.findall(response)
    return 100 * max(numbers.count(answer) for answer in answers) / len(numbers) if numbers else 0.0


def code_similarity(response: str, answers: Sequence[str], classes: Sequence[str] = ()) -> float:
    """Compute the similarity of a response's first line of code (LongBench's edit similarity)."""
    fuzz = require("rapidfuzz.fuzz", extra="code", why="metric code_similarity")
    lines = response.lstrip("\n").split("\n")
    said = next((line for line in lines if not any(mark in line for mark in _NO_CODE)), "")
    # Whole per cents, as fuzzywuzzy gives them.
    return float(max(round(fuzz.ratio(said, answer)) for answer in answers))


def string_match_all(response: str, answers: Sequence[str], classes: Sequence[str] = ()) -> float:
    """Compute the fraction of the answers that a response holds (RULER)."""
    said = _CONTROL.sub("\n", response).strip().lower()
    return 100 * sum(answer.lower() in said for answer in answers) / len(answers)


def string_match_part(response: str, answers: Sequence[str], classes: Sequence[str] = ()) -> float:
    """Score 100 where a response holds one of the answers (RULER's questions)."""
    said = _CONTROL.sub("\n", response).strip().lower()
    return 100.0 * any(answer.lower() in said for answer in answers)


def substring(response: str, answers: Sequence[str], classes: Sequence[str] = ()) -> float:
    """Score 100 where a response holds one of the answers in any case (InfiniteBench)."""
    return 100.0 * any(answer.upper() in response.strip().upper() for answer in answers)


def label(response: str, answers: Sequence[str], classes: Sequence[str] = ()) -> float:
    """Score 100 where a response's first sentence names the right label alone (BABILong).

    The ``classes`` are the labels that the question does not name.
    """
    said = response.lower().split(".")[0].split("<context>")[0].split("<example>")[0]
    whole = any(one != other and one in other for one in classes for other in classes)
    named = {one for one in classes if _names(said, one, whole_words=whole)}
    return 100.0 * any(named == set(answer.lower().split(",")) for answer in answers)


def choice(response: str, answers: Sequence[str], classes: Sequence[str] = ()) -> float:
    """Score 100 where a response says "The correct answer is (A)" of the right letter.

    LongBench-v2's rule: with or without brackets, and nothing else counts.
    """
    plain = response.replace("*", "")
    found = next((match for one in _CHOICES if (match := re.search(one, plain))), None)
    return 100.0 * (found is not None and found[1] in answers)


def cloze(response: str, answers: Sequence[str], classes: Sequence[str] = ()) -> float:
    """Compute the fraction of the masked entities that a response names right (LooGLE)."""
    wanted, said = masked_entities(answers), read_masks(response) or {}
    right: int = sum(said.get(mask) == name for mask, name in wanted.items())
    return 100.0 * right / len(wanted)


def masked_entities(answers: Sequence[str]) -> dict[str, Any]:
    """Read masked entities: an object in JSON or a Python literal, or names in the masks' order.

    Raises:
        ValueError: the answer begins like an object, and is none that can be read.
    """
    if len(answers) > 1 or not answers[0].startswith("{"):
        return number_masks(answers)
    try:
        found = json.loads(answers[0])
    except ValueError:
        found = read_masks(answers[0])
    if not found:
        got = brief(answers[0])
        raise ValueError(f"expected an object of masked entities in field 'answer', got {got}")
    return dict(found)


def read_masks(text: str) -> dict[Any, Any] | None:
    """Read a Python literal of masked entities; ``None`` where a text is none."""
    try:
        # Of a key that the model writes twice the last value counts.
        found = parse_literal(text, unique_keys=False)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def check_gradable(metrics: Sequence[str], answers: Sequence[str], classes: Sequence[str]) -> None:
    """Check that a row brings what metrics rest on.

    Raises:
        ValueError: there are no classes to tell apart, or the masked entities cannot be read.
    """
    if "classification" in metrics and not classes:
        raise ValueError("expected a list of texts in field 'all_classes', got none")
    if "cloze" in metrics:
        masked_entities(answers)


METRICS: dict[str, Metric] = {
    "qa_f1": qa_f1,
    "qa_f1_zh": qa_f1_zh,
    "rouge_l": rouge_l,
    "rouge_l_zh": rouge_l_zh,
    "rouge_l_recall": rouge_l_recall,
    "classification": classification,
    "retrieval": retrieval,
    "count": count,
    "code_similarity": code_similarity,
    "string_match_all": string_match_all,
    "string_match_part": string_match_part,
    "substring": substring,
    "label": label,
    "choice": choice,
    "cloze": cloze,
    "first_integer": infinitebench.first_integer,
    "last_integer": infinitebench.last_integer,
    "first_number": infinitebench.first_number,
    "leading_integers": infinitebench.leading_integers,
    "word": infinitebench.word,
    "qa_f1_characters": infinitebench.qa_f1_characters,
    "book_choice": infinitebench.book_choice,
    "code_choice": infinitebench.code_choice,
}


def _english(text: str) -> list[str]:
    return _ARTICLES.sub(" ", text.lower().translate(_NO_MARKS)).split()


def _chinese(text: str) -> list[str]:
    words = (word.lower().translate(_NOCHINESE_MARKS) for word in _segmenter().cut(text))
    return [joined for word in words if (joined := "".join(word.split()))]


def _spaced(text: str) -> str:
    return " ".join(_segmenter().cut(text))


@cache
def _segmenter() -> Any:
    """Build jieba's segmenter from its own dictionary; no cache file of anybody's is read."""
    jieba = require("jieba", extra="zh", why="a Chinese metric")
    segmenter = jieba.Tokenizer()
    segmenter.FREQ, segmenter.total = segmenter.gen_pfdict(segmenter.get_dict_file())
    segmenter.initialized = True
    return segmenter


def _classified(response: str, answer: str, classes: Sequence[str]) -> float:
    named = [one for one in classes if one in response]
    # The published loop: what is removed while it runs moves the next one out of its sight.
    for one in named:
        if one in answer and one != answer:
            named.remove(one)
    return 1 / len(named) if answer in named else 0.0


def _names(text: str, name: str, *, whole_words: bool) -> bool:
    if whole_words:
        return re.search(rf"\b{re.escape(name)}\b", text) is not None
    return name in text
