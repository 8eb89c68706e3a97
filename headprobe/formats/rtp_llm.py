"""``headwise_config`` of RTP-LLM (Qwen2, Qwen3): query heads that see all, 1, or stream, 0.

It stands in the model's ``config.json``: the file is that part of it, key and object, to be merged
into the rest. Over ``seqlen_threshold`` tokens a head of 0 sees ``sink_token_num`` first and
``swa_token_num`` newest ones. Heads of a group share their cache, so whole groups are written.
"""

from __future__ import annotations

import json
from pathlib import Path

from headprobe.budgets import HeadBudgets
from headprobe.errors import UsageError
from headprobe.files import atomic_write
from headprobe.formats._format import Format
from headprobe.formats._heads import HeadMask, group_note, kv_scores, mask_of_budget, mask_of_scores
from headprobe.models.layout import HeadLayout
from headprobe.scores import HeadScores

# RTP-LLM's own.
_SEQLEN_THRESHOLD = 16384


def write_scores(
    run: HeadScores,
    path: Path,
    *,
    measure: str,
    reduce: str = "max",
    sparsity: float = 0.5,
    sinks: int = 4,
    recent: int = 8192,
) -> tuple[str, ...]:
    """Write the JSON, in which the fraction ``sparsity`` of the KV heads streams.

    Raises:
        UsageError: an option is out of range.
        HeadprobeError: all scores are zero, or the file cannot be written.
    """
    scores = kv_scores(run, measure, reduce)
    mask = mask_of_scores(scores, sparsity=sparsity, sinks=sinks, recent=recent)
    _write(mask, run.layout, path)
    return group_note(run, reduce) + mask.notes


def write_budget(budgets: HeadBudgets, path: Path) -> tuple[str, ...]:
    """Write the JSON for the heads that a budget keeps whole.

    Raises:
        UsageError: the budget is not one of whole and streaming KV heads, or it has no sinks.
        HeadprobeError: the file cannot be written.
    """
    mask = mask_of_budget(budgets)
    _write(mask, budgets.layout, path)
    return mask.notes


def _write(mask: HeadMask, layout: HeadLayout, path: Path) -> None:
    if mask.sinks < 1:
        message = "RTP-LLM's streaming heads need a sink: allocate or export with `sinks=4`"
        raise UsageError(message)
    config = {
        "sink_token_num": mask.sinks,
        "swa_token_num": mask.recent,
        # Its prefill subtracts sinks and window from a longer sequence and plans for the rest.
        "seqlen_threshold": max(_SEQLEN_THRESHOLD, mask.sinks + mask.recent + 1),
    } | {
        str(layer): row
        for layer, row in enumerate(mask.full.repeat(layout.group_size, 1).astype(int).tolist())
    }
    with atomic_write(path) as whole:
        whole.write_text(json.dumps({"headwise_config": config}) + "\n", encoding="utf-8")


FORMAT = Format(
    summary="query heads that see all or stream",
    file=".json",
    programs="RTP-LLM",
    write_scores=write_scores,
    write_budget=write_budget,
)
