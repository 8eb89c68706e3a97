"""Measures that join layers: the rows of several layers in one call, as if each came alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from headprobe.attention.rows import AttentionRows
from headprobe.measures import MEASURES
from tests._support.random_rows import Drawn

DRAWN = Drawn(prompt=[0, 1, 2] * 6, start=4, stop=7, generated=[0, 1, 2], seed=0)


def joined(layers: list[AttentionRows]) -> AttentionRows:
    weights = torch.cat([rows.weights for rows in layers])
    return replace(
        layers[0], weights=weights, values=layers[0].values[..., :0], outputs=weights[..., :0]
    )


@pytest.mark.parametrize("name", [name for name, one in MEASURES.items() if one.joins_layers])
def test_layers_can_come_in_one_call(name: str) -> None:
    drawn = [replace(DRAWN, seed=seed).build() for seed in range(3)]
    layers, (_, case) = [rows for rows, _ in drawn], drawn[0]
    found = MEASURES[name].summarise(joined(layers), case)
    alone = torch.cat([MEASURES[name].summarise(rows, case) for rows in layers])
    torch.testing.assert_close(found, alone, rtol=0, atol=1e-7)
    assert len(torch.unique(alone)) > 1
