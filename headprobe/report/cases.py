"""The part of a report's record that tells of the cases whose attention rows were kept."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from headprobe.report.packing import pack, pack_json
from headprobe.runs.kept_rows import KeptCase

WHOLE = 3000
"""The most tokens of a prompt that is told whole; of a longer one the telling stretches are."""
_START, _END, _AROUND, _BESIDE = 40, 320, 220, 5
_MOST_TOKENS, _LEAST_WEIGHT = 24, 0.004
_MOST_PLACES = 12
LEVELS = 15
"""The highest level of a head's bins: the root of the attention in fifteenths."""


def kept_case_record(kept: KeptCase, counts: slice) -> dict[str, Any]:
    """Build what is told of a kept case.

    Args:
        kept: the case.
        counts: the steps over which the bins of all heads are averaged.
    """
    stretches = _stretches(kept)
    return {
        "case_id": kept.case_id,
        "why": kept.why,
        "tokens": len(kept.tokens),
        "stretches": stretches,
        "text": pack_json([list(kept.tokens[start:stop]) for start, stop in stretches]),
        "first_query": kept.first_query,
        "chosen": list(kept.chosen),
        "steps": [kept.step_start, kept.step_end],
        "needle": list(kept.needle),
        "span": list(kept.span),
        "question": list(kept.question) if kept.question else None,
        "answer": kept.answer,
        "answer_at": _places(kept.tokens, kept.answer),
        "wrong_answer": kept.wrong_answer,
        "wrong_at": _places(kept.tokens, kept.wrong_answer),
        "bins": pack(_mean_bins(kept.bins[counts])),
        "rows": _rows(kept),
    }


def _mean_bins(
    bins: UInt8[np.ndarray, "step layer query_head bin"],
) -> UInt8[np.ndarray, "layer query_head bin"]:
    mean = ((bins.astype(np.float32) / 255) ** 2).mean(axis=0)
    coded: np.ndarray = np.rint(LEVELS * np.sqrt(mean))
    return coded.astype(np.uint8)


def _rows(kept: KeptCase) -> dict[str, Any]:
    """Pack each row's strongest tokens: how many, their places by difference, their attention."""
    weights = kept.top_weights.astype(np.float32)[..., :_MOST_TOKENS]
    tokens = kept.top_tokens[..., :_MOST_TOKENS]
    counts, steps, levels = [], [], []
    for at, weight in zip(
        tokens.reshape(-1, tokens.shape[-1]), weights.reshape(-1, weights.shape[-1]), strict=True
    ):
        shown = weight >= _LEAST_WEIGHT
        order = np.argsort(at[shown])
        counts.append(int(shown.sum()))
        steps.append(np.diff(at[shown][order], prepend=0))
        levels.append(np.rint(255 * np.sqrt(weight[shown][order].clip(0, 1))))
    return {
        "count": pack(np.array(counts, dtype=np.uint8).reshape(tokens.shape[:2])),
        "step": pack(np.concatenate(steps).astype(np.uint32)),
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
