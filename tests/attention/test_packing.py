"""Texts in one KV cache and one forward pass against each text alone under eager attention."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from transformers import PreTrainedModel

from headprobe.attention.branches import PATH, Branches
from headprobe.attention.observe import forward, observe
from headprobe.attention.packing import why_one_by_one
from headprobe.attention.prefix_cache import PrefixCache
from headprobe.attention.rows import AttentionRows
from tests._support.architectures import ARCHITECTURES, STATES, build

CPU = torch.device("cpu")
CLOSE = {"rtol": 0, "atol": 1e-5}
PATH_TOKENS = torch.randint(3, 64, (20,), generator=torch.Generator().manual_seed(1)).tolist()
# Where each text leaves the path, and its own tokens; the last one leaves the second.
TEXTS = [(20, [5, 6, 7]), (12, [8, 9, 10, 11]), (3, [12]), (14, [13, 14, 15])]


def laid_out() -> tuple[Branches, list[int], list[int]]:
    """The layout, each text's branch, and all tokens in the order of the cache."""
    branches, numbers, read = Branches(len(PATH_TOKENS), CPU), [], []
    for at, (start, tokens) in enumerate(TEXTS):
        numbers.append(branches.add(PATH if at < 3 else numbers[1], start))
        branches.place([numbers[-1]] * len(tokens), range(start, start + len(tokens)))
        read += tokens
    return branches, numbers, read


def text(at: int) -> list[int]:
    start, tokens = TEXTS[at]
    before = PATH_TOKENS if at < 3 else [*PATH_TOKENS[:12], *TEXTS[1][1]]
    return [*before[:start], *tokens]


def alone(model: PreTrainedModel, tokens: list[int]) -> tuple[Tensor, list[Tensor]]:
    """Logits, and each layer's rows ``[head, query, key]``, of one text under eager attention."""
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    output = model(torch.tensor([tokens]), use_cache=False, output_attentions=True)
    model.set_attn_implementation(before)
    return output.logits[0], [rows[0] for rows in output.attentions]


@torch.no_grad()
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("architecture", [name for name in ARCHITECTURES if name != "lfm2"])
def test_packed_texts_equal_each_text_alone(architecture: str, implementation: str) -> None:
    if architecture in ("gemma2", "gpt_oss") and implementation == "sdpa":
        pytest.skip("takes no SDPA")
    model = build(architecture)
    model.set_attn_implementation(implementation)
    why = why_one_by_one(model, device=CPU, longest=60)
    if why and transformers.__version__.startswith("5.0."):
        pytest.skip(f"transformers 5.0: {why}")
    assert why is None
    cache = PrefixCache(model, 40)
    forward(model, torch.tensor([PATH_TOKENS]), past_key_values=cache)
    branches, numbers, read = laid_out()
    seen: dict[int, AttentionRows] = {}
    logits = observe(
        model,
        torch.tensor([read]),
        lambda rows: seen.update({rows.layer: rows}),
        watch=[*range(len(read))],
        past_key_values=cache,
        layout=branches.layout(len(read)),
    ).logits[0]
    first = 0
    for at, (start, tokens) in enumerate(TEXTS):
        own = slice(first, first + len(tokens))
        expected, attentions = alone(model, text(at))
        torch.testing.assert_close(logits[own], expected[start:], **CLOSE)
        for rows, whole in zip(seen.values(), attentions, strict=True):
            keys = branches.keys(numbers[at])
            torch.testing.assert_close(rows.weights[:, own][..., keys], whole[:, start:], **CLOSE)
            others = rows.weights[:, own].sum(-1) - rows.weights[:, own][..., keys].sum(-1)
            assert others.abs().max() < 1e-6
            assert rows.queries[own].tolist() == [*range(start, start + len(tokens))]
        first += len(tokens)


@pytest.mark.parametrize(
    ("architecture", "changes", "reason"),
    [
        *((name, {}, "recurrent state") for name in ["lfm2", *STATES]),
        ("bloom", {}, "no position ids"),
        # Its selection of keys does not know of the other texts.
        ("deepseek_v32", {}, "logits differ"),
        # All positions are scaled by the farthest one in the pass.
        (
            "llama",
            {
                "rope_parameters": {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 1e4},
                "max_position_embeddings": 32,
            },
            "logits differ",
        ),
    ],
)
def test_a_model_that_cannot_be_packed_says_why(
    architecture: str, changes: dict[str, Any], reason: str
) -> None:
    found = why_one_by_one(build(architecture, **changes), device=CPU, longest=60)
    assert found is not None
    assert reason in found


def test_attention_without_masks_is_not_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, flash_attention_mask

    model = build("llama")
    monkeypatch.setitem(ALL_MASK_ATTENTION_FUNCTIONS._local_mapping, "sdpa", flash_attention_mask)
    found = why_one_by_one(model, device=CPU, longest=60)
    assert found == "its attention takes no masks of single keys"


def test_a_branch_does_not_see_what_its_parent_read_after_it_left() -> None:
    branches = Branches(4, CPU)
    draft = branches.add(PATH, 4)
    branches.place([draft] * 3, [4, 5, 6])
    assert branches.is_plain
    taken = branches.add(draft, 5)
    branches.place([taken], [5])
    assert not branches.is_plain
    assert branches.layout(1).visible[0].tolist() == [[True] * 5 + [False] * 2 + [True]]
    assert branches.keys(taken).tolist() == [0, 1, 2, 3, 4, 7]
    assert branches.path_limit(branches.add(taken, 2)) == 2


def test_a_model_that_is_not_finite_is_left_to_the_first_case() -> None:
    model = build("llama")
    with torch.no_grad():
        model.get_output_embeddings().weight[5] = torch.nan
    assert why_one_by_one(model, device=CPU, longest=64) is None
