"""Haystacks, needles and questions as people bring them, and as nobody should."""

from __future__ import annotations

import csv
import io
import itertools
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from headprobe.prompts.haystacks import sentences, split_sentences
from tests.hostile.damage import (
    SURROGATE,
    bytes_damaged,
    damaged,
    harmless,
    special,
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


FAMILIES = {
    "haystack: tables": Family(make=make_table, read=read_haystack),
    "haystack: folders": Family(make=make_folder, read=read_haystack),
    "haystack: names": Family(make=make_source, read=read_haystack),
}
