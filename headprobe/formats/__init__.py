"""Files of other programs: one module for each format, which writes it, reads it, or both.

``write_scores(run, path, *, measure, ...)`` and ``write_budget(budgets, path, ...)`` return what
the user should know of the file, a line each; their keyword-only options are the format's own.
``read(path, *, layers, heads)``, told the sizes that are known, returns a ``Table`` and raises
``ValueError`` for a file of another kind. Other packages add theirs, a ``Format``, through the
entry-point group ``headprobe.formats``. What formats share lies in ``_heads`` (scores and
masks) and ``_files`` (reading, and torch for ``.pt``); ``_press`` is what kvpress itself loads.
``import_run`` makes a run of a file.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headprobe.budgets import HeadBudgets
from headprobe.errors import UsageError
from headprobe.formats import (
    attention_matching,
    compresskv,
    csv,
    duo,
    headkv,
    kvpress,
    kvzip,
    razor,
    rtp_llm,
    safetensors,
)
from headprobe.formats._files import Table
from headprobe.registry import get_method, given_options, method_names
from headprobe.scores import HeadScores

Notes = tuple[str, ...]
GROUP = "headprobe.formats"


@dataclass(frozen=True, eq=False, kw_only=True)
class Format:
    """A kind of file that other programs read or write.

    ``summary`` says in one line what it holds, ``file`` how it is called, ``programs`` whose it is;
    ``granularity`` says whether a file that is read holds numbers of KV or of query heads.
    """

    summary: str
    file: str
    programs: str
    granularity: str = "kv"
    write_scores: Callable[..., Notes] | None = None
    write_budget: Callable[..., Notes] | None = None
    read: Callable[..., Table] | None = None


FORMATS: dict[str, Format] = {
    "headkv": Format(
        summary="scores of every query head, a list of cases each",
        file=".json",
        programs="HeadKV, KVCache-Factory, CoKV, DeCoRe, LOCOS",
        granularity="query",
        write_scores=headkv.write_scores,
        read=headkv.read,
    ),
    "duo": Format(
        summary="a gate a KV head, 1 for the whole cache",
        file="directory",
        programs="DuoAttention, LServe, RLKV, HeadKV-SGLang, PruLong, WG-KV, kvpress",
        write_scores=duo.write_scores,
        write_budget=duo.write_budget,
        read=duo.read,
    ),
    "kvpress": Format(
        summary="a budget curve over compression ratios",
        file=".npy",
        programs="kvpress (LUKVPress)",
        write_scores=kvpress.write_scores,
        write_budget=kvpress.write_budget,
    ),
    "attention-matching": Format(
        summary="each KV head's fraction of the cache",
        file=".json",
        programs="Attention Matching (compaction), omlx",
        write_scores=attention_matching.write_scores,
        write_budget=attention_matching.write_budget,
        read=attention_matching.read,
    ),
    "rtp-llm": Format(
        summary="query heads that see all or stream",
        file=".json",
        programs="RTP-LLM",
        write_scores=rtp_llm.write_scores,
        write_budget=rtp_llm.write_budget,
    ),
    "razor": Format(
        summary="lists of retrieval heads a layer",
        file=".pt, .json or .py",
        programs="msModelSlim (.pt), golden-stick (.json), MindIE (.py)",
        write_scores=razor.write_scores,
        write_budget=razor.write_budget,
        read=razor.read,
    ),
    "kvzip": Format(
        summary="scores of KV heads from 0 to 1",
        file=".pt",
        programs="KVzip",
        write_scores=kvzip.write_scores,
        read=kvzip.read,
    ),
    "compresskv": Format(
        summary="query heads of each layer, best first",
        file=".json",
        programs="CompressKV",
        write_scores=compresskv.write_scores,
    ),
    "csv": Format(
        summary="a table, a row a head",
        file=".csv",
        programs="spreadsheets",
        write_scores=csv.write_scores,
        write_budget=csv.write_budget,
    ),
    "safetensors": Format(
        summary="scores or budget as tensors",
        file=".safetensors",
        programs="anything that opens safetensors",
        write_scores=safetensors.write_scores,
        write_budget=safetensors.write_budget,
    ),
}


def format_names() -> list[str]:
    """List the names of all formats, ours first, then the formats of installed packages."""
    return method_names(FORMATS, GROUP)


def get_format(name: str) -> Format:
    """Return the format called ``name``; a ``UsageError`` lists the names that there are."""
    return get_method("format", name, FORMATS, GROUP)


def export_scores(
    run: HeadScores, path: Path, *, to: str, measure: str | None = None, **options: Any
) -> Notes:
    """Write a run's scores as another program reads them; return notes on the file.

    ``measure`` is the run's own by default. ``options`` are the format's, such as ``reduce`` and
    ``sparsity``; ``None`` leaves one at its default.

    Raises:
        UsageError: no such format, it holds no scores, or takes no such option or value.
        HeadprobeError: the scores cannot be used, or the file cannot be written.
    """
    write = get_format(to).write_scores
    if write is None:
        raise UsageError(f"format {to} holds budgets, not scores; allocate first")
    return write(run, path, **_options(to, write, {"measure": measure, **options}, run))


def export_budget(budgets: HeadBudgets, path: Path, *, to: str, **options: Any) -> Notes:
    """Write a budget as another program reads it; return notes on the file.

    Raises:
        UsageError: no such format, it cannot hold this budget, or takes no such option or value.
        HeadprobeError: the file cannot be written.
    """
    write = get_format(to).write_budget
    if write is None:
        raise UsageError(f"format {to} holds scores, not budgets; export the run")
    return write(budgets, path, **_options(to, write, options))


def _options(
    name: str, function: Callable[..., Notes], given: dict[str, Any], run: HeadScores | None = None
) -> dict[str, Any]:
    """Return the options given, and the measure where the function takes one."""
    chosen = given_options(f"format {name}", function, given)
    if run is not None and "measure" in inspect.signature(function).parameters:
        chosen["measure"] = run.resolve(chosen.get("measure"))
    return chosen
