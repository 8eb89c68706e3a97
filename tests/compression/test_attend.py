from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from headprobe.compression.attend import attend
from headprobe.compression.entries import COMPENSATION, HeadEntries
from headprobe.compression.masks import check_mask, says_causal
from headprobe.compression.ragged import Ragged
from headprobe.errors import HeadprobeError

BATCH, HEADS, GROUP, SEEN = 2, 3, 2, 30
LENGTHS = [4, 9, 4, 1, 17, 9]


def filled(
    *,
    queries: int,
    weights: Sequence[int] = (0,) * 6,
    head_dim: int = 8,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
) -> tuple[Ragged, Tensor]:
    """Heads with random entries that end with the new tokens, and their queries."""
    torch.manual_seed(0)
    held = [
        HeadEntries(
            keys=torch.randn(length, head_dim),
            values=torch.randn(length, head_dim),
            positions=torch.randperm(SEEN)[:length].sort().values.int(),
            weight=weight,
        )
        for length, weight in zip(LENGTHS, weights, strict=True)
    ]
    for one in held:
        if one.weight:
            one.positions[0] = COMPENSATION
    moved = [
        HeadEntries(
            keys=one.keys.to(device, dtype),
            values=one.values.to(device, dtype),
            positions=one.positions.to(device),
            weight=one.weight,
        )
        for one in held
    ]
    ragged = Ragged.of(moved)
    new = torch.randn(2, len(LENGTHS), queries, head_dim).to(device, dtype)
    ragged.append(new[0], new[1], SEEN)
    return ragged, torch.randn(BATCH, HEADS * GROUP, queries, head_dim).to(device, dtype)


def plainly(
    ragged: Ragged, query: Tensor, visible: Tensor, attention_kwargs: dict[str, Any]
) -> Tensor:
    """Head by head and query by query, in float64; ``visible`` is ``[sequence, query, token]``."""
    output = torch.zeros(BATCH, query.shape[2], HEADS * GROUP, query.shape[3])
    for number, one in enumerate(ragged.held()):
        sequence, head = divmod(number, HEADS)
        keys, values = one.keys.double().cpu(), one.values.double().cpu()
        for query_head in range(head * GROUP, (head + 1) * GROUP):
            for at in range(query.shape[2]):
                scores = keys @ query[sequence, query_head, at].double().cpu()
                scores = scores * attention_kwargs.get("scaling", query.shape[3] ** -0.5)
                if attention_kwargs.get("softcap"):
                    scores = attention_kwargs["softcap"] * torch.tanh(
                        scores / attention_kwargs["softcap"]
                    )
                positions = one.positions.long().cpu()
                seen = visible[sequence, at, positions] | (positions == COMPENSATION)
                scores = scores.masked_fill(~seen, -torch.inf)
                if one.weight:
                    scores[0] += math.log(one.weight)
                if "s_aux" in attention_kwargs:
                    sink = attention_kwargs["s_aux"][query_head, None].double().cpu()
                    weights = torch.cat([scores, sink]).softmax(0)[:-1]
                else:
                    weights = scores.softmax(0)
                output[sequence, at, query_head] = weights @ values
    return output


def causal(queries: int, window: int | None = None) -> Tensor:
    tokens = torch.arange(SEEN + queries)
    distance = tokens[SEEN:, None] - tokens
    seen = (distance >= 0) & (distance < (window or len(tokens)))
    return seen.expand(BATCH, -1, -1)


TERMS: list[dict[str, Any]] = [
    {},
    {"scaling": 0.7},
    {"softcap": 1.5},
    {"s_aux": torch.arange(6) / 3},
]


@pytest.mark.parametrize("queries", [1, 4])
@pytest.mark.parametrize("attention_kwargs", TERMS)
@pytest.mark.parametrize("is_causal", [True, False])
@pytest.mark.parametrize("weights", [[0] * 6, [0, 3, 0, 1, 9, 0]])
def test_attention_equals_a_plain_loop_over_heads(
    queries: int, attention_kwargs: dict[str, Any], is_causal: bool, weights: list[int]
) -> None:
    ragged, query = filled(queries=queries, weights=weights)
    output = attend(
        ragged, query, None, position=SEEN, is_causal=is_causal, attention_kwargs=attention_kwargs
    )
    torch.testing.assert_close(output, plainly(ragged, query, causal(queries), attention_kwargs))


@pytest.mark.parametrize("queries", [1, 4])
@pytest.mark.parametrize("is_causal", [True, False])
def test_heads_padded_to_one_length_attend_as_blocks_do(
    monkeypatch: pytest.MonkeyPatch, queries: int, is_causal: bool
) -> None:
    """As on a GPU, without one; there the kernel gives its output by query, head after head."""

    def by_query(*tensors: Tensor, **options: Any) -> Tensor:
        output = scaled_dot_product_attention(*tensors, **options)
        return output.transpose(1, 2).contiguous().transpose(1, 2)

    monkeypatch.setattr("headprobe.attention.kernels.scaled_dot_product_attention", by_query)
    ragged, query = filled(queries=queries, weights=[0, 3, 0, 1, 9, 0])
    monkeypatch.setattr(ragged, "_spans", [])
    output = attend(ragged, query, None, position=SEEN, is_causal=is_causal, attention_kwargs={})
    torch.testing.assert_close(output, plainly(ragged, query, causal(queries), {}))


@pytest.mark.parametrize("queries", [1, 4])
@pytest.mark.parametrize("sequences", [1, BATCH])
@pytest.mark.parametrize("added", [False, True])
def test_a_mask_over_all_tokens_is_read_where_entries_are(
    queries: int, sequences: int, added: bool
) -> None:
    ragged, query = filled(queries=queries)
    visible = torch.rand(sequences, 1, queries, SEEN + queries) < 0.6
    visible[..., SEEN:] = causal(queries)[0, :, SEEN:]
    mask = torch.zeros(visible.shape).masked_fill(~visible, -torch.inf) if added else visible
    output = attend(ragged, query, mask, position=SEEN, is_causal=False, attention_kwargs={})
    expected = plainly(ragged, query, visible[:, 0].expand(BATCH, -1, -1), {})
    torch.testing.assert_close(output, expected)


@pytest.mark.parametrize("queries", [1, 4])
@pytest.mark.parametrize("padded", [False, True])
def test_flash_kernels_masks_and_windows_are_understood(queries: int, padded: bool) -> None:
    ragged, query = filled(queries=queries)
    visible = causal(queries, window=12)
    mask = None
    if padded:
        mask = torch.ones(BATCH, SEEN + queries, dtype=torch.long)
        mask[0, : SEEN - 3] = 0
        visible = visible & mask.bool()[:, None]
    attention_kwargs = {"sliding_window": 12}
    output = attend(
        ragged, query, mask, position=SEEN, is_causal=False, attention_kwargs=attention_kwargs
    )
    torch.testing.assert_close(output, plainly(ragged, query, visible, {}))


def test_a_compensation_entry_is_seen_through_every_mask() -> None:
    entries = torch.randn(2, 2, 8)
    positions = torch.tensor([COMPENSATION, 3], dtype=torch.int32)
    stream = HeadEntries(keys=entries[0], values=entries[1], positions=positions, weight=5)
    ragged, query = Ragged.of([stream]), torch.randn(1, 1, 1, 8)
    nothing = torch.zeros(1, 1, 1, 4, dtype=torch.bool)
    padding = torch.zeros(1, 4, dtype=torch.long)
    for mask in (nothing, padding):
        output = attend(ragged, query, mask, position=3, is_causal=False, attention_kwargs={})
        torch.testing.assert_close(output.flatten(), entries[1, 0])


def test_masks_that_differ_between_heads_are_refused() -> None:
    for mask in (torch.ones(1, 2, 1, 4), object()):
        with pytest.raises(HeadprobeError, match="no tensor or differs between heads"):
            check_mask(mask)


def as_numbered(sizes: Sequence[int], *_: Any, **__: Any) -> list[int]:
    return list(range(len(sizes)))


@pytest.mark.parametrize("queries", [1, 4])
@pytest.mark.parametrize("attention_kwargs", [{"scaling": 0.3}, {"s_aux": torch.arange(6) / 3}])
@pytest.mark.parametrize("weights", [[0] * 6, [0, 3, 0, 1, 9, 0]])
def test_one_varlen_call_takes_all_heads_compensated_or_not(
    monkeypatch: pytest.MonkeyPatch,
    queries: int,
    attention_kwargs: dict[str, Any],
    weights: list[int],
) -> None:
    """No kernel runs here: a stand-in works on what the kernel gets."""
    calls = []

    def kernel(query: Tensor, key: Tensor, value: Tensor, *given: Any, **named: Any):
        calls.append(given)
        query_bounds, bounds, most_queries, longest = given[:4]
        used, scale = named["seqused_k"], named["scale"] or query.shape[2] ** -0.5
        assert given[4:] == (0.0, queries > 1, False)
        assert query_bounds.tolist() == list(range(0, queries * 6 + 1, queries))
        assert most_queries == queries
        assert longest >= int(used.max()) == max(LENGTHS) + queries
        assert bounds.dtype == used.dtype == query_bounds.dtype == torch.int32
        output, log_sum = torch.empty_like(query), torch.empty(GROUP, len(query))
        for i, (start, length) in enumerate(zip(bounds.tolist(), used.tolist(), strict=False)):
            for at in range(queries):
                own = slice(start, start + length - (queries - 1 - at))
                scores = query[i * queries + at] @ key[own, 0].T * scale
                output[i * queries + at] = scores.softmax(-1) @ value[own, 0]
                log_sum[:, i * queries + at] = scores.logsumexp(-1)
        return output, log_sum, None, None, None

    monkeypatch.setattr("headprobe.compression.ragged._has_varlen_kernel", lambda *_: True)
    monkeypatch.setattr("headprobe.compression.ragged.storage_order", as_numbered)
    monkeypatch.setattr(torch.ops.aten, "_flash_attention_forward", kernel)
    ragged, query = filled(queries=queries, weights=weights)
    output = attend(
        ragged, query, None, position=SEEN, is_causal=True, attention_kwargs=attention_kwargs
    )
    torch.testing.assert_close(output, plainly(ragged, query, causal(queries), attention_kwargs))
    assert len(calls) == 1


@pytest.mark.parametrize("added", [False, True])
def test_a_mask_that_says_causal_is_told_from_others(added: bool) -> None:
    def given(visible: Tensor) -> Tensor:
        hidden = torch.finfo(torch.float32).min
        return torch.zeros(visible.shape).masked_fill(~visible, hidden) if added else visible

    whole = causal(3)[:, None]
    assert says_causal(given(whole), 3)
    for sequence, query, token in [(0, 0, 0), (1, 2, SEEN)]:
        padded = whole.clone()
        padded[sequence, 0, query, token] = False
        assert not says_causal(given(padded), 3)
    assert not says_causal(given(torch.ones_like(whole)), 3)
    if added:
        assert not says_causal(torch.where(whole, -0.5, given(whole)), 3)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("queries", [1, 4])
@pytest.mark.parametrize("attention_kwargs", TERMS)
@pytest.mark.parametrize("is_causal", [True, False])
@pytest.mark.parametrize("weights", [[0] * 6, [0, 3, 0, 1, 9, 0]])
def test_attention_on_a_gpu_equals_a_plain_loop_over_heads(
    dtype: torch.dtype,
    queries: int,
    attention_kwargs: dict[str, Any],
    is_causal: bool,
    weights: list[int],
) -> None:
    ragged, query = filled(
        queries=queries, weights=weights, head_dim=64, dtype=dtype, device="cuda"
    )
    moved = {name: x.cuda() if isinstance(x, Tensor) else x for name, x in attention_kwargs.items()}
    output = attend(ragged, query, None, position=SEEN, is_causal=is_causal, attention_kwargs=moved)
    expected = plainly(ragged, query, causal(queries), attention_kwargs)
    tolerance = {"rtol": 0, "atol": 1e-4 if dtype == torch.float32 else 3e-2}
    torch.testing.assert_close(output.float().cpu(), expected.float(), **tolerance)
