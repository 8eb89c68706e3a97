"""What a measure is given, drawn at random: some rows and a case that they are of."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import Tensor

from headprobe.attention.rows import AttentionRows
from headprobe.prompts.case import Case


def seen(rows: Tensor, values: Tensor | None = None) -> AttentionRows:
    """Rows of the newest queries, over values that are random where none are given."""
    query_heads, queries, keys = rows.shape
    if values is None:
        values = torch.randn(query_heads, keys, 3, generator=torch.Generator().manual_seed(0))
    spread = values.repeat_interleave(query_heads // len(values), dim=0)
    return AttentionRows(
        layer=0,
        queries=torch.arange(keys - queries, keys),
        weights=rows,
        values=values,
        outputs=rows[..., keys - values.shape[1] :] @ spread,
    )


def case_of(prompt: list[int], start: int, stop: int) -> Case:
    return Case(
        case_id=0,
        needle_id=0,
        length=len(prompt),
        depth=0.0,
        position=start,
        input_ids=tuple(prompt),
        span_start=start,
        span_end=stop,
        answer="x",
        answer_ids=(1,),
    )


@dataclass(frozen=True)
class Drawn:
    """There are few different tokens, so that some are generated that stand in the span."""

    prompt: list[int]
    start: int
    stop: int
    generated: list[int]
    seed: int

    def build(self) -> tuple[AttentionRows, Case]:
        """Causal rows of 4 heads over 2 KV heads from the prompt's last token on."""
        steps, length = len(self.generated), len(self.prompt)
        keys = length + steps - 1
        noise = torch.Generator().manual_seed(self.seed)
        scores = 3 * torch.randn(4, steps, keys, generator=noise)
        hidden = torch.ones(steps, keys, dtype=torch.bool).triu(length)
        rows = scores.masked_fill(hidden, -torch.inf).softmax(-1)
        values = torch.randn(2, keys, 3, generator=noise)
        return seen(rows, values), case_of(self.prompt, self.start, self.stop)


@st.composite
def measured(draw: st.DrawFn) -> Drawn:
    prompt = draw(st.lists(st.integers(0, 2), min_size=2, max_size=30))
    start = draw(st.integers(0, len(prompt) - 2))
    return Drawn(
        prompt=prompt,
        start=start,
        stop=draw(st.integers(start + 1, len(prompt) - 1)),
        generated=draw(st.lists(st.integers(0, 2), min_size=1, max_size=4)),
        seed=draw(st.integers(0, 2**32 - 1)),
    )


def rows_up_to_the_query(given: AttentionRows, head: int, step: int) -> list[float]:
    """One row, without the keys that come after its query."""
    return given.weights[head, step, : given.queries[step] + 1].double().tolist()
