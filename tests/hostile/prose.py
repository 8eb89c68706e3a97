"""Haystacks, needles and questions as people bring them, and as nobody should."""

from __future__ import annotations

import csv
import io
import itertools
import json
import random
import unicodedata
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from headprobe.evaluation.questions import read_questions
from headprobe.nano.tokenizer import build_tokenizer
from headprobe.prompts.haystacks import sentences, split_sentences
from headprobe.prompts.needles import read_needles
from headprobe.prompts.style import PromptWriter
from tests.hostile.damage import (
    SURROGATE,
    WRONG_VALUES,
    bytes_damaged,
    damaged,
    harmless,
    special,
    with_key_twice,
)
from tests.hostile.trial import ANYTHING, Family, Input

_WORDS = "The heron rode a yellow tram to Lisbon, and Ann's “kite” cost 3.50 \u2013 白鹭 café"
_SENTENCES = 12


def prose(rng: random.Random) -> str:
    words = [rng.choices(_WORDS.split(), k=rng.randint(2, 9)) for _ in range(rng.randint(1, 4))]
    parts = [f"{' '.join(of_sentence)}." for of_sentence in words]
    return rng.choice([" ", "\n\n", "  "]).join(parts)


def first_sentences(texts: Sequence[str]) -> list[str] | None:
    found = list(split_sentences(texts))
    return list(itertools.islice(itertools.cycle(found), _SENTENCES)) or None


def read_haystack(source: Path | str) -> list[str]:
    return list(itertools.islice(sentences(str(source), seed=0), _SENTENCES))


# Haystacks: a table with a column of prose, a text, or a folder of both.


def make_table(rng: random.Random, folder: Path) -> Input:
    suffix = rng.choice([".json", ".jsonl", ".csv", ".parquet", ".JSONL", ".Csv"])
    path = folder / f"rows{suffix}"
    rows = [
        {"id": f"a{i}", "body": rng.choice([None, "", prose(rng)]), "url": "http://x"}
        for i in range(rng.randint(1, 4))
    ]
    rows.append({"id": "z", "body": prose(rng) + " " + prose(rng), "url": "http://y"})
    truth = first_sentences([row["body"] or "" for row in rows])
    write = {".json": _json, ".jsonl": _jsonl, ".csv": _csv, ".parquet": _parquet}[suffix.lower()]
    content = write(rng, rows)
    path.write_bytes(content)
    source = rng.choice([str(path), f"{path}:body"])
    if rng.random() < 0.25:
        return Input(source=source, truth=truth)
    if rng.random() < 0.4:
        return _wrong_row(rng, path, rows, write)
    if suffix == ".parquet":
        damage, content = bytes_damaged(rng, content)
        path.write_bytes(content)
        return Input(source=f"{path}:body", truth=ANYTHING, damage=damage)
    damage, content = damaged(rng, content.decode("utf-8-sig"))
    path.write_bytes(content)
    return Input(source=f"{path}:body", truth=_plainly(path), damage=damage)


def _wrong_row(
    rng: random.Random, path: Path, rows: list[dict[str, Any]], write: Callable[..., bytes]
) -> Input:
    damage = rng.choice(["column", "surrogate", "number", "needles", "long word", "special"])
    source = f"{path}:{'nowhere' if damage == 'column' else 'body'}"
    if damage == "special":
        path.unlink()
        return Input(source=source, truth=None, damage=special(rng, path))
    if damage == "surrogate" and path.suffix.lower() in (".json", ".jsonl"):
        path.write_bytes(write(rng, rows).replace(b'"body": "', f'"body": "{SURROGATE}'.encode()))
        text = path.read_bytes()
        return Input(
            source=source, truth=None if SURROGATE.encode() in text else ANYTHING, damage=damage
        )
    if damage == "number" and path.suffix.lower() in (".json", ".jsonl"):
        path.write_bytes(write(rng, [*rows, {"id": "b", "body": 3, "url": ""}]))
        first = first_sentences([row["body"] or "" for row in rows])
        # What comes behind the sentences that were asked for is not looked at.
        behind = len(list(split_sentences([row["body"] or "" for row in rows]))) >= _SENTENCES
        return Input(source=source, truth=first if behind else None, damage=damage)
    if damage == "needles":
        rows = [{"needle": "It is red.", "question": "?", "real_needle": "red"} for _ in rows]
        path.write_bytes(write(rng, rows))
        return Input(source=str(path), truth=None, damage=damage)
    if damage == "long word":
        path.write_bytes(write(rng, [{"id": "", "body": "w" * 1_000_001, "url": ""}, *rows]))
        return Input(source=source, truth=None, damage=damage)
    return Input(source=f"{path}:nowhere", truth=None, damage="column")


def _plainly(path: Path) -> list[str] | None:
    """Read the column ``body`` as plainly as can be; None where that fails."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix.lower() == ".csv":
            rows: Any = list(csv.DictReader(io.StringIO(text), strict=True))
        elif path.suffix.lower() == ".json":
            rows = json.loads(text)
        else:
            rows = [json.loads(line) for line in text.split("\n") if line.strip()]
        rows = rows if isinstance(rows, list) else [rows]
        texts = [row if isinstance(row, str) else row["body"] or "" for row in rows]
        "".join(texts).encode()
        return first_sentences(texts)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, csv.Error):
        return None


def _json(rng: random.Random, rows: Any) -> bytes:
    return harmless(rng, rows).encode()


def _jsonl(rng: random.Random, rows: Any) -> bytes:
    end = rng.choice(["\n", "\r\n", "\n\n"])
    return end.join(json.dumps(row, ensure_ascii=rng.random() < 0.5) for row in rows).encode()


def _csv(rng: random.Random, rows: Any) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator=rng.choice(["\n", "\r\n"]))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def _parquet(rng: random.Random, rows: Any) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), sink, compression=rng.choice(["snappy", "none"]))
    content: bytes = sink.getvalue().to_pybytes()
    return content


def make_folder(rng: random.Random, folder: Path) -> Input:
    root = folder / "essays"
    texts = {}
    for number in range(rng.randint(1, 5)):
        path = (
            root
            / rng.choice(["", "part1", "part2/deep"])
            / f"{number}{rng.choice(['.txt', '.MD'])}"
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(texts.setdefault(path, prose(rng)), encoding="utf-8")
    truth = first_sentences([texts[path] for path in sorted(texts)])
    aside = [".hidden.txt", ".git/a.txt", "b.png", "code.py", "needles.jsonl", "empty.txt"]
    for name in rng.sample(aside, rng.randint(0, 4)):
        path = root / name
        path.parent.mkdir(exist_ok=True)
        needle = '{"needle": "It is red.", "question": "?", "real_needle": "red"}'
        path.write_text(needle if "needle" in name else "" if "empty" in name else "Wrong.")
    if rng.random() < 0.3:
        special(rng, root / rng.choice(["0-pipe.txt", "z.md"]))
    if rng.random() < 0.4:
        return Input(source=root, truth=truth)
    path = rng.choice(sorted(texts))
    damage, content = damaged(rng, texts[path], but="nested")
    path.write_bytes(content)
    try:
        texts[path] = path.read_text(encoding="utf-8-sig")
    except ValueError:
        kept = list(itertools.takewhile(lambda other: other != path, sorted(texts)))
        before = list(split_sentences([texts[other] for other in kept]))
        found = before[:_SENTENCES] if len(before) >= _SENTENCES else None
        return Input(source=root, truth=found, damage=damage)
    truth = first_sentences([texts[path] for path in sorted(texts)])
    return Input(source=root, truth=truth, damage=damage)


def make_source(rng: random.Random, folder: Path) -> Input:
    names = [
        "",
        "hf:",
        "hf::",
        "hf::text",
        "hf:@",
        "hf: ",
        ":",
        "x:",
        "nowhere",
        "a" * 300,
        "\x1b[2J",
    ]
    names += [f"{folder}/{name}" for name in ("a.html", "b", "c.txt", "\n.txt", "d.parquet")]
    source = rng.choice(names)
    for name in ("a.html", "b"):
        (folder / name).write_text("Wrong.")
    return Input(source=source, truth=None, damage="name")


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
        for one in read_questions(Path(source), writer(), longest=None)
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
            if not isinstance(asked, str) or ("question" in row and not asked.strip()):
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
            [{"question": f"What is {number}?"}, {"input": f"Who {number}?"}, {"input": ""}]
        )
        rows.append({"context": f"{number} {prose(rng)}", "answers": answers, **asked})
    text = _rows(rng, rows)
    path.write_text(text, encoding="utf-8", newline="")
    return _input(rng, path, text, rows, _questions_plainly)


FAMILIES = {
    "haystack: tables": Family(make=make_table, read=read_haystack),
    "haystack: folders": Family(make=make_folder, read=read_haystack),
    "haystack: names": Family(make=make_source, read=read_haystack),
    "needles": Family(make=make_needles, read=read_needle_file),
    "questions": Family(make=make_questions, read=read_question_file),
}
