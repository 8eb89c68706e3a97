"""The part of a report's record that tells of the cases whose attention rows were kept."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from headprobe.report.packing import pack, pack_json
from headprobe.runs.kept_rows import KeptCase

WHOLE = 3000
"""The most tokens of a prompt that is told whole; of a longer one the telling stretches are."""
_START, _END, _AROUND, _BESIDE = 40, 320, 220, 5
# The tokens told of a row: fewer where there are many rows, so that long answers have room.
_MOST_TOKENS, _LEAST_TOKENS, _MOST_WEIGHTS = 24, 6, 40_000
_LEAST_WEIGHT = 0.004
_MOST_PLACES = 12
WHY = {
    "failed": "failed",
    "worst": "top heads score lowest",
    "best": "top heads score highest",
    "deepest": "deepest needle",
}
"""Sentences on why a case was kept, in the order in which cases are told."""
LEVELS = 15
"""The highest level of a head's bins: the root of the attention in fifteenths."""


def kept_case_record(kept: KeptCase) -> dict[str, Any]:
    """Build what is told of a kept case."""
    stretches = _stretches(kept)
    return {
        "case_id": kept.case_id,
        "why": WHY[kept.why],
        "tokens": len(kept.tokens),
        "stretches": stretches,
        "text": pack_json([list(kept.tokens[start:stop]) for start, stop in stretches]),
        "steps": list(_steps(kept)),
        "marks": {
            "needle": [kept.needle],
            "span": [kept.span],
            "answer": _places(kept.tokens, kept.answer),
            "wrong": _places(kept.tokens, kept.wrong_answer),
            "question": [kept.question] if kept.question else [],
        },
        "bins": pack(np.rint(LEVELS * (kept.bins / 255)).astype(np.uint8)),
        "rows": _rows(kept),
    }


def _steps(kept: KeptCase) -> Iterator[dict[str, Any]]:
    """Yield each step: what it says or reads, and whether it counts."""
    for step in range(kept.top_tokens.shape[1]):
        written = kept.step_start <= step < kept.step_end
        yield {
            "text": kept.chosen[step] if kept.chosen else f"query {kept.first_query + step}",
            "title": f"step {step}{', writes the answer' if written else ''}",
            "counts": kept.counted[0] <= step < kept.counted[1],
        }


def _rows(kept: KeptCase) -> dict[str, Any]:
    """Pack each row's strongest tokens: how many, their places by difference, their attention."""
    heads, steps = kept.top_tokens.shape[:2]
    most = min(_MOST_TOKENS, max(_LEAST_TOKENS, _MOST_WEIGHTS // (heads * steps)))
    weights = kept.top_weights.astype(np.float32)[..., :most]
    tokens = kept.top_tokens[..., :most]
    counts, moves, levels = [], [], []
    for at, weight in zip(
        tokens.reshape(-1, tokens.shape[-1]), weights.reshape(-1, weights.shape[-1]), strict=True
    ):
        shown = weight >= _LEAST_WEIGHT
        order = np.argsort(at[shown])
        counts.append(int(shown.sum()))
        moves.append(np.diff(at[shown][order], prepend=0))
        levels.append(np.rint(255 * np.sqrt(weight[shown][order].clip(0, 1))))
    return {
        "count": pack(np.array(counts, dtype=np.uint8).reshape(tokens.shape[:2])),
        "step": pack(np.concatenate(moves).astype(np.uint32)),
        "level": pack(np.concatenate(levels).astype(np.uint8)),
    }


def _places(tokens: Sequence[str], wanted: str | None) -> list[list[int]]:
    """Find where a text stands: stretches of tokens, half open, that hold it."""
    if not wanted:
        return []
    ends = np.cumsum([len(token) for token in tokens])
    places: list[list[int]] = []
    text, start = "".join(tokens), -1
    while len(places) < _MOST_PLACES and (start := text.find(wanted, start + 1)) >= 0:
        first = int(np.searchsorted(ends, start, side="right"))
        last = int(np.searchsorted(ends, start + len(wanted) - 1, side="right"))
        places.append([first, last + 1])
    return places


def _stretches(kept: KeptCase) -> list[list[int]]:
    """Choose the stretches of a prompt to tell: around its ends, its needle and what is read."""
    end = len(kept.tokens)
    if end <= WHOLE:
        return [[0, end]]
    mass: Float[np.ndarray, " token"] = np.zeros(end)
    np.add.at(mass, kept.top_tokens.ravel(), kept.top_weights.astype(np.float64).ravel())
    read = np.argsort(-mass)[:60].tolist()
    return _merged(
        [
            (0, _START),
            (kept.needle[0] - _AROUND, kept.needle[1] + _AROUND),
            (end - _END, end),
            *((token - _BESIDE, token + _BESIDE) for token in read),
        ],
        end,
    )


def _merged(stretches: Iterable[tuple[int, int]], end: int) -> list[list[int]]:
    merged: list[list[int]] = []
    for start, stop in sorted((max(0, start), min(end, stop)) for start, stop in stretches):
        if merged and start <= merged[-1][1]:
            merged[-1][1] = max(merged[-1][1], stop)
        else:
            merged.append([start, stop])
    return merged
