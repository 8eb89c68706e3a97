"""Natural text that is only read: no question, no answer, nothing to fail.

Texts are taken one after the other from prose, after BOS if the tokenizer has it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from headprobe.errors import UsageError
from headprobe.prompts.case import Case
from headprobe.tasks._task import Probe, Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LONGEST, SHORTEST = 2048, 256
# Of eight there are intervals, and a reliability that compares halves of four.
TEXTS = 8
# A text is repeated where a measure repeats it, after an instruction and before the context ends.
_RESERVE = 64


def draw(
    tokenizer: PreTrainedTokenizerBase,
    *,
    lengths: Sequence[int] | None,
    max_context: int | None,
    sentences: Iterator[str],
) -> list[Case]:
    """Cut ``TEXTS`` texts of each length from endless prose.

    By default a text has 2,048 tokens, or a little less than half of ``max_context``, so that it
    can be repeated. ``needle_id`` numbers the texts: texts of one number begin alike.

    Raises:
        UsageError: a length is too short.
    """
    if lengths is None:
        most = LONGEST if max_context is None else (max_context - _RESERVE) // 2
        lengths = [min(LONGEST, most)]
    if lengths[0] < SHORTEST:
        message = f"too short for a text; expected at least {SHORTEST}"
        raise UsageError(message, option="lengths", value=lengths[0])
    first = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    longest = max(lengths) - len(first)
    passages = [_passage(tokenizer, sentences, longest) for _ in range(TEXTS)]
    grid = [(number, length) for number in range(TEXTS) for length in lengths]
    return [
        _text([*first, *passages[number]][:length], case_id=i, needle_id=number)
        for i, (number, length) in enumerate(grid)
    ]


def _passage(
    tokenizer: PreTrainedTokenizerBase, sentences: Iterator[str], tokens: int
) -> list[int]:
    """Return the tokens of the next sentences, ``tokens`` of them."""
    told: list[str] = []
    ids: list[int] = []
    while len(ids) < tokens:
        told += itertools.islice(sentences, 64)
        ids = tokenizer(" ".join(told), add_special_tokens=False)["input_ids"]
    return ids[:tokens]


def _text(ids: list[int], *, case_id: int, needle_id: int) -> Case:
    return Case(
        case_id=case_id,
        needle_id=needle_id,
        length=len(ids),
        depth=0.0,
        position=0,
        input_ids=tuple(ids),
        span_start=0,
        span_end=len(ids),
        answer="",
        answer_ids=(),
    )


def _task(measure: str, summary: str) -> Task:
    """Make the task of reading texts for one measure first, and for any other on demand."""
    probe = Probe(draw=draw, reads_text=True)
    return Task(name=measure, summary=summary, probe=probe, measures=(measure,), more=_ALL)


_ALL = ("reconstruct", "reconstruct_mean", "onthefly", "reach", "stability")
"""The measures that can be computed on any text."""

RECONSTRUCT = _task(
    "reconstruct",
    "repeating a text (KVzip): the largest attention that a repetition pays to it",
)
ONTHEFLY = _task(
    "onthefly",
    "mean query and key of a text (DuoAttention on the fly): how far back they attend",
)
REACH = _task("reach", "natural text: attention beyond the first and the newest 128 tokens")
STABILITY = _task(
    "stability", "natural text (HeteroCache): whether the most attended entries stay the same"
)
