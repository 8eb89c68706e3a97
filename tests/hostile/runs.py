"""Our own files, scores and budgets, as they are after years on a disk."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load, save

from headprobe.budgets import HeadBudgets
from headprobe.models.layout import HeadLayout
from headprobe.scores import HeadScores
from tests.hostile.damage import (
    WRONG_VALUES,
    bytes_damaged,
    damaged,
    leaves,
    special,
    with_key_twice,
    with_leaf,
    without_leaf,
)
from tests.hostile.trial import Family, Input


def layout(rng: random.Random) -> HeadLayout:
    kv_heads = rng.randint(1, 3)
    return HeadLayout(
        id=rng.choice(["nano", "meta-llama/Llama-3.1-8B", "白鹭"]),
        architecture="llama",
        layers=rng.randint(1, 3),
        num_heads=kv_heads * rng.randint(1, 2),
        num_kv_heads=kv_heads,
        head_dim=32,
    )


def read_budget(source: Path | str) -> Any:
    fields = HeadBudgets.load(Path(source)).to_json()
    # What is read has to be good for its uses, too.
    json.dumps(fields, allow_nan=False).encode()
    return fields


def make_budget(rng: random.Random, folder: Path) -> Input:
    size = layout(rng)
    shape = size.layers, size.num_kv_heads
    fields = HeadBudgets(
        layout=size,
        strategy={"name": "headkv", "budget": 128, "beta": 1.2, "context_length": None},
        granularity="kv",
        window=rng.randrange(9),
        sinks=rng.randrange(5),
        compensation=rng.random() < 0.5,
        selection=np.full(shape, "attention"),
        tokens=np.array([[rng.randrange(99) for _ in range(shape[1])] for _ in range(shape[0])]),
        ratio=np.array([[rng.random() for _ in range(shape[1])] for _ in range(shape[0])]),
    ).to_json()
    path = folder / "budget.json"
    text = json.dumps(fields, indent=rng.choice([None, 1]), ensure_ascii=rng.random() < 0.5)
    path.write_text(text)
    draw = rng.random()
    if draw < 0.25:
        return Input(source=path, truth=fields)
    if draw < 0.3:
        path.unlink()
        return Input(source=path, truth=None, damage=special(rng, path))
    if draw < 0.4:
        path.write_text(with_key_twice(rng, text))
        return Input(source=path, truth=None, damage="key twice")
    if draw < 0.7:
        at, wrong = rng.choice(leaves(fields)), rng.choice(WRONG_VALUES)
        is_gone = rng.random() < 0.3
        changed = without_leaf(fields, at) if is_gone else with_leaf(fields, at, wrong)
        path.write_text(json.dumps(changed))
        return Input(source=path, truth=_as_read(changed), damage=f"{at}: {wrong!r:.30}")
    damage, content = damaged(rng, text)
    path.write_bytes(content)
    try:
        truth = _as_read(json.loads(content.decode("utf-8-sig")))
    except (ValueError, RecursionError):
        truth = None
    return Input(source=path, truth=truth, damage=damage)


def _as_read(fields: Any) -> Any:
    """What a budget that can be read is to say: its own fields, numbers as numbers."""
    known = ("format", "version", "model", "strategy", "granularity", "window", "sinks")
    try:
        kept = {name: fields[name] for name in (*known, "compensation", "selection")}
        kept["tokens"] = [[int(number) for number in row] for row in fields["tokens"]]
        kept["ratio"] = [[float(number) for number in row] for row in fields["ratio"]]
        json.dumps(kept, allow_nan=False, ensure_ascii=False).encode()
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None
    return kept


def read_scores(source: Path | str) -> Any:
    run = HeadScores.load(Path(source))
    # What is read has to be good for its uses, too.
    run.statistics(run.measures[0])
    run.reliability(run.measures[-1])
    told = json.dumps([run.plan, run.versions, run.layout.to_json()], allow_nan=False)
    told.encode()
    arrays = {name: cases.tolist() for name, cases in run.per_case.items()}
    means = {name: run.mean(name).tolist() for name in run.measures}
    return arrays, means, list(run.needles), json.loads(told)


def make_scores(rng: random.Random, folder: Path) -> Input:
    size, cases = layout(rng), rng.randint(1, 5)
    draw = np.random.default_rng(rng.randrange(2**32))
    shape = cases, size.layers, size.num_heads
    measures = rng.choice([("r2",), ("retrieval", "mass")])
    run = HeadScores(
        layout=size,
        task=measures[0],
        per_case={name: draw.random(shape, dtype=np.float32) for name in measures},
        needles=tuple(rng.randrange(cases) for _ in range(cases)),
        cases=cases + rng.randrange(3),
        plan={"seed": 0, "lengths": [100, 200], "needles": "bundled english", "limit": None},
        versions={"headprobe": "0.1.0", "torch": "2.13.0"},
    )
    path = folder / "scores.safetensors"
    run.save(path)
    choice = rng.random()
    if choice < 0.25:
        return Input(source=rng.choice([path, folder]), truth=_plainly(path.read_bytes()))
    if choice < 0.3:
        path.unlink()
        return Input(source=path, truth=None, damage=special(rng, path))
    tensors, header = _parts(path.read_bytes())
    if choice < 0.6:
        at, wrong = rng.choice(leaves(header)), rng.choice(WRONG_VALUES)
        is_gone = rng.random() < 0.2
        changed = without_leaf(header, at) if is_gone else with_leaf(header, at, wrong)
        path.write_bytes(save(tensors, metadata={"headprobe": json.dumps(changed)}))
        truth = _plainly(path.read_bytes())
        return Input(source=path, truth=truth, damage=f"{at}: {wrong!r:.30}")
    if choice < 0.75:
        return _other_tensors(rng, path, tensors, header)
    if choice < 0.85:
        damage, text = damaged(rng, json.dumps(header))
        told = text.decode("utf-8", "replace")
        path.write_bytes(save(tensors, metadata={"headprobe": told}))
        return Input(source=path, truth=_plainly(path.read_bytes()), damage=f"header {damage}")
    damage, content = bytes_damaged(rng, path.read_bytes())
    path.write_bytes(content)
    return Input(source=path, truth=_plainly(content), damage=damage)


def _other_tensors(rng: random.Random, path: Path, tensors: dict[str, Any], header: Any) -> Input:
    name = rng.choice(list(tensors))
    array = tensors[name]
    others = {
        "gone": None,
        "transposed": np.ascontiguousarray(array.T),
        "an axis more": array[None],
        "no case": array[:0],
        "NaN": np.where(array == array.max(), math.nan, array),
        "infinite": array * math.inf,
        "another mean": array + 1,
        "int64": (array * 100).astype(np.int64),
        "bool": array > 0.5,
        "float16": array.astype(np.float16),
        "a number": np.array(array.max()),
    }
    kind = rng.choice(list(others))
    changed = tensors | {name: others[kind]}
    left = {key: value for key, value in changed.items() if value is not None}
    path.write_bytes(save(left, metadata={"headprobe": json.dumps(header)}))
    return Input(source=path, truth=_plainly(path.read_bytes()), damage=f"{name} {kind}")


def _parts(content: bytes) -> tuple[dict[str, Any], Any]:
    size = int.from_bytes(content[:8], "little")
    told = json.loads(content[8 : 8 + size])["__metadata__"]["headprobe"]
    return load(content), json.loads(told)


def _plainly(content: bytes) -> Any:
    """Read the file as plainly as can be; None where that fails, or where nothing fits."""
    try:
        tensors, header = _parts(content)
        measures = header.get("measures", [name for name in tensors if "." not in name])
        if not all(map(np.size, tensors.values())):
            return None
        arrays = {name: tensors[f"{name}.per_case"] for name in measures}
        means = {
            name: tensors.get(name, arrays[name].mean(axis=0, dtype=np.float64).astype(np.float32))
            for name in measures
        }
        for name, cases in arrays.items():
            close = np.allclose(cases.mean(axis=0, dtype=np.float64), means[name], atol=1e-5)
            if not np.isfinite(cases).all() or not close or cases.dtype.kind != "f":
                return None
        told = [header["plan"], header["versions"], header["model"]]
        json.dumps(told, allow_nan=False, ensure_ascii=False).encode()
        needles = header.get("needles", list(range(header["accepted"])))
    except Exception:  # Whatever a damaged file brings about, it is not to be read.
        return None
    return (
        {name: cases.tolist() for name, cases in arrays.items()},
        {name: mean.tolist() for name, mean in means.items()},
        needles,
        told,
    )


FAMILIES = {
    "budgets": Family(make=make_budget, read=read_budget),
    "scores": Family(make=make_scores, read=read_scores),
}
