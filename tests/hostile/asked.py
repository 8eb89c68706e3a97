"""Needles and questions as people bring them, and as nobody should."""

from __future__ import annotations

import json
import random
import unicodedata
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from headprobe.evaluation.questions import read_questions
from headprobe.nano.tokenizer import build_tokenizer
from headprobe.prompts.needles import read_needles
from headprobe.prompts.style import PromptWriter
from tests.hostile.damage import WRONG_VALUES, damaged, harmless, special, with_key_twice
from tests.hostile.prose import prose
from tests.hostile.trial import Family, Input

# Needles.


def _squashed(text: str) -> str:
    plain = unicodedata.normalize("NFKD", text).casefold()
    return "".join(sign for sign in plain if sign.isalnum() or unicodedata.combining(sign))


def _copy(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def read_needle_file(source: Path | str) -> list[tuple[str, ...]]:
    return [
        (one.text, one.question, one.answer, _squashed(one.text[one.start : one.stop]))
        for one in read_needles(Path(source))
    ]


def _needles_plainly(path: Path) -> list[tuple[str, ...]] | None:
    try:
        text = path.read_text(encoding="utf-8-sig")
        is_array = text.lstrip()[:1] == "["
        rows = (
            json.loads(text)
            if is_array
            else [json.loads(line) for line in text.split("\n") if line.strip()]
        )
        found = {}
        for row in rows:
            told = {name: _spelled(row[name]) for name in ("needle", "question", "real_needle")}
            answer = _spelled(row.get("answer", row["real_needle"]))
            one = (told["needle"], told["question"], answer, _squashed(told["real_needle"]))
            "".join(one).encode()
            found.setdefault((_copy(one[0]), _copy(told["real_needle"])), one)
        return list(found.values()) or None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _spelled(value: Any) -> str:
    if isinstance(value, str) and value.strip():
        return value.strip()
    if type(value) in (int, float):
        return json.dumps(value)
    raise TypeError(value)


def make_needles(rng: random.Random, folder: Path) -> Input:
    path = folder / rng.choice(["needles.jsonl", "needles.json", "n"])
    rows = [_needle(rng, number) for number in range(rng.randint(1, 4))]
    text = _rows(rng, rows)
    path.write_text(text, encoding="utf-8", newline="")
    return _input(rng, path, text, rows, _needles_plainly)


def _needle(rng: random.Random, number: int) -> dict[str, Any]:
    watched = rng.choice(
        ["Ann's “red” kite", "café \u2013 白鹭", f"{number}71", "the yellow  tram"]
    )
    needle = f"{number}: So it is {watched} that counts."
    row: dict[str, Any] = {"needle": needle, "question": f"What counts in {number}?"}
    ways: list[Callable[[str], str]] = [
        lambda text: text,
        lambda text: unicodedata.normalize("NFD", text),
        lambda text: text.replace("“", '"').replace("”", '"').replace("\u2013", "-"),
        lambda text: text.replace(" ", "\u00a0"),
        lambda text: text.replace(" ", "\r\n "),
        str.upper,
    ]
    row["real_needle"] = rng.choice(ways)(watched)
    if watched.isdecimal() and rng.random() < 0.5:
        row["real_needle"] = int(watched) if not watched.startswith("0") else watched
    if rng.random() < 0.5:
        row["answer"] = rng.choice(["a kite", 7, 2.5, "红色"])
    if rng.random() < 0.3:
        row |= {"kind": "one-hop", "wrong_answer": "a drum", "asks": [1, {}]}
    return row


def _rows(rng: random.Random, rows: Any) -> str:
    if rng.random() < 0.3:
        return harmless(rng, rows)
    return "\n".join(json.dumps(row, ensure_ascii=rng.random() < 0.5) for row in rows) + "\n"


def _input(
    rng: random.Random,
    path: Path,
    text: str,
    rows: list[dict[str, Any]],
    plainly: Callable[[Path], Any],
) -> Input:
    """Leave a file of rows as it is, or damage it in one way."""
    draw = rng.random()
    if draw < 0.3:
        return Input(source=path, truth=plainly(path))
    if draw < 0.6:
        damage, content = damaged(rng, text)
        path.write_bytes(content)
        return Input(source=path, truth=plainly(path), damage=damage)
    if draw < 0.65:
        path.unlink()
        return Input(source=path, truth=None, damage=special(rng, path))
    if draw < 0.75:
        path.write_text(with_key_twice(rng, text), encoding="utf-8")
        return Input(source=path, truth=None, damage="key twice")
    field = rng.choice([name for name in rows[0] if name not in ("kind", "asks")])
    value = rng.choice([*WRONG_VALUES, "x" * 1_000_001, "\u200b", "\u00a0"])
    path.write_text("\n".join(json.dumps({**row, field: value}) for row in rows))
    return Input(source=path, truth=plainly(path), damage=f"{field}: {value!r:.30}")


# Questions.


@cache
def writer() -> PromptWriter:
    return PromptWriter(build_tokenizer())


def read_question_file(source: Path | str) -> list[Any]:
    return [
        (one.answers, one.context_ids, len(one.question_ids) > 0)
        for one in read_questions(Path(source), writer(), max_context=None)
    ]


def _questions_plainly(path: Path) -> list[Any] | None:
    try:
        text = path.read_text(encoding="utf-8-sig")
        is_array = text.lstrip()[:1] == "["
        rows = (
            json.loads(text)
            if is_array
            else [json.loads(line) for line in text.split("\n") if line.strip()]
        )
        found = {}
        for row in rows:
            asked = row.get("question", row.get("input"))
            if not isinstance(asked, str) or (
                {"question", "input"} <= {*row} and not asked.strip()
            ):
                return None
            answers = row["answers"] if isinstance(row["answers"], list) else [row["answers"]]
            texts = tuple(_spelled(one) for one in answers)
            if not texts or not isinstance(row["context"], str):
                return None
            context = _spelled(row["context"])
            "".join((context, asked, *texts)).encode()
            head = writer().chat_affixes().head
            ids = (*head, *writer().pieces.encode(" " + context))
            found.setdefault((_copy(context), _copy(asked)), (texts, ids, True))
        return list(found.values()) or None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def make_questions(rng: random.Random, folder: Path) -> Input:
    path = folder / rng.choice(["own.jsonl", "own.json"])
    rows = []
    for number in range(rng.randint(1, 3)):
        answers = rng.choice(["kites", 1969, 2.5, ["kites", "red kites"], ["a", 3], "白鹭"])
        asked = rng.choice(
            [
                {"question": f"What is {number}?"},
                {"question": ""},
                {"input": f"Who {number}?"},
                {"input": ""},
            ]
        )
        rows.append({"context": f"{number} {prose(rng)}", "answers": answers, **asked})
    text = _rows(rng, rows)
    path.write_text(text, encoding="utf-8", newline="")
    return _input(rng, path, text, rows, _questions_plainly)


FAMILIES = {
    "needles": Family(make=make_needles, read=read_needle_file),
    "questions": Family(make=make_questions, read=read_question_file),
}
