from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from headprobe.budgets import HeadBudgets
from headprobe.compression import GreedyDecoder, HeadBudgetCache, Target
from headprobe.models.config import head_layout

PROMPT, STEPS = 20, 12


def budgets(model: PreTrainedModel, size: int) -> HeadBudgets:
    layout = head_layout(model.config, id="tiny")
    shape = (layout.layers, layout.num_kv_heads)
    return HeadBudgets(
        layout=layout,
        strategy={"name": "test"},
        granularity="kv",
        window=3,
        sinks=0,
        compensation=False,
        selection=np.full(shape, "attention"),
        tokens=size + np.arange(np.prod(shape)).reshape(shape),
        ratio=np.zeros(shape),
    )


@torch.no_grad()
def prefilled(model: PreTrainedModel, sizes: list[int]) -> tuple[HeadBudgetCache, Tensor]:
    """One sequence compressed to several sizes, and what it would go on with."""
    prompt = torch.randint(3, 64, (1, PROMPT), generator=torch.Generator().manual_seed(1))
    with HeadBudgetCache(model, budgets(model, 30)) as whole:
        first = model(prompt, past_key_values=whole).logits[:, -1].argmax(dim=-1)
    return whole.fork([Target(budgets=budgets(model, size)) for size in sizes]), first


@torch.no_grad()
def plainly(model: PreTrainedModel, size: int) -> list[int]:
    cache, token = prefilled(model, [size])
    said = []
    with cache:
        for _ in range(STEPS):
            token = model(token[:, None], past_key_values=cache).logits[:, -1].argmax(dim=-1)
            said.append(int(token))
    return said


def test_every_sequence_goes_on_as_it_does_alone_also_when_others_leave(
    tiny_llama: PreTrainedModel,
) -> None:
    sizes = [5, 9, 14]
    cache, first = prefilled(tiny_llama, sizes)
    said: list[list[int]] = [[] for _ in sizes]
    with cache:
        decoder = GreedyDecoder(tiny_llama, cache, max_new_tokens=STEPS)
        newest, rows = first.expand(len(sizes)), [0, 1, 2]
        for step in range(STEPS):
            if step == 5:
                decoder.take(torch.tensor([2, 0]))
                newest, rows = newest[[2, 0]], [2, 0]
            newest = decoder.step(newest)
            for row, token in zip(rows, newest.tolist(), strict=True):
                said[row].append(token)
    for row, size in enumerate(sizes):
        assert said[row] == plainly(tiny_llama, size)[: len(said[row])]
    assert [len(tokens) for tokens in said] == [STEPS, 5, STEPS]


def test_no_step_lays_the_cache_out_anew(tiny_llama: PreTrainedModel) -> None:
    cache, first = prefilled(tiny_llama, [5, 9])
    with cache:
        decoder = GreedyDecoder(tiny_llama, cache, max_new_tokens=STEPS)
        before = [tensor.data_ptr() for layer in cache.layers for tensor in layer.tensors]
        newest = first.expand(2)
        for _ in range(STEPS):
            newest = decoder.step(newest)
    assert before == [tensor.data_ptr() for layer in cache.layers for tensor in layer.tensors]


def test_sequences_that_end_early_leave_the_others_their_own_tokens() -> None:
    end = 2
    scripts = [[50, end], [51, 61, 71, 81], [52, end], [53, end], [54, 64, 74], [55, end]]

    class Decoder(GreedyDecoder):
        """Which sequence each row is of, and how many of its tokens were read."""

        def __init__(self) -> None:
            self.numbers = list(range(len(scripts)))
            self.read = [0] * len(scripts)

        def take(self, sequences: torch.Tensor) -> None:
            self.numbers = [self.numbers[row] for row in sequences.tolist()]

        def step(self, newest: torch.Tensor) -> torch.Tensor:
            said = []
            for number, token in zip(self.numbers, newest.tolist(), strict=True):
                script, place = scripts[number], self.read[number]
                assert token == script[min(place, len(script) - 1)]
                self.read[number] = place + 1
                said.append(script[min(place + 1, len(script) - 1)])
            return torch.tensor(said)

    decoder = Decoder()
    first = torch.tensor([script[0] for script in scripts])

    def is_complete(answer: Sequence[int]) -> bool:
        return len(answer) == 3 or answer[-1] == end

    assert decoder.answer(first, is_complete) == [script[:3] for script in scripts]
    assert decoder.numbers == [1, 4]


@pytest.mark.gpu
def test_a_captured_step_says_what_a_plain_one_says() -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=2,
        num_attention_heads=8,
        num_key_value_heads=2,
        head_dim=64,
        vocab_size=512,
    )
    model = LlamaForCausalLM(config).eval().to("cuda", torch.bfloat16)
    prompt = torch.arange(3, 203, device="cuda")[None]
    said = []
    for plain in (True, False):
        with HeadBudgetCache(model, budgets(model, 40)) as cache, torch.inference_mode():
            newest = model(prompt, past_key_values=cache).logits[:, -1].argmax(dim=-1)
            cache.compress()
            decoder = GreedyDecoder(model, cache, max_new_tokens=2 * STEPS)
            tokens = []
            for _ in range(2 * STEPS):
                decoder._is_warm &= not plain
                newest = decoder.step(newest)
                tokens.append(int(newest))
            assert (decoder._step is None) == plain
        said.append(tokens)
    assert said[0] == said[1]
