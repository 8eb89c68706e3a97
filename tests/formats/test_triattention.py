"""TriAttention's calibration file, read back as its readers do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from headprobe.formats import export_scores
from headprobe.scores import HeadScores
from tests._support.query_statistics import THETA, statistics
from tests._support.refusals import refused

MakeRun = Callable[..., HeadScores]


def load(path: Path) -> Any:
    return torch.load(path, weights_only=True)


def test_a_plain_rotation_is_written_flat(make_run: MakeRun, tmp_path: Path) -> None:
    found = statistics()
    notes = export_scores(make_run(query_statistics=found), tmp_path / "s.pt", to="triattention")
    assert notes == ("layout flat, means over 50 tokens of 2 texts",)
    content = load(tmp_path / "s.pt")
    assert set(content) == {"metadata", "stats"}
    assert list(content["stats"])[:2] == ["layer00_head00", "layer00_head01"]
    assert len(content["stats"]) == 24
    for layer, head in np.ndindex(3, 8):
        table = content["stats"][f"layer{layer:02d}_head{head:02d}"]
        for name, tensor in table.items():
            assert tensor.dtype == torch.float32
            np.testing.assert_array_equal(tensor.numpy(), getattr(found, name)[layer, head])
    told = content["metadata"]
    assert told["sampled_heads"] == [[layer, head] for layer in range(3) for head in range(8)]
    assert {name: told[name] for name in ("num_traces", "head_dim", "dtype", "rope_style")} == {
        "num_traces": 2,
        "head_dim": 8,
        "dtype": "bfloat16",
        "rope_style": "half",
    }
    assert (told["model_type"], told["num_layers"], told["rope_theta"]) == ("llama", 3, THETA)
    assert told["model_name"] == make_run().layout.id
    assert (told["num_attention_heads"], told["num_key_value_heads"]) == (8, 4)


@pytest.mark.parametrize("changes", [{"factor": 4.0}, {"passed": 6}])
def test_other_rotations_are_written_by_layer(
    changes: dict[str, Any], make_run: MakeRun, tmp_path: Path
) -> None:
    found = statistics(**changes)
    run, path = make_run(query_statistics=found), tmp_path / "s.pt"
    with refused("give `layout=layers`", option="layout", value="flat"):
        export_scores(run, path, to="triattention", layout="flat")
    assert not path.exists()
    notes = export_scores(run, path, to="triattention")
    assert "TensorRT-LLM reads the flat layout" in notes[-1]
    content = load(path)
    assert set(content) == {"metadata", "layer_stats"}
    assert content["metadata"]["rotary_dim"] == 8
    assert content["metadata"]["head_dim"] == 8 + changes.get("passed", 0)
    assert list(content["layer_stats"]) == [0, 1, 2]
    for layer, table in content["layer_stats"].items():
        for name in ("q_mean_real", "q_mean_imag", "q_abs_mean", "q_pass_mean", "inv_freq"):
            np.testing.assert_array_equal(table[name].numpy(), getattr(found, name)[layer])
        scale = np.tile(found.freq_scale[layer] ** 2, (8, 1))
        np.testing.assert_array_equal(table["freq_scale_sq"].numpy(), scale)


def test_layers_without_a_rotation_are_told_of(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(query_statistics=statistics(layers=2))
    notes = export_scores(run, tmp_path / "s.pt", to="triattention")
    assert notes[-1] == "layers that rotate no queries are not in the file: 2"
    assert load(tmp_path / "s.pt")["metadata"]["attention_layer_indices"] == [0, 1]


def test_a_run_without_statistics_is_refused(make_run: MakeRun, tmp_path: Path) -> None:
    with refused("give the same score command again with `statistics`"):
        export_scores(make_run(), tmp_path / "s.pt", to="triattention")


def test_statistics_are_saved_with_the_scores(make_run: MakeRun, tmp_path: Path) -> None:
    found = statistics(passed=2)
    make_run(query_statistics=found).save(tmp_path / "scores.safetensors")
    loaded = HeadScores.load(tmp_path).query_statistics
    assert loaded is not None
    assert loaded.header == found.header
    for name, tensor in found.to_tensors().items():
        np.testing.assert_array_equal(loaded.to_tensors()[name], tensor)
