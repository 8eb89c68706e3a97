"""What happens to files: cut, changed, given twice, nested, written in another encoding."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

DEEP = 100_000
SURROGATE = "\\ud83d"

# A text that is damaged, or the bytes of one.
Damage = Callable[[random.Random, str], str | bytes]


def cut(rng: random.Random, text: str) -> str:
    return text[: rng.randrange(len(text))]


def flipped(rng: random.Random, text: str) -> bytes:
    content = bytearray(text.encode())
    for _ in range(rng.randint(1, 3)):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    return bytes(content)


def inserted(rng: random.Random, text: str) -> str:
    at = rng.randrange(len(text) + 1)
    junk = ["\0", "\x1b[2J", ",", "}", "{", '"', "\\", "\u2028", "NaN", "-", "1e999", "\t", "\n"]
    return text[:at] + rng.choice(junk) + text[at:]


def doubled(rng: random.Random, text: str) -> str:
    return text + rng.choice(["", " ", "\n"]) + text


def other_encoding(rng: random.Random, text: str) -> bytes:
    return text.encode(rng.choice(["utf-16", "utf-32", "utf-16-be"]), "replace")


def not_utf8(rng: random.Random, text: str) -> bytes:
    at = rng.randrange(len(text) + 1)
    return text[:at].encode() + b"\xe9\xff" + text[at:].encode()


def emptied(rng: random.Random, text: str) -> str:
    return rng.choice(["", " ", "\n\n", "\ufeff", "null", "7", '"a"', "true", "[]", "{}"])


def nested(rng: random.Random, text: str) -> str:
    start, end = rng.choice([("[", "]"), ('{"a": ', "}")])
    return start * DEEP + ("1" + end * DEEP if rng.random() < 0.5 else "")


def noise(rng: random.Random, text: str) -> bytes:
    return rng.randbytes(rng.randrange(1, 400))


ANY_TEXT: dict[str, Damage] = {
    "cut": cut,
    "flipped": flipped,
    "inserted": inserted,
    "doubled": doubled,
    "other encoding": other_encoding,
    "not UTF-8": not_utf8,
    "emptied": emptied,
    "nested": nested,
    "noise": noise,
}


def damaged(rng: random.Random, text: str, *, but: str = "") -> tuple[str, bytes]:
    """Damage a text in one way ``but`` one, and say in which."""
    name = rng.choice([name for name in ANY_TEXT if name != but])
    content = ANY_TEXT[name](rng, text)
    return name, content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content


def bytes_damaged(rng: random.Random, content: bytes) -> tuple[str, bytes]:
    """Damage bytes: cut, flipped, doubled, or noise."""
    name = rng.choice(["cut", "flipped", "doubled", "noise", "emptied"])
    if name == "cut":
        return name, content[: rng.randrange(len(content))]
    if name == "flipped":
        changed = bytearray(content)
        for _ in range(rng.randint(1, 4)):
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
        return name, bytes(changed)
    return name, {"doubled": content * 2, "noise": rng.randbytes(200), "emptied": b""}[name]


def special(rng: random.Random, path: Path) -> str:
    """Put something that is no regular file at a path, and say what."""
    kind = rng.choice(["fifo", "folder", "dangling link", "device"])
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero" if kind == "device" else path.with_name("nowhere"))
    return kind


def harmless(rng: random.Random, document: Any) -> str:
    """Write a JSON document in one of the ways that programs do."""
    text = json.dumps(
        document, ensure_ascii=rng.random() < 0.5, indent=rng.choice([None, None, 1, 4])
    )
    return rng.choice(["", "\ufeff", "\n", "  "]) + text + rng.choice(["", "\n", "\r\n", " "])


def with_key_twice(rng: random.Random, text: str) -> str:
    """Give the first key of the first object in a JSON text twice."""
    at = text.index("{") + 1
    key = text[at:].lstrip().split('"')[1]
    return f'{text[:at]}"{key}": {rng.choice(["0", "null", "[]"])}, {text[at:]}'


WRONG_VALUES: tuple[Any, ...] = (
    None,
    True,
    "x",
    "",
    [],
    {},
    [1],
    {"a": 1},
    -1,
    1.5,
    10**30,
    10**400,
    float("nan"),
    float("inf"),
    "\ud83d",
    "\0",
    2**63,
    -(2**63) - 1,
    "a" * 500,
    [[]],
    "\x1b[31m",
)


def leaves(document: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """List the paths of all values in a JSON document but its root."""
    inside = (
        document.items()
        if isinstance(document, dict)
        else enumerate(document)
        if isinstance(document, list)
        else ()
    )
    found = []
    for name, value in inside:
        found += [(*path, name), *leaves(value, (*path, name))]
    return found


def with_leaf(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    """Return a copy of a JSON document with another value at a path."""
    copy = json.loads(json.dumps(document))
    place = copy
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    return copy


def without_leaf(document: Any, path: tuple[Any, ...]) -> Any:
    """Return a copy of a JSON document without the value at a path."""
    copy = json.loads(json.dumps(document))
    place = copy
    for name in path[:-1]:
        place = place[name]
    del place[path[-1]]
    return copy
