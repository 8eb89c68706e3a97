"""Lists of heads and archives that other programs write, and as nobody should."""

from __future__ import annotations

import ast
import math
import pickle
import random
import re
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.hostile.damage import (
    bytes_damaged,
    damaged,
    special,
)
from tests.hostile.foreign import (
    json_input,
    layer_of,
    matrix,
    only,
    plainly,
    reader,
    size,
    value,
)
from tests.hostile.trial import ANYTHING, Family, Input


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
        measure: [(layer_of(layer), head) for layer, ids in of.items() for head in _ids(ids)]
        for measure, of in lists.items()
    }
    every = [at for of in heads.values() for at in of]
    layers, width = (max(place) + 1 for place in zip(*every, strict=True))
    matrix({at: 0.0 for at in np.ndindex(min(layers, 1001), min(width, 1001))})
    return {
        measure: [[float((x, y) in of) for y in range(width)] for x in range(layers)]
        for measure, of in heads.items()
    }


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


FAMILIES = {
    "import: razor": Family(make=make_razor, read=reader("razor")),
    "import: kvzip": Family(make=make_kvzip, read=reader("kvzip")),
    "import: qrhead": Family(make=make_qrhead, read=reader("qrhead")),
}
