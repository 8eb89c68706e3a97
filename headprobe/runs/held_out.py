"""Cases that heads were not scored on: other needles, another seed."""

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

_ALL_THE_SAME = "`evaluate --allow-scored-needles` asks them all the same"


def seeds_of(runs: Iterable[HeadScores]) -> set[int]:
    """The seeds that the cases of some runs were drawn with; imported runs have none."""
    return {seed for run in runs if isinstance(seed := run.plan.get("seed"), int)}


def scored_corpus(runs: Iterable[HeadScores]) -> Path | None:
    """The bundled needles that the first of some runs was scored on, as ``--needles`` takes them.

    ``None`` where it was scored on others.
    """
    first = next(iter(runs), None)
    named = {f"bundled {corpus}": Path(corpus) for corpus in CORPORA}
    return named.get(str(first.plan.get("needles"))) if first else None


def held_out_seed(given: int | None, theirs: Collection[int]) -> int:
    """The seed given, or one that the scored cases were not drawn with.

    Raises:
        UsageError: it is one of theirs.
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
    """Refuse needles that heads were scored on in runs, each a directory or its scores.

    The prompts in the runs' case tables are searched for the needles' tokens: neither the name of
    a file nor its order counts. A warning names runs without one, such as imported runs.

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
