"""Retrieval heads of RazorAttention (Tang et al., arXiv 2407.15891): lists of KV heads.

By the file's suffix: ``.pt``, what msModelSlim's RARopeCompressor saves, ``{"prefix_matching":
{layer: [KV heads]}, "copying": {...}}``; ``.py``, the same as the Python literal that MindIE keeps
in its source; ``.json``, golden-stick's ``{"layer": [KV heads]}``. Layers without heads are left
out. ``prefix_matching`` are the induction heads, ``copying`` the echo heads.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from headprobe.budgets import HeadBudgets
from headprobe.errors import UsageError
from headprobe.files import atomic_write
from headprobe.formats._files import Table, load_pt, read_json, read_text, save_pt, table_size
from headprobe.formats._format import Format
from headprobe.formats._heads import group_note, kv_scores, mask_of_budget
from headprobe.inputs.literals import parse_literal
from headprobe.inputs.printable import brief
from headprobe.scores import HeadScores
from headprobe.stats.ranks import top_heads

INDUCTION, ECHO = "prefix_matching", "copying"
_MEASURES = {INDUCTION: "induction", ECHO: "echo"}
_ECHO_FRACTION = 1 / 15
_LAYER = re.compile(r"\d{1,6}", re.ASCII)
_MOST_BYTES = 1_000_000

Lists = dict[int, list[int]]


def write_scores(
    run: HeadScores, path: Path, *, measure: str, reduce: str = "max", sparsity: float = 0.85
) -> tuple[str, ...]:
    """Write lists of the KV heads with the highest scores, by induction and by echo.

    Of a run with both measures, one in 15 of the heads is chosen by echo, the others by induction:
    by default 14 % of all heads by induction and 1 % by echo, as RazorAttention has it. By another
    measure all heads count as induction heads.

    Raises:
        UsageError: an option is out of range, or the suffix is none of the three.
        HeadprobeError: all scores are zero, or the file cannot be written.
    """
    if not 0 <= sparsity < 1:
        raise UsageError("expected 0 or more and below 1", option="sparsity", value=sparsity)
    fractions = {measure: 1 - sparsity}
    if set(_MEASURES.values()) <= set(run.measures) and measure in _MEASURES.values():
        fractions = {
            "induction": (1 - sparsity) * (1 - _ECHO_FRACTION),
            "echo": (1 - sparsity) * _ECHO_FRACTION,
        }
    chosen = []
    for name, fraction in fractions.items():
        scores = kv_scores(run, name, reduce)
        chosen.append(top_heads(scores, max(1, round(fraction * scores.size))))
    echo = chosen[1] if len(chosen) > 1 else np.zeros_like(chosen[0])
    _write(chosen[0], echo, path)
    return (
        *group_note(run, reduce),
        f"{int((chosen[0] | echo).sum())} of {echo.size} KV heads are kept whole",
    )


def write_budget(budgets: HeadBudgets, path: Path) -> tuple[str, ...]:
    """Write the heads that a budget keeps whole, all as induction heads.

    Raises:
        UsageError: the budget is not one of whole and streaming KV heads, or the suffix is none of
            the three.
        HeadprobeError: the file cannot be written.
    """
    mask = mask_of_budget(budgets)
    _write(mask.full, np.zeros_like(mask.full), path)
    return mask.notes


def _write(
    induction: Bool[np.ndarray, "layer kv_head"],
    echo: Bool[np.ndarray, "layer kv_head"],
    path: Path,
) -> None:
    content = {INDUCTION: _lists(induction), ECHO: _lists(echo)}
    if path.suffix == ".pt":
        save_pt(content, path)
        return
    if path.suffix not in (".json", ".py"):
        raise UsageError(
            f"by the suffix it is known for whom: .pt msModelSlim, .json golden-stick, .py MindIE; "
            f"{path.name} has none of them"
        )
    union = {str(layer): heads for layer, heads in _lists(induction | echo).items()}
    text = json.dumps(union) if path.suffix == ".json" else repr(content)
    with atomic_write(path) as whole:
        whole.write_text(text + "\n", encoding="utf-8")


def _lists(chosen: Bool[np.ndarray, "layer kv_head"]) -> Lists:
    # Plain integers: numpy's do not load with weights_only=True.
    rows = [np.flatnonzero(row).tolist() for row in chosen]
    return {layer: heads for layer, heads in enumerate(rows) if heads}


def read(path: Path, *, layers: int | None, heads: int | None) -> Table:
    """Read lists of heads as scores: 1 for a head in the list, 0 for any other.

    The measure is ``razor`` where the file has one list alone.

    Raises:
        UsageError: there is no such file.
        ValueError: the file is of another kind, or names heads beyond the size.
    """
    content = _load(path)
    if not isinstance(content, dict):
        raise ValueError(f"expected an object, got {brief(content)}")
    if set(content) & set(_MEASURES):
        if unknown := set(content) - set(_MEASURES):
            raise ValueError(
                f"expected lists called {' and '.join(_MEASURES)}, got {brief(unknown)}"
            )
        lists = {_MEASURES[key]: content.get(key, {}) for key in _MEASURES}
    else:
        lists = {"razor": content}
    chosen = {measure: _heads(of_layer) for measure, of_layer in lists.items()}
    guessed = not (layers and heads)
    layers, heads = table_size(set().union(*chosen.values()), layers=layers, heads=heads)
    per_case = {}
    for measure, named in chosen.items():
        per_case[measure] = np.zeros((1, layers, heads))
        for layer, head in named:
            per_case[measure][0, layer, head] = 1.0
    note = (
        f"the file lists kept heads only: took {layers} layers of {heads} KV heads, the highest "
        "named; give `layers` and `kv_heads` if the model has more"
    )
    return Table(per_case=per_case, notes=(note,) if guessed else ())


def _load(path: Path) -> Any:
    if path.suffix == ".pt":
        return load_pt(path)
    if path.suffix == ".json":
        return read_json(path)
    try:
        return parse_literal(read_text(path, most_bytes=_MOST_BYTES))
    except ValueError as error:
        raise ValueError(f"it is {error}") from None


def _heads(lists: Any) -> list[tuple[int, int]]:
    if not isinstance(lists, dict):
        raise ValueError(f"expected lists of heads by layer, got {brief(lists)}")
    found = []
    for layer, heads in lists.items():
        whole = isinstance(heads, list) and all(type(head) is int and head >= 0 for head in heads)
        if not _LAYER.fullmatch(brief(layer).strip("'")) or not whole:
            raise ValueError(f"layer {brief(layer)}: expected a list of heads, got {brief(heads)}")
        found += [(int(layer), head) for head in heads]
    if len(set(found)) < len(found):
        raise ValueError("a head is named twice")
    return found


FORMAT = Format(
    summary="lists of retrieval heads a layer",
    file=".pt, .json or .py",
    programs="msModelSlim (.pt), golden-stick (.json), MindIE (.py)",
    write_scores=write_scores,
    write_budget=write_budget,
    read=read,
)
