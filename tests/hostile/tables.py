"""Tables of heads that other programs write, and as nobody should."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import numpy as np

from tests.hostile.damage import (
    bytes_damaged,
    damaged,
    special,
)
from tests.hostile.foreign import (
    json_input,
    layer_of,
    matrix,
    number,
    only,
    plainly,
    reader,
    size,
    value,
)
from tests.hostile.trial import ANYTHING, Family, Input


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
        at = layer_of(row["layer"].strip()), layer_of(row["head"].strip())
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


FAMILIES = {
    "import: headkv": Family(make=make_headkv, read=reader("headkv")),
    "import: duo": Family(make=make_duo, read=reader("duo")),
    "import: attention-matching": Family(make=make_fractions, read=reader("attention-matching")),
    "import: csv": Family(make=make_csv, read=reader("csv")),
    "import: matrix": Family(make=make_matrix, read=reader("matrix")),
}
