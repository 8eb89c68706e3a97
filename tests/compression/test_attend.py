from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from headprobe.compression.attend import attend, check_mask
from headprobe.compression.ragged import COMPENSATION, Ragged, Stream
from headprobe.errors import HeadprobeError

BATCH, HEADS, GROUP, SEEN = 2, 3, 2, 30
LENGTHS = [4, 9, 4, 1, 17, 9]


def filled(
    *, queries: int, head_dim: int = 8, dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> tuple[Ragged, Tensor]:
    """Streams with random entries that end with the new tokens, and their queries."""
    torch.manual_seed(0)
    streams = [
        Stream(
            keys=torch.randn(length, head_dim),
            values=torch.randn(length, head_dim),
            positions=torch.randperm(SEEN)[:length].sort().values.int(),
        )
        for length in LENGTHS
    ]
    moved = [
        Stream(
            keys=stream.keys.to(device, dtype),
            values=stream.values.to(device, dtype),
            positions=stream.positions.to(device),
        )
        for stream in streams
    ]
    ragged = Ragged(moved)
    new = torch.randn(2, len(LENGTHS), queries, head_dim).to(device, dtype)
    ragged.append(new[0], new[1], SEEN)
    return ragged, torch.randn(BATCH, HEADS * GROUP, queries, head_dim).to(device, dtype)


def plainly(ragged: Ragged, query: Tensor, visible: Tensor, terms: dict[str, Any]) -> Tensor:
    """Head by head and query by query, in float64; ``visible`` is ``[sequence, query, token]``."""
    output = torch.zeros(BATCH, query.shape[2], HEADS * GROUP, query.shape[3])
    for number, stream in enumerate(ragged.streams()):
        sequence, head = divmod(number, HEADS)
        keys, values = stream.keys.double().cpu(), stream.values.double().cpu()
        for query_head in range(head * GROUP, (head + 1) * GROUP):
            for at in range(query.shape[2]):
                scores = keys @ query[sequence, query_head, at].double().cpu()
                scores = scores * terms.get("scaling", query.shape[3] ** -0.5)
                if terms.get("softcap"):
                    scores = terms["softcap"] * torch.tanh(scores / terms["softcap"])
                seen = visible[sequence, at, stream.positions.long().cpu()]
                scores = scores.masked_fill(~seen, -torch.inf)
                if "s_aux" in terms:
                    sink = terms["s_aux"][query_head, None].double()
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


@pytest.mark.parametrize("queries", [1, 4])
@pytest.mark.parametrize(
    "terms", [{}, {"scaling": 0.7}, {"softcap": 1.5}, {"s_aux": torch.arange(6) / 3}]
)
def test_attention_equals_a_plain_loop_over_heads(queries: int, terms: dict[str, Any]) -> None:
    ragged, query = filled(queries=queries)
    output = attend(ragged, query, None, position=SEEN, terms=terms)
    torch.testing.assert_close(output, plainly(ragged, query, causal(queries), terms))


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
    output = attend(ragged, query, mask, position=SEEN, terms={})
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
    output = attend(ragged, query, mask, position=SEEN, terms={"sliding_window": 12})
    torch.testing.assert_close(output, plainly(ragged, query, visible, {}))


def test_a_compensation_entry_is_seen_through_every_mask() -> None:
    entries = torch.randn(2, 2, 8)
    positions = torch.tensor([COMPENSATION, 3], dtype=torch.int32)
    stream = Stream(keys=entries[0], values=entries[1], positions=positions, weight=5)
    ragged, query = Ragged([stream]), torch.randn(1, 1, 1, 8)
    nothing = torch.zeros(1, 1, 1, 4, dtype=torch.bool)
    padding = torch.zeros(1, 4, dtype=torch.long)
    for mask in (nothing, padding):
        output = attend(ragged, query, mask, position=3, terms={})
        torch.testing.assert_close(output.flatten(), entries[1, 0])


def test_masks_that_differ_between_heads_are_refused() -> None:
    for mask in (torch.ones(1, 2, 1, 4), object()):
        with pytest.raises(HeadprobeError, match="no tensor or differs between heads"):
            check_mask(mask)


def test_the_varlen_kernel_is_told_where_each_stream_lies(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No kernel runs here: a stand-in works on what the kernel gets."""

    def kernel(query: Tensor, key: Tensor, value: Tensor, *given: Any, **named: Any):
        query_bounds, bounds, longest_query, longest = given[:4]
        used = named["seqused_k"]
        assert given[4:] == (0.0, False, False)
        assert query_bounds.tolist() == list(range(len(LENGTHS) + 1))
        assert (longest_query, longest) == (1, max(LENGTHS) + 1) == (1, int(used.max()))
        assert bounds.dtype == used.dtype == torch.int32
        output = torch.empty_like(query)
        for i, (start, length) in enumerate(zip(bounds.tolist(), used.tolist(), strict=False)):
            keys, values = key[start : start + length, 0], value[start : start + length, 0]
            output[i] = (query[i] @ keys.T * named["scale"]).softmax(-1) @ values
        return output, None, None, None, None

    ragged, query = filled(queries=1)
    monkeypatch.setattr("headprobe.compression.attend._fits_varlen", lambda *_: True)
    monkeypatch.setattr(torch.ops.aten, "_flash_attention_forward", kernel)
    terms = {"scaling": 0.3}
    output = attend(ragged, query, None, position=SEEN, terms=terms)
    torch.testing.assert_close(output, plainly(ragged, query, causal(1), terms))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("queries", [1, 4])
def test_attention_on_a_gpu_equals_a_plain_loop_over_heads(
    dtype: torch.dtype, queries: int
) -> None:
    ragged, query = filled(queries=queries, head_dim=64, dtype=dtype, device="cuda")
    output = attend(ragged, query, None, position=SEEN, terms={})
    expected = plainly(ragged, query, causal(queries), {})
    tolerance = {"rtol": 0, "atol": 1e-4 if dtype == torch.float32 else 3e-2}
    torch.testing.assert_close(output.float().cpu(), expected.float(), **tolerance)
