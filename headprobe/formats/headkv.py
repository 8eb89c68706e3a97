"""HeadKV's score file: JSON on one line, ``{"layer-head": [a score a case]}``, per query head.

Written by Retrieval Head (Wu et al., arXiv 2404.15574) and HeadKV (Fu et al., arXiv 2410.19258),
read by HeadKV, KVCache-Factory, CoKV, DeCoRe and LOCOS. Their readers take the file's first line,
average each list and put the means in the file's order into a table: the keys are never parsed.
LOCOS wraps the table in ``{"meta", "scores"}``; QRHead writes pairs ``["layer-head", score]``.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from headprobe.allocators._reduction import refuse_zeros
from headprobe.files import atomic_write
from headprobe.formats._files import Table, numbers, read_documents, table_size
from headprobe.formats._format import Format
from headprobe.formats._heads import not_negative
from headprobe.inputs.printable import brief
from headprobe.scores import HeadScores

# The cases of each head, by layer and number.
Scores = dict[tuple[int, int], list[float]]

_KEY = re.compile(r"(\d{1,6})-(\d{1,6})", re.ASCII)


def write_scores(run: HeadScores, path: Path, *, measure: str) -> tuple[str, ...]:
    """Write a list for every head: its score of each case, or its mean where a case is negative.

    Raises:
        HeadprobeError: all scores are zero, or the file cannot be written.
    """
    mean = run.mean(measure).astype(np.float64)
    refuse_zeros(mean, measure=measure)
    cases = run.per_case[measure].astype(np.float64)
    notes: tuple[str, ...] = ()
    if (cases < 0).any():
        mean, notes = not_negative(mean, measure)
        cases = mean[None]
        notes += ("cases are negative: the file holds one number a head, its mean",)
    table = {
        f"{layer}-{head}": values
        for layer, of_layer in enumerate(np.moveaxis(_with_mean(cases, mean), 0, -1).tolist())
        for head, values in enumerate(of_layer)
    }
    with atomic_write(path) as whole:
        whole.write_text(json.dumps(table, allow_nan=False), encoding="utf-8")
    return notes


def _with_mean(
    cases: Float[np.ndarray, "case layer head"], mean: Float[np.ndarray, "layer head"]
) -> Float[np.ndarray, "case layer head"]:
    """Scale the cases by the hair that makes their mean the run's mean.

    A run rounds cases to float32, which alone would shift some capacities of readers by an entry.
    """
    rounded = cases.mean(axis=0)
    scaled: Float[np.ndarray, "case layer head"] = cases * np.divide(
        mean, rounded, out=np.ones_like(mean), where=rounded > 0
    )
    return scaled


def read(path: Path, *, layers: int | None, heads: int | None) -> Table:
    """Read the file, each head by its name; lists of unequal length are averaged.

    A file to which runs were appended, a line each, is read as one.

    Raises:
        UsageError: there is no such file.
        ValueError: the file is of another kind, or a head is missing or has no finite score.
    """
    scores: Scores = {}
    details: dict[str, Any] = {}
    notes = []
    documents = read_documents(path)
    for document in documents:
        table, ordered = _table(document, details)
        for head, values in table.items():
            scores.setdefault(head, []).extend(values)
        if not ordered:
            notes.append(
                "heads do not stand in the order of layer and head: read by name here, but readers "
                "that go by order take them wrongly; export it again"
            )
    if len(documents) > 1:
        notes.append(
            f"{len(documents)} tables were appended and are read as one; HeadKV reads the first"
        )
    layers, heads = table_size(scores, layers=layers, heads=heads)
    places = list(np.ndindex(layers, heads))
    for layer, head in places:
        if (layer, head) not in scores:
            raise ValueError(f"it lacks {layer}-{head} of {layers} layers of {heads} heads")
    lists = [scores[place] for place in places]
    counts = {len(values) for values in lists}
    if len(counts) > 1:
        lists = [[float(np.mean(values))] for values in lists]
        notes.append(f"heads have {min(counts)} to {max(counts)} cases: only their means are taken")
    cases = np.array(lists, dtype=np.float64).T.reshape(-1, layers, heads)
    return Table(per_case={"headkv": cases}, details=details, notes=tuple(dict.fromkeys(notes)))


def _table(document: Any, details: dict[str, Any]) -> tuple[Scores, bool]:
    """Parse the scores of every head named, and whether the heads stand in order."""
    ranked = isinstance(document, list)
    if isinstance(document, dict) and isinstance(document.get("scores"), dict):
        if isinstance(document.get("meta"), dict):
            details |= document["meta"]
        document = document["scores"]
    if ranked:
        if not all(isinstance(pair, list) and len(pair) == 2 for pair in document):
            raise ValueError('expected pairs ["layer-head", score] in a list')
        pairs = document
    elif isinstance(document, dict):
        pairs = list(document.items())
    else:
        raise ValueError(f"expected an object or a list of pairs, got {brief(document)}")
    scores: Scores = {}
    for name, value in pairs:
        match = _KEY.fullmatch(name) if isinstance(name, str) else None
        if not match:
            raise ValueError(f"{brief(name)} names no head; expected layer-head, as in 0-12")
        values = value if isinstance(value, list) else [value]
        if not values:
            raise ValueError(f"{name} has no score")
        scores[int(match[1]), int(match[2])] = numbers(values)
    if len(scores) < len(pairs):
        raise ValueError("a head is named twice")
    return scores, ranked or list(scores) == sorted(scores)


FORMAT = Format(
    summary="scores of every query head, a list of cases each",
    file=".json",
    programs="HeadKV, KVCache-Factory, CoKV, DeCoRe, LOCOS",
    granularity="query",
    write_scores=write_scores,
    read=read,
)
