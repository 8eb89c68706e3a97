"""Repeated random tokens, as in RazorAttention (Tang et al., arXiv 2407.15891, section 3.2).

A block of random tokens, no two alike, stands four times in a row. Nothing is asked: what a head
looks for in earlier repeats, it can only know by the tokens themselves. The span is the block where
it stands first; the queries of the repeats are watched.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int

from headprobe.errors import UsageError
from headprobe.prompts.case import Case
from headprobe.tasks._task import Probe, Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LONGEST_BLOCK, REPEATS = 2500, 4
# A case averages over thousands of queries: cases differ little, few are needed. Of eight there are
# intervals, and a reliability that compares halves of four.
BLOCKS = 8
# In a shorter block, attention that falls anywhere already finds the same token by chance.
SHORTEST_BLOCK = 16


def draw(
    tokenizer: PreTrainedTokenizerBase,
    *,
    lengths: Sequence[int] | None,
    max_context: int | None,
    seed: int,
) -> list[Case]:
    """Draw ``BLOCKS`` cases of each length: blocks of random tokens, repeated after BOS if any.

    A case is as long as whole repeats allow within its length; by default blocks have 2,500
    tokens, or what ``max_context`` and the vocabulary allow. ``needle_id`` numbers the blocks:
    blocks of one number begin with the same tokens at all lengths. Special and added tokens are not
    drawn.

    Raises:
        UsageError: a length is too short, or takes more tokens than the vocabulary has.
    """
    first = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    pool = _plain_tokens(tokenizer)
    if lengths is None:
        most = len(first) + REPEATS * min(LONGEST_BLOCK, len(pool))
        lengths = [most if max_context is None else min(most, max_context)]
    sizes = sorted({_block_size(length, len(first), len(pool)) for length in lengths})
    orders = [np.random.default_rng([seed, n]).permutation(pool).tolist() for n in range(BLOCKS)]
    grid = [(number, size) for number in range(BLOCKS) for size in sizes]
    return [
        _repeat(orders[number][:size], first, case_id=i, needle_id=number)
        for i, (number, size) in enumerate(grid)
    ]


def first_query(case: Case) -> int:
    """Return the position at which the block begins for the second time."""
    return case.span_end


def _plain_tokens(tokenizer: PreTrainedTokenizerBase) -> Int[np.ndarray, " token"]:
    """List the vocabulary's tokens without special and added ones, ascending."""
    left_out = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    return np.array(sorted(set(tokenizer.get_vocab().values()) - left_out), dtype=np.int64)


def _block_size(length: int, first: int, pool: int) -> int:
    """Return the tokens of the longest block whose repeats fit after ``first`` tokens."""
    size = (length - first) // REPEATS
    if size < SHORTEST_BLOCK:
        raise UsageError(
            f"too short for {REPEATS} repeats of a block; "
            f"expected at least {first + REPEATS * SHORTEST_BLOCK}",
            option="lengths",
            value=length,
        )
    if size > pool:
        raise UsageError(
            f"a length of {length} tokens takes {size} different tokens and the vocabulary has "
            f"{pool}; give at most {first + REPEATS * pool}"
        )
    return size


def _repeat(block: list[int], first: list[int], *, case_id: int, needle_id: int) -> Case:
    ids = (*first, *(REPEATS * block))
    return Case(
        case_id=case_id,
        needle_id=needle_id,
        length=len(ids),
        depth=0.0,
        position=len(first),
        input_ids=ids,
        span_start=len(first),
        span_end=len(first) + len(block),
        answer="",
        answer_ids=(),
    )


TASK = Task(
    name="razor",
    summary="repeated random tokens (RazorAttention): find where a token stood before",
    probe=Probe(
        draw=draw,
        first_query=first_query,
    ),
    measures=("induction", "echo"),
)
