from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from headprobe.errors import UsageError
from headprobe.measures import TEXT_MEASURES, onthefly, reach, reconstruct, stability
from headprobe.models.loading import LoadedModel
from tests._support import plain_selections as plain
from tests._support.reference import tiny

# Grouped queries; a sliding window and a norm of the queries; a soft cap beside a sliding window.
THREE = ["llama", "gemma3_text", "gemma2"]


def text(loaded: LoadedModel, tokens: int) -> Tensor:
    drawn = torch.Generator().manual_seed(0)
    return torch.randint(3, len(loaded.tokenizer), (1, tokens), generator=drawn)


def taken(name: str, loaded: LoadedModel, ids: Tensor, chunk: int = 2048) -> np.ndarray:
    with torch.inference_mode():
        return TEXT_MEASURES[name].read(loaded, ids, chunk).numpy()


def maps(model: torch.nn.Module, ids: Tensor) -> np.ndarray:
    """Full attention maps, ``[layer, head, query, key]``."""
    with torch.no_grad():
        attentions = model(ids, output_attentions=True).attentions
    return torch.stack([layer[0] for layer in attentions]).double().numpy()


@pytest.mark.parametrize("architecture", THREE)
def test_reach_is_attention_beyond_sinks_and_newest(architecture: str) -> None:
    loaded, model = tiny(architecture)
    ids = text(loaded, 300)
    full = maps(model, ids)
    expected = np.zeros(full.shape[:2])
    for query in range(150, 300):
        far = range(reach.SINKS, query - reach.NEWEST + 1)
        expected += full[:, :, query, far].sum(axis=-1) / 150
    for chunk in (2048, 70):
        np.testing.assert_allclose(taken("reach", loaded, ids, chunk), expected, atol=1e-6)
    # Of a window of 8 tokens nothing is that far away.
    assert (expected == 0).any() == (architecture != "llama")


@pytest.mark.parametrize("architecture", THREE)
def test_stability_is_what_top_entries_have_in_common(architecture: str) -> None:
    loaded, model = tiny(architecture)
    ids = text(loaded, 200)
    full = maps(model, ids)
    start = 200 - stability.DECODED - stability.WINDOW
    expected = np.zeros(full.shape[:2])
    for layer, head in np.ndindex(*expected.shape):
        rows = full[layer, head]
        entries = [k for k in range(start) if full[layer, :, -1, k].any()]
        top = math.ceil(stability.TOP * len(entries))
        before = rows[start : start + stability.WINDOW].mean(axis=0)
        best = set(sorted(entries, key=lambda k: -before[k])[:top])
        for query in range(200 - stability.DECODED, 200) if top else ():
            later = set(sorted(entries, key=lambda k: -rows[query, k])[:top])
            expected[layer, head] += len(best & later) / top / stability.DECODED
    for chunk in (2048, 50):
        np.testing.assert_allclose(taken("stability", loaded, ids, chunk), expected, atol=1e-6)
    # All layers of this gemma3 have a window of 8.
    assert (expected > 0).any() == (architecture != "gemma3_text")


@pytest.mark.parametrize("architecture", THREE)
def test_onthefly_is_the_cumulated_attention_of_the_mean_query(architecture: str) -> None:
    loaded, _ = tiny(architecture)
    ids = text(loaded, 60)
    found = taken("onthefly", loaded, ids)
    for index, layer in enumerate(plain.read(loaded.model, ids)):
        query, key = layer.before.mean(dim=1), layer.before_key.mean(dim=1)
        cap = layer.attention_kwargs.get("softcap")
        turns = [plain.rotation(layer, p) for p in range(onthefly.POSITIONS)]
        for head in range(len(query)):
            last = turns[-1] @ query[head]
            logits = [
                layer.scaling * float(last @ turn @ key[head // layer.group]) for turn in turns
            ]
            logits = logits if cap is None else [cap * math.tanh(one / cap) for one in logits]
            weights = np.exp(logits) / np.exp(logits).sum()
            expected = np.mean(np.cumsum(weights))
            assert found[index, head] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("architecture", THREE)
def test_reconstruct_is_the_largest_attention_of_a_repetition(architecture: str) -> None:
    """By the tokens that the repetition has, whatever its instruction is."""
    loaded, _ = tiny(architecture)
    ids = text(loaded, 24)
    [written] = reconstruct.repetitions(
        ids[0].tolist(), loaded.tokenizer, start=reconstruct.SINKS, max_context=512
    )
    both = torch.cat([ids, torch.tensor([written.ids])], dim=1)
    most, mean = (taken(name, loaded, ids, 10) for name in ("reconstruct", "reconstruct_mean"))
    for index, layer in enumerate(plain.read(loaded.model, both)):
        for head in range(len(layer.query)):
            largest = plain.largest_of_repetition(layer, head, 24, 4, 24, sinks=4)
            assert most[index, head] == pytest.approx(max(largest), abs=1e-5)
            assert mean[index, head] == pytest.approx(np.mean(largest), abs=1e-5)


def test_a_text_that_cannot_be_repeated_is_refused() -> None:
    loaded, _ = tiny("llama")
    with pytest.raises(UsageError, match="a text of 450 tokens cannot be repeated"):
        taken("reconstruct", loaded, text(loaded, 450))
