"""Keep evaluated cases apart from scored ones: other needles, another seed."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from headprobe.errors import HeadprobeWarning, UsageError
from headprobe.prompts.build import tokenize_needle
from headprobe.prompts.spec import CORPORA
from headprobe.prompts.style import PromptWriter
from headprobe.runs.directory import read_cases
from headprobe.runs.draw import DrawnCases
from headprobe.scores import HeadScores

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_ALL_THE_SAME = "evaluate with `allow_scored_needles` asks them all the same"


def seeds_of(runs: Iterable[HeadScores]) -> set[int]:
    """Return the seeds with which the runs' cases were drawn; imported runs have no seed."""
    return {seed for run in runs if isinstance(seed := run.plan.get("seed"), int)}


def scored_corpus(runs: Iterable[HeadScores]) -> Path | None:
    """Return the bundled corpus on which the first of the runs was scored.

    ``None`` where the run was scored on other needles.
    """
    first = next(iter(runs), None)
    named = {f"bundled {corpus}": Path(corpus) for corpus in CORPORA}
    return named.get(str(first.plan.get("needles"))) if first else None


def held_out_seed(given: int | None, theirs: Collection[int]) -> int:
    """Return a seed with which the scored cases were not drawn: the given one, or a new one.

    Raises:
        UsageError: the given seed drew scored cases.
    """
    if given is None:
        return max(theirs, default=0) + 1
    if given in theirs:
        raise UsageError(
            f"drew the cases that were scored: leave it out or give another ({_ALL_THE_SAME})",
            option="seed",
            value=given,
        )
    return given


def check_held_out(
    drawn: DrawnCases, runs: Sequence[Path], tokenizer: PreTrainedTokenizerBase
) -> None:
    """Refuse needles on which the heads of earlier runs were scored.

    The prompts in the runs' case tables are searched for the needles' tokens, so that names and
    orders of files do not matter. A warning names runs without a case table, such as imported
    runs.

    Args:
        drawn: the cases to ask, with their needles.
        runs: the scored runs, each a directory or its file of scores.
        tokenizer: the model's tokenizer.

    Raises:
        UsageError: some of the needles were scored.
    """
    writer = PromptWriter(tokenizer)
    needles = {tuple(tokenize_needle(needle, writer).tokens) for needle in drawn.needles}
    sizes = {len(needle) for needle in needles}
    for run in dict.fromkeys(run.parent if run.is_file() else run for run in runs):
        table = read_cases(run, ["position", "input_ids"])
        if table is None:
            warnings.warn(
                f"no case table in {run}: cannot tell whether its heads were scored on the needles "
                "that are asked",
                HeadprobeWarning,
                stacklevel=2,
            )
            continue
        scored = {
            found
            for position, prompt in zip(table["position"], table["input_ids"], strict=True)
            for size in sizes
            if (found := tuple(prompt[position : position + size].tolist())) in needles
        }
        if scored:
            raise UsageError(
                f"{len(scored)} of {len(needles)} needles are those that {run} was scored on; "
                f"leave out `needles` for the held-out ones, or name others ({_ALL_THE_SAME})",
                option="needles",
                path=run,
            )
