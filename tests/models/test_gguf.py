from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM

from headprobe.errors import HeadprobeError, UsageError
from headprobe.models.gguf import read_header
from headprobe.models.loading import load_model
from tests._support.ggufs import write_gguf
from tests._support.refused_models import problem

IDS = torch.tensor([[1, *range(3, 60)]])


@pytest.fixture
def file(tiny_llama: LlamaForCausalLM, tmp_path: Path) -> Path:
    return write_gguf(tmp_path / "tiny.gguf", tiny_llama)


def test_a_gguf_file_loads_as_the_model_that_was_written(
    file: Path, tiny_llama: LlamaForCausalLM, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded = load_model(str(file), device="cpu")
    assert capsys.readouterr() == ("", "")
    assert (loaded.name, loaded.layout.id, loaded.max_context) == (str(file), str(file), 128)
    assert (loaded.layout.layers, loaded.layout.num_heads, loaded.layout.num_kv_heads) == (2, 4, 2)
    torch.testing.assert_close(loaded.model(IDS).logits, tiny_llama(IDS).logits)
    assert loaded.tokenizer.decode(loaded.tokenizer.encode("w5 w7")[-2:]) == "w5 w7"


def test_what_is_loaded_is_a_plain_model(file: Path) -> None:
    loaded = load_model(str(file), device="cpu", dtype="bfloat16")
    assert loaded.dtype == "bfloat16"
    assert loaded.attention == "sdpa"
    assert not hasattr(loaded.model.config, "quantization_config")
    assert not getattr(loaded.model, "is_quantized", False)
    assert {weight.dtype for weight in loaded.model.parameters()} == {torch.bfloat16}


def test_quantized_weights_are_dequantized(tiny_llama: LlamaForCausalLM, tmp_path: Path) -> None:
    loaded = load_model(str(write_gguf(tmp_path / "q.gguf", tiny_llama, quantized=True)))
    kind = gguf.GGMLQuantizationType.Q8_0
    name = "model.layers.1.mlp.up_proj.weight"
    packed = gguf.quantize(tiny_llama.get_parameter(name).numpy(force=True), kind)
    found = loaded.model.get_parameter(name).numpy(force=True)
    np.testing.assert_array_equal(found, gguf.dequantize(packed, kind))


def test_a_file_without_an_output_layer_ties_it_to_the_embedding(
    tiny_llama: LlamaForCausalLM, tmp_path: Path
) -> None:
    tiny_llama.config.tie_word_embeddings = True
    tiny_llama.tie_weights()
    whole = tiny_llama.state_dict
    tiny_llama.state_dict = lambda: {k: v for k, v in whole().items() if k != "lm_head.weight"}  # type: ignore[method-assign]
    loaded = load_model(str(write_gguf(tmp_path / "tied.gguf", tiny_llama)), device="cpu")
    assert loaded.model.lm_head.weight is loaded.model.model.embed_tokens.weight
    torch.testing.assert_close(loaded.model(IDS).logits, tiny_llama(IDS).logits)


def test_the_ends_of_answers_are_those_that_the_file_names(file: Path) -> None:
    assert load_model(str(file), device="cpu").model.generation_config.eos_token_id == [2, 5]


SCALINGS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "linear": ({"rope_type": "linear", "factor": 4.0}, {"rope_scaling_factor": 4.0}),
    "yarn": (
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32},
        {"rope_scaling_factor": 4.0, "rope_scaling_orig_ctx_len": 32},
    ),
    "llama3": (
        {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
        {},
    ),
    "longrope": (
        {
            "rope_type": "longrope",
            "long_factor": [1.0, 2.0, 3.0, 5.0],
            "short_factor": [1.0, 1.0, 1.5, 2.0],
            "original_max_position_embeddings": 32,
        },
        {"rope_scaling_orig_ctx_len": 32},
    ),
}


@pytest.mark.parametrize("kind", SCALINGS)
def test_the_scaling_of_positions_is_the_file_s(
    kind: str, tiny_llama: LlamaForCausalLM, tmp_path: Path
) -> None:
    scaling, fields = SCALINGS[kind]
    base = 500_000.0 if kind == "llama3" else 10_000.0
    plain = base ** -(torch.arange(4) / 4)
    tiny_llama.config.rope_parameters = {"rope_theta": base, **scaling}
    tiny_llama.config.max_position_embeddings = 16_384 if kind == "llama3" else 128
    scaled = LlamaForCausalLM(tiny_llama.config).eval()
    scaled.load_state_dict(tiny_llama.state_dict())
    tensors = {}
    if kind == "llama3":
        tensors["rope_freqs.weight"] = (plain / scaled.model.rotary_emb.inv_freq).numpy()
    if kind == "longrope":
        for name in ("long", "short"):
            values = np.array(scaling[f"{name}_factor"], dtype=np.float32)
            tensors[f"rope_factors_{name}.weight"] = values
    if kind in ("linear", "yarn"):
        fields = fields | {"rope_scaling_type": gguf.RopeScalingType(kind)}
    file = write_gguf(tmp_path / "scaled.gguf", scaled, tensors=tensors, **fields)
    loaded = load_model(str(file), device="cpu")
    torch.testing.assert_close(loaded.model(IDS).logits, scaled(IDS).logits)
    assert not torch.allclose(loaded.model(IDS).logits, tiny_llama(IDS).logits, atol=1e-3)


def test_a_scaling_that_cannot_be_put_is_refused(
    tiny_llama: LlamaForCausalLM, tmp_path: Path
) -> None:
    odd = {"rope_freqs.weight": np.array([1, 2, 9, 3], dtype=np.float32)}
    file = write_gguf(tmp_path / "odd.gguf", tiny_llama, tensors=odd)
    assert "scales its positions (rope_freqs) otherwise than Llama 3.1" in problem(file)


def test_a_directory_with_one_gguf_file_is_that_model(file: Path) -> None:
    assert load_model(str(file.parent), device="cpu").layout.id == str(file.parent)
    file.with_name("mmproj-tiny.gguf").touch()
    assert load_model(str(file.parent), device="cpu").layout.layers == 2
    (file.parent / "other.gguf").write_bytes(file.read_bytes())
    message = problem(file.parent, UsageError)
    assert "2 GGUF files are there; name the one you mean" in message
    assert str(file.parent / "other.gguf") in message


def test_a_part_of_a_model_says_how_to_join_them(file: Path) -> None:
    part = file.rename(file.with_name("big-00002-of-00003.gguf"))
    message = problem(part, UsageError)
    assert "part 2 of 3" in message
    assert "`llama-gguf-split --merge big-00001-of-00003.gguf big.gguf`" in message
    assert "part 2 of 3" in problem(part.parent, UsageError)


def test_a_renamed_part_is_known_by_its_header(
    tiny_llama: LlamaForCausalLM, tmp_path: Path
) -> None:
    file = write_gguf(tmp_path / "tiny.gguf", tiny_llama, description="0" * 20)
    plain = b"general.description" + struct.pack("<IQ", 8, 20) + b"0" * 20
    split = b"split.count" + struct.pack("<IH", 2, 3)
    rest = len(plain) - len(split) - 8 - 4 - 8
    filler = struct.pack("<Q", 1) + b"x" + struct.pack("<IQ", 8, rest - 1) + b"0" * (rest - 1)
    assert len(split) + len(filler) == len(plain)
    whole = file.read_bytes()
    at = whole.index(plain) - 8
    fields = struct.unpack_from("<Q", whole, 16)[0] + 1
    file.write_bytes(
        whole[:16]
        + struct.pack("<Q", fields)
        + whole[24:at]
        + struct.pack("<Q", len(b"split.count"))
        + split
        + filler
        + whole[at + 8 + len(plain) :]
    )
    assert "is one of 3 parts of a model" in problem(file, UsageError)


def test_a_missing_package_is_named(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headprobe.models.gguf.find_spec", lambda _: None)
    assert "pip install 'headprobe[gguf]'" in problem(file, UsageError)


def test_a_file_cut_short_is_named_wherever_it_ends(file: Path) -> None:
    whole = file.read_bytes()
    for size in (6, 20, 100, len(whole) // 20, len(whole) // 2, len(whole) - 64):
        file.write_bytes(whole[:size])
        assert "cut short" in problem(file)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda whole: b"PK\3\4" + whole[4:], "is no GGUF file: it begins with b'PK"),
        (lambda whole: b"", "is no GGUF file"),
        (lambda whole: whole[:4] + struct.pack("<I", 1) + whole[8:], "is GGUF version 1"),
        (lambda whole: whole[:4] + struct.pack(">I", 3) + whole[8:], "is big-endian"),
        (lambda whole: whole[:8] + struct.pack("<Q", 2**62) + whole[16:], "damaged"),
        (lambda whole: whole[:16] + struct.pack("<Q", 2**62) + whole[24:], "damaged"),
        (lambda whole: whole.replace(b"architecture", b"architektura"), "no architecture"),
        pytest.param(
            lambda whole: whole.replace(b"llama.feed", b"llame.feed"),
            "do not fit its configuration",
            marks=pytest.mark.slow,
        ),
        (lambda whole: b"version https://git-lfs.github.com/spec/v1\noid", "pointer of Git LFS"),
    ],
)
def test_a_damaged_or_foreign_file_is_one_line(
    file: Path, damage: Callable[[bytes], bytes], message: str
) -> None:
    file.write_bytes(damage(file.read_bytes()))
    assert message in problem(file)


def test_no_count_in_a_header_is_believed(file: Path) -> None:
    """An array of 2 ** 60 numbers keeps the package gguf busy for ever."""
    whole = file.read_bytes()
    at = whole.index(b"tokenizer.ggml.scores") + len(b"tokenizer.ggml.scores") + 8
    file.write_bytes(whole[:at] + struct.pack("<Q", 2**60) + whole[at + 8 :])
    with pytest.raises(HeadprobeError, match="damaged GGUF file or cut short"):
        read_header(file)


def test_a_hub_file_without_network_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    assert "not in the local cache, and no network" in problem("some/model:q4.gguf")
    assert "no such file; one of the hub is written owner/name:file.gguf" in problem(
        "missing.gguf", UsageError
    )
    assert "no such file" in problem("./missing.gguf", UsageError)


def test_a_cached_hub_file_loads_without_network(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    repository = cache / "models--some--model"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    file.rename(snapshot / "q4.gguf")
    loaded = load_model("some/model:q4.gguf", device="cpu")
    assert (loaded.name, loaded.layout.id) == ("some/model:q4.gguf", "some/model:q4.gguf")
    assert "some/model has no file q8.gguf" in problem("some/model:q8.gguf")
