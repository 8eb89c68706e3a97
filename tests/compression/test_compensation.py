from __future__ import annotations

import math

import torch

from headprobe.compression.attend import attend
from headprobe.compression.compensation import compensate
from headprobe.compression.ragged import COMPENSATION, Ragged, Stream


def test_an_entry_that_grows_is_the_mean_of_everything_dropped() -> None:
    dropped = torch.randn(9, 4)
    nothing = torch.full((1, 4), 7.0)
    once = compensate(dropped, nothing, 0)
    first = compensate(dropped[:6], nothing, 0)
    torch.testing.assert_close(compensate(dropped[6:], first, 6), once)
    torch.testing.assert_close(once[0], dropped.mean(0))


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
    stream = Stream(
        keys=torch.cat([compensate(keys[:n], keys[:1], 0), keys[n:]]),
        values=torch.cat([compensate(values[:n], values[:1], 0), values[n:]]),
        positions=torch.tensor([COMPENSATION, *range(n, 12)], dtype=torch.int32),
        weight=n,
    )
    output = attend(Ragged([stream]), query.view(1, 1, 1, 4), None, position=11, terms={})
    torch.testing.assert_close(output.flatten(), numerator / denominator)
