"""Files of other programs that are imported, as those write them and as nobody should."""

from __future__ import annotations

import ast
import json
import math
import pickle
import random
import re
import zipfile
from collections.abc import Callable, Iterable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch

from headprobe.formats.import_run import read_run
from tests.hostile.damage import (
    WRONG_VALUES,
    bytes_damaged,
    damaged,
    harmless,
    leaves,
    special,
    with_key_twice,
    with_leaf,
    without_leaf,
)
from tests.hostile.trial import ANYTHING, Family, Input

Means = dict[str, list[list[str]]]
"""For each measure the mean score of every head, to four digits."""

_MOST = float(np.finfo(np.float32).max)


def means(per_measure: dict[str, Any]) -> Means:
    return {name: [[f"{x:.4g}" for x in row] for row in m] for name, m in per_measure.items()}


def reader(name: str) -> Callable[[Path | str], Means]:
    def read(source: Path | str) -> Means:
        run, *_ = read_run(Path(source), source=name)
        return means({measure: run.mean(measure).tolist() for measure in run.measures})

    return read


def number(value: Any) -> float:
    if type(value) not in (int, float) or not abs(value) <= _MOST:
        raise TypeError(value)
    return float(np.float32(value))


def matrix(named: dict[tuple[int, int], float], *, fill: float | None = None) -> list[list[float]]:
    """A matrix of all heads up to the highest; ``KeyError`` where one is missing."""
    layers, heads = (max(place) + 1 for place in zip(*named, strict=True))
    if layers > 1000 or heads > 1000 or layers * heads > 32_768:
        raise ValueError
    even = {} if fill is None else {at: 1 / (layers * heads) for at in np.ndindex(layers, heads)}
    full = even | named
    return [[full[layer, head] for head in range(heads)] for layer in range(layers)]


def size(rng: random.Random) -> tuple[int, int]:
    return rng.randint(1, 4), rng.randint(1, 4)


def value(rng: random.Random) -> float:
    return rng.choice([0.0, 1.0, rng.random(), rng.random() * 1e-4, round(rng.random(), 3), 1e-300])


def plainly(read: Callable[[Any], Any], content: Any) -> Any:
    try:
        return means(read(content))
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        IndexError,
        OverflowError,
        RecursionError,
        SyntaxError,
        MemoryError,
    ):
        return None


def json_input(
    rng: random.Random, path: Path, document: Any, read: Callable[[Any], dict[str, Any]]
) -> Input:
    """Write a JSON document to a path as it is, or damaged in one way."""
    draw = rng.random()
    text = harmless(rng, document)
    if draw < 0.3:
        path.write_text(text, encoding="utf-8", newline="")
        return Input(source=path, truth=plainly(read, [document]))
    if draw < 0.35:
        return Input(source=path, truth=None, damage=special(rng, path))
    if draw < 0.45 and isinstance(document, dict):
        path.write_text(with_key_twice(rng, text), encoding="utf-8")
        return Input(source=path, truth=None, damage="key twice")
    if draw < 0.7 and leaves(document):
        at, wrong = rng.choice(leaves(document)), rng.choice(WRONG_VALUES)
        changed = (
            without_leaf(document, at) if rng.random() < 0.3 else with_leaf(document, at, wrong)
        )
        path.write_text(json.dumps(changed))
        return Input(source=path, truth=plainly(read, [changed]), damage=f"{at}: {wrong!r:.30}")
    damage, content = damaged(rng, text)
    path.write_bytes(content)
    return Input(source=path, truth=plainly(read, documents(content)), damage=damage)


def documents(content: bytes) -> list[Any]:
    """The JSON documents in a file, one after the other; none where it is no JSON."""
    try:
        rest, found = content.decode("utf-8-sig").strip(), []
        while rest:
            document, end = json.JSONDecoder().raw_decode(rest)
            found.append(document)
            rest = rest[end:].lstrip()
    except (ValueError, RecursionError):
        return []
    return found


def only(found: list[Any]) -> Any:
    [document] = found
    return document


# The formats.


def _headkv(found: list[Any]) -> dict[str, Any]:
    scores: dict[tuple[int, int], list[float]] = {}
    for document in found:
        if isinstance(document, dict) and isinstance(document.get("scores"), dict):
            if isinstance(document.get("meta"), dict):
                json.dumps(document["meta"], allow_nan=False)
            document = document["scores"]
        pairs = (
            [tuple(pair) for pair in document] if isinstance(document, list) else document.items()
        )
        for name, given in pairs:
            layer, head = map(int, re.fullmatch(r"([0-9]{1,6})-([0-9]{1,6})", name).groups())
            listed = given if isinstance(given, list) else [given]
            scores.setdefault((layer, head), []).extend(map(number, listed))
    if not all(scores.values()) or not scores:
        raise ValueError
    return {"headkv": matrix({at: float(np.mean(cases)) for at, cases in scores.items()})}


def make_headkv(rng: random.Random, folder: Path) -> Input:
    layers, heads = size(rng)
    cases = rng.randint(1, 3)
    table: Any = {
        f"{layer}-{head}": [value(rng) for _ in range(cases)]
        for layer, head in np.ndindex(layers, heads)
    }
    shape = rng.choice(["plain", "shuffled", "scalars", "LOCOS", "QRHead"])
    if shape == "shuffled":
        table = dict(rng.sample(list(table.items()), len(table)))
    elif shape == "scalars":
        table = {name: listed[0] for name, listed in table.items()}
    elif shape == "LOCOS":
        table = {"meta": {"model": "m", "n": 3}, "scores": table}
    elif shape == "QRHead":
        table = [[name, listed[0]] for name, listed in table.items()]
    return json_input(rng, folder / "heads.json", table, _headkv)


def _fractions(found: list[Any]) -> dict[str, Any]:
    named = {}
    for name, given in only(found).items():
        layer, head = map(int, re.fullmatch(r"L([0-9]{1,6})H([0-9]{1,6})", name).groups())
        named[layer, head] = number(given)
        if given < 0:
            raise ValueError
    return {"attention-matching": matrix(named, fill=0.0)}


def make_fractions(rng: random.Random, folder: Path) -> Input:
    layers, heads = size(rng)
    named = {f"L{at[0]}H{at[1]}": value(rng) for at in np.ndindex(layers, heads)}
    return json_input(rng, folder / "fractions.json", named, _fractions)


def _lists(found: list[Any]) -> dict[str, Any]:
    content = only(found)
    is_pair = bool(set(content) & {"prefix_matching", "copying"})
    lists = (
        {"induction": content.get("prefix_matching", {}), "echo": content.get("copying", {})}
        if is_pair
        else {"razor": content}
    )
    if is_pair and set(content) - {"prefix_matching", "copying"}:
        raise ValueError
    heads = {
        measure: [(_layer(layer), head) for layer, ids in of.items() for head in _ids(ids)]
        for measure, of in lists.items()
    }
    every = [at for of in heads.values() for at in of]
    layers, width = (max(place) + 1 for place in zip(*every, strict=True))
    matrix({at: 0.0 for at in np.ndindex(min(layers, 1001), min(width, 1001))})
    return {
        measure: [[float((x, y) in of) for y in range(width)] for x in range(layers)]
        for measure, of in heads.items()
    }


def _layer(layer: Any) -> int:
    if not re.fullmatch("[0-9]{1,6}", str(layer)) or isinstance(layer, float):
        raise ValueError
    return int(layer)


def _ids(ids: Any) -> list[int]:
    if not isinstance(ids, list) or any(type(head) is not int or head < 0 for head in ids):
        raise ValueError
    if len(set(ids)) < len(ids):
        raise ValueError
    return ids


def _literal(content: bytes) -> list[Any]:
    try:
        return [ast.literal_eval(content.decode("utf-8-sig").strip())]
    except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
        return []


def make_razor(rng: random.Random, folder: Path) -> Input:
    layers, heads = size(rng)

    def lists() -> dict[int, list[int]]:
        return {
            layer: sorted(rng.sample(range(heads), rng.randint(1, heads)))
            for layer in range(layers)
        }

    pair = {"prefix_matching": lists(), "copying": lists()}
    suffix = rng.choice([".json", ".py", ".pt"])
    path = folder / f"heads{suffix}"
    if suffix == ".json":
        union = {str(layer): ids for layer, ids in lists().items()}
        return json_input(rng, path, union, _lists)
    if suffix == ".pt":
        return pt_input(rng, path, pair, lambda content: _lists([content]))
    text = repr(pair if rng.random() < 0.5 else lists())
    if rng.random() < 0.4:
        path.write_text(text + rng.choice(["", "\n"]))
        return Input(source=path, truth=plainly(_lists, _literal(text.encode())))
    bombs = [
        "[" * 5000,
        "-" * 5000 + "1",
        "{0: [" + "9" * 5000 + "]}",
        "{0: [1], 0: [2]}",
        "{0: open}",
    ]
    if rng.random() < 0.3:
        path.write_text(rng.choice(bombs))
        return Input(source=path, truth=None, damage="bomb")
    damage, content = damaged(rng, text)
    path.write_bytes(content)
    return Input(source=path, truth=plainly(_lists, _literal(content)), damage=damage)


class Bomb:
    """What runs code when it is unpickled."""

    def __reduce__(self) -> Any:
        return print, ("the file ran code",)


def pt_input(
    rng: random.Random, path: Path, content: Any, read: Callable[[Any], dict[str, Any]]
) -> Input:
    """Save a ``.pt`` file as it is, or damaged in one way."""
    buffer = BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=rng.random() < 0.7)
    draw = rng.random()
    if draw < 0.4:
        path.write_bytes(buffer.getvalue())
        return Input(source=path, truth=plainly(read, content))
    if draw < 0.6:
        bombs: list[Any] = [
            Bomb(), {0: Bomb()}, torch.zeros(1).expand(30_000, 30_000), torch.ones(2, 2, 2),
            [[]] * 9, torch.ones(2, 2, dtype=torch.complex64), torch.full((2, 2), math.nan),
            {0: torch.ones(99, 99)}, {"copying": torch.ones(99)}, 7, "x" * 10**6, {0: [10**400]},
        ]  # fmt: skip
        torch.save(bomb := rng.choice(bombs), path)
        return Input(source=path, truth=None, damage=f"bomb {type(bomb).__name__}")
    if draw < 0.65:
        return Input(source=path, truth=None, damage=special(rng, path))
    if draw < 0.7:
        path.write_bytes(pickle.dumps(content))
        return Input(source=path, truth=plainly(read, content), damage="pickle")
    if draw < 0.75:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a/data.pkl", rng.randbytes(50))
        return Input(source=path, truth=None, damage="zip of noise")
    # torch checks no sums of what it loads: a flipped bit of a tensor is another number.
    damage, damaged_bytes = bytes_damaged(rng, buffer.getvalue())
    path.write_bytes(damaged_bytes)
    return Input(source=path, truth=ANYTHING, damage=damage)


def _tensor(tensor: Any) -> dict[str, Any]:
    return {"kvzip": tensor.double().numpy().astype(np.float32).tolist()}


def make_kvzip(rng: random.Random, folder: Path) -> Input:
    layers, heads = size(rng)
    tensor = torch.tensor([[value(rng) for _ in range(heads)] for _ in range(layers)])
    return pt_input(rng, folder / "heads.pt", tensor, _tensor)


def _gates(text: str) -> dict[str, Any]:
    rows = [line.split("\t") for line in text.split("\n") if line]
    if not text.endswith("\n") or len({len(row) for row in rows}) != 1:
        raise ValueError
    values = [[_cell(cell) for cell in row] for row in rows]
    return {"duo": np.clip(values, 0, 1).tolist()}


def _cell(cell: str) -> float:
    if not re.fullmatch(r"\s*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?\s*", cell, re.ASCII):
        raise ValueError
    return number(float(cell))


def make_duo(rng: random.Random, folder: Path) -> Input:
    layers, heads = size(rng)
    values = [[rng.choice([value(rng), 1.2, -0.1]) for _ in range(heads)] for _ in range(layers)]
    write = rng.choice([repr, "{:.18e}".format, "{:.3f}".format])
    end = rng.choice(["\n", "\n", "\r\n"])
    text = "".join("\t".join(map(write, row)) + end for row in values)
    root = folder / "pattern"
    inner = root / rng.choice(["", "", "lr=0.02"])
    inner.mkdir(parents=True)
    path = inner / rng.choice(["full_attention_heads.tsv", "adapter_weights.tsv"])
    path.write_text(text, newline="")
    if rng.random() < 0.5:
        (inner / "config.json").write_text('{"sink_size": 4, "recent_size": 8, "sparsity": 0.5}')
    draw = rng.random()
    if draw < 0.4:
        return Input(source=root, truth=plainly(_gates, path.read_text()))
    if draw < 0.5:
        configs = [
            "[]",
            "{",
            '{"sink_size": 1, "sink_size": 2}',
            "{} {}",
            '{"sink_size": NaN}',
            "[" * 9999,
        ]
        (inner / "config.json").write_text(rng.choice(configs))
        return Input(source=root, truth=None, damage="config")
    if draw < 0.6:
        path.unlink()
        return Input(source=root, truth=None, damage=special(rng, path))
    damage, content = damaged(rng, text)
    path.write_bytes(content)
    try:
        left = path.read_text(encoding="utf-8-sig")
    except ValueError:
        return Input(source=root, truth=None, damage=damage)
    return Input(source=root, truth=plainly(_gates, left), damage=damage)


def _rows(text: str) -> dict[str, Any]:
    lines = [line for line in text.split("\n") if line.strip("\r")]
    mark = max(",;\t", key=lines[0].count)
    header, *rows = [line.strip("\r").split(mark) for line in lines]
    names = [name.strip().casefold() for name in header]
    found: dict[str, dict[tuple[int, int], float]] = {}
    for cells in rows:
        row = dict(zip(names, cells, strict=True))
        at = _layer(row["layer"].strip()), _layer(row["head"].strip())
        of_measure = found.setdefault(row.get("measure", "csv").strip(), {})
        if at in of_measure:
            raise ValueError
        of_measure[at] = _cell(row["score"].strip())
    tables = {measure: matrix(named) for measure, named in found.items()}
    if len({(len(table), len(table[0])) for table in tables.values()}) != 1:
        raise ValueError
    return tables


def make_csv(rng: random.Random, folder: Path) -> Input:
    layers, heads = size(rng)
    mark, end = rng.choice(",,;\t"), rng.choice(["\n", "\r\n"])
    measures = rng.choice([[None], ["r2"], ["r2", "mass"]])
    lines = [mark.join(["layer", "head", "score"] + ["measure"] * (measures != [None]))]
    for measure in measures:
        for layer, head in np.ndindex(layers, heads):
            cells = [str(layer), str(head), repr(value(rng)), *([measure] if measure else [])]
            lines.append(mark.join(cells))
    if rng.random() < 0.3:
        lines[1:] = rng.sample(lines[1:], len(lines) - 1)
    text = end.join(lines) + end
    path = folder / "heads.csv"
    path.write_text(text, newline="")
    if rng.random() < 0.4:
        return Input(source=path, truth=plainly(_rows, path.read_text()))
    if rng.random() < 0.2:
        path.write_text(text + lines[-1] + end, newline="")
        return Input(source=path, truth=None, damage="row twice")
    damage, content = damaged(rng, text)
    path.write_bytes(content)
    try:
        left = path.read_text(encoding="utf-8-sig")
    except ValueError:
        return Input(source=path, truth=None, damage=damage)
    # Quotation marks and other line breaks are for a whole reader of CSV.
    if set(left) & set('"\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029'):
        return Input(source=path, truth=ANYTHING, damage=damage)
    return Input(source=path, truth=plainly(_rows, left), damage=damage)


def _matrix(rows: Any) -> dict[str, Any]:
    if not isinstance(rows, list) or not rows or not all(isinstance(r, list) and r for r in rows):
        raise ValueError
    if len({len(row) for row in rows}) != 1:
        raise ValueError
    return {"matrix": [[number(x) for x in row] for row in rows]}


def make_matrix(rng: random.Random, folder: Path) -> Input:
    layers, heads = size(rng)
    rows = [[value(rng) for _ in range(heads)] for _ in range(layers)]
    if rng.random() < 0.5:
        return json_input(rng, folder / "m.json", rows, lambda found: _matrix(only(found)))
    path = folder / "m.npy"
    array = np.array(rows).astype(rng.choice(["f8", "f4", ">f8"]))
    np.save(path, np.asfortranarray(array) if rng.random() < 0.3 else array)
    draw = rng.random()
    if draw < 0.4:
        return Input(source=path, truth=plainly(_matrix, array.astype(np.float64).tolist()))
    if draw < 0.6:
        wrong = [array[None], array[:0], array.astype(complex), array.astype("U9"), array * np.nan]
        np.save(path, rng.choice([*wrong, np.array([{}]), np.zeros((300, 300))]))
        return Input(source=path, truth=None, damage="kind")
    damage, content = bytes_damaged(rng, path.read_bytes())
    path.write_bytes(content)
    return Input(source=path, truth=ANYTHING, damage=damage)


def _set(text: str) -> dict[str, Any]:
    [line] = [line for line in text.splitlines() if line.startswith("attn_head_set: ")]
    found = re.fullmatch(r'attn_head_set: "([0-9_,\- ]*)"', line)
    parts = [re.fullmatch(r" *([0-9]{1,6})[-_]([0-9]{1,6}) *", p) for p in found[1].split(",")]
    named = [(int(part[1]), int(part[2])) for part in parts]
    if len(set(named)) < len(named):
        raise ValueError
    layers, heads = (max(place) + 1 for place in zip(*named, strict=True))
    matrix(dict.fromkeys(np.ndindex(min(layers, 1001), min(heads, 1001)), 0.0))
    return {"qrhead": [[float((x, y) in named) for y in range(heads)] for x in range(layers)]}


def make_qrhead(rng: random.Random, folder: Path) -> Input:
    heads = {(rng.randrange(40), rng.randrange(40)) for _ in range(rng.randint(1, 9))}
    mark = rng.choice("-_")
    named = ",".join(
        f"{layer}{mark}{head}" for layer, head in sorted(heads, key=lambda _: rng.random())
    )
    text = f'# heads\nattn_head_set: "{named}"\nmodel_base_class: "m"\n'
    path = folder / "heads.yaml"
    path.write_text(text)
    draw = rng.random()
    if draw < 0.4:
        return Input(source=path, truth=plainly(_set, text))
    if draw < 0.6:
        bombs = [
            text.replace(named, "full_heads"),
            text.replace(named, f"{named},{named}"),
            text + text,
            text + "b: !!python/object/apply:os.getpid []\n",
            "a: &a [*a]\n" + text,
            "[" * 5000,
            "- 1-2",
            "\0",
            *(f"attn_head_set: {wrong}" for wrong in ("{}", "998-998", "[1, 2]", "null")),
        ]
        path.write_text(rng.choice(bombs))
        return Input(source=path, truth=None, damage="bomb")
    damage, content = damaged(rng, text)
    path.write_bytes(content)
    # YAML has many spellings: what is read of a damaged text is its own parser's matter.
    truth = None if damage in ("noise", "emptied", "nested", "not UTF-8") else ANYTHING
    return Input(source=path, truth=truth, damage=damage)


_MAKERS: Iterable[tuple[str, Callable[[random.Random, Path], Input]]] = (
    ("headkv", make_headkv),
    ("duo", make_duo),
    ("attention-matching", make_fractions),
    ("razor", make_razor),
    ("kvzip", make_kvzip),
    ("csv", make_csv),
    ("matrix", make_matrix),
    ("qrhead", make_qrhead),
)
FAMILIES = {f"import: {name}": Family(make=make, read=reader(name)) for name, make in _MAKERS}
