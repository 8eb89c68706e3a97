from __future__ import annotations

import math

import torch

from headprobe.compression.attend import attend
from headprobe.compression.compensation import compensate
from headprobe.compression.entries import COMPENSATION, HeadEntries
from headprobe.compression.ragged import Ragged


def test_an_entry_that_grows_is_the_mean_of_everything_dropped() -> None:
    entries, nothing = torch.randn(9, 4), torch.full((2, 4), 7.0)
    dropped = torch.ones(2, 9)
    dropped[1, 6:] = 0
    once, first = compensate(entries, dropped, nothing, torch.tensor([0, 0]))
    torch.testing.assert_close(once, entries.mean(0))
    torch.testing.assert_close(first, entries[:6].mean(0))
    then = compensate(entries, 1 - dropped[1:], first[None], torch.tensor([6]))
    torch.testing.assert_close(then[0], once)


def test_attention_with_a_compensation_entry_equals_the_paper_s_formula() -> None:
    torch.manual_seed(0)
    keys, values, query = torch.randn(12, 4), torch.randn(12, 4), torch.randn(4)
    n = 7
    mean_key, mean_value = keys[:n].mean(0), values[:n].mean(0)
    numerator = n * math.exp(query @ mean_key / 2) * mean_value
    denominator = n * math.exp(query @ mean_key / 2)
    for key, value in zip(keys[n:], values[n:], strict=True):
        numerator = numerator + math.exp(query @ key / 2) * value
        denominator += math.exp(query @ key / 2)
    entries = HeadEntries(
        keys=torch.cat([mean_key[None], keys[n:]]),
        values=torch.cat([mean_value[None], values[n:]]),
        positions=torch.tensor([COMPENSATION, *range(n, 12)], dtype=torch.int32),
        weight=n,
    )
    ragged = Ragged.of([entries])
    output = attend(
        ragged, query.view(1, 1, 1, 4), None, position=11, is_causal=True, attention_kwargs={}
    )
    torch.testing.assert_close(output.flatten(), numerator / denominator)
