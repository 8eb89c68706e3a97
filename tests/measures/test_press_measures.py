"""kvpress' own head scores of the bundled model: `make test-kvpress`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kvpress import KVzipPress
from torch import Tensor
from transformers import DynamicCache

from headprobe.compression.reconstruction import Repetition
from headprobe.formats.kvzip import write_scores
from headprobe.measures import TEXT_MEASURES, reconstruct
from headprobe.models.loading import LoadedModel, load_model
from headprobe.scores import HeadScores
from tests._support.press import on_the_fly

TOKENS = 300


@pytest.fixture(scope="module")
def nano() -> LoadedModel:
    return load_model("nano")


@pytest.fixture(scope="module")
def text(nano: LoadedModel) -> Tensor:
    drawn = np.random.default_rng(0).integers(10, len(nano.tokenizer), TOKENS)
    return torch.from_numpy(drawn)[None]


def test_onthefly_is_duo_attention_on_the_fly(
    nano: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = ["the old binder keeps a lamp by the river " * 20, "a map of the harbour " * 30]
    theirs, ours = on_the_fly(nano, texts, monkeypatch)
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_reconstruct_is_kvzips_head_score_and_so_is_the_file(
    nano: LoadedModel, text: Tensor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The first 4 tokens take the place of the chat template's; the instruction is theirs."""
    found: list[Tensor] = []
    asked: list[Repetition] = []

    class SeenPress(KVzipPress):
        def prepare(self, *given: Any) -> Any:
            self.prefix_length = reconstruct.SINKS
            pairs = super().prepare(*given)
            ids = tuple(pairs[0][1][0].tolist())
            asked.append(Repetition(ids=ids, start=reconstruct.SINKS, stop=TOKENS))
            return pairs

        def compress_post(self, model: Any) -> None:
            found.append(self.score_val[:, 0, :, reconstruct.SINKS :].clone())

    with torch.no_grad(), SeenPress(0.5)(nano.model):
        nano.model(input_ids=text, past_key_values=DynamicCache())
    monkeypatch.setattr(reconstruct, "repetitions", lambda *_, **__: asked)
    with torch.inference_mode():
        scores = TEXT_MEASURES["reconstruct"].read(nano, text, 2048).float().numpy()
    groups = scores.reshape(nano.layout.layers, nano.layout.num_kv_heads, -1)
    np.testing.assert_allclose(groups.max(axis=-1), found[0].amax(-1).numpy(), atol=1e-5)
    run = HeadScores(
        layout=nano.layout,
        task="reconstruct",
        per_case={"reconstruct": scores[None]},
        needles=(0,),
        cases=1,
    )
    write_scores(run, tmp_path / "heads.pt", measure="reconstruct")
    written = torch.load(tmp_path / "heads.pt", weights_only=True)
    # Heads that score within 1e-5 of one another are set apart.
    torch.testing.assert_close(written, found[0].amax(-1), rtol=0, atol=2e-4)
