from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig

from headprobe.errors import HeadprobeError
from headprobe.models.loading import load_model

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 99\n"


def change(file: Path, **fields: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def problem(directory: Path) -> str:
    with pytest.raises(HeadprobeError) as error:
        load_model(str(directory), device="cpu")
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400
    return str(error.value)


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json"])
def test_a_pointer_of_git_lfs_is_named(directory: Path, file: str) -> None:
    (directory / file).write_text(POINTER)
    message = problem(directory)
    assert f"{directory / file} is a pointer of Git LFS" in message
    assert f"run `git lfs pull` in {directory}" in message


@pytest.mark.parametrize(
    ("field", "count"),
    [("num_hidden_layers", 10**6), ("num_hidden_layers", 10**30), ("num_local_experts", 10**7)],
)
def test_counts_that_no_model_has_are_refused_before_anything_is_built(
    directory: Path, field: str, count: int
) -> None:
    change(directory / "config.json", **{field: count})
    assert f"the config.json of {directory} gives {field} " in problem(directory)


@pytest.mark.parametrize("field", ["vocab_size", "hidden_size", "intermediate_size"])
def test_sizes_beyond_the_weights_are_refused_before_memory_is_taken(
    directory: Path, field: str, tiny_llama: Any
) -> None:
    held = sum(weight.numel() for weight in tiny_llama.parameters())
    change(directory / "config.json", **{field: 2**31})
    message = problem(directory)
    assert f"its weight files hold {held:,}: they do not belong together" in message


def test_weights_of_another_kind_of_file_bound_the_sizes_too(
    directory: Path, tiny_llama: Any
) -> None:
    (directory / "model.safetensors").unlink()
    torch.save(tiny_llama.state_dict(), directory / "pytorch_model.bin")
    assert load_model(str(directory), device="cpu").layout.layers == 2
    change(directory / "config.json", vocab_size=2**31)
    assert "they do not belong together" in problem(directory)


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        ({"a": "../other/model.safetensors"}, "names a file elsewhere, '../other/model.safe"),
        ({"a": "/etc/passwd"}, "names a file elsewhere"),
        ({"a": "..\\model.safetensors"}, "names a file elsewhere"),
        ({"a": 7}, "names a file elsewhere"),
        ([], "has no weight_map"),
        (None, "has no weight_map"),
        ({"a": "model-00002-of-00002.safetensors"}, "lacks model-00002-of-00002.safetensors"),
    ],
)
def test_an_index_names_files_beside_itself(directory: Path, weight_map: Any, message: str) -> None:
    weights = directory / "model.safetensors"
    weights.rename(directory / "model-00001-of-00002.safetensors")
    index = directory / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    assert message in problem(directory)


def test_weights_that_config_json_looks_for_elsewhere_are_refused(directory: Path) -> None:
    change(directory / "config.json", transformers_weights="../other.safetensors")
    assert "names weights elsewhere: '../other.safetensors'" in problem(directory)


@pytest.mark.parametrize(
    ("quantization", "message"),
    [
        ({"quant_method": "gptq", "bits": 4}, "with gptq, .* pip install optimum gptqmodel"),
        ({"quant_method": "awq", "bits": 4}, "with awq, .* pip install gptqmodel"),
        ({"load_in_4bit": True}, "with bitsandbytes, .* pip install bitsandbytes accelerate"),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "with bitsandbytes"),
    ],
)
def test_a_quantized_checkpoint_names_the_package_that_reads_it(
    directory: Path,
    quantization: dict[str, Any],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("headprobe.models.checkpoint.find_spec", lambda _: None)
    change(directory / "config.json", quantization_config=quantization)
    with pytest.raises(HeadprobeError, match=message):
        load_model(str(directory), device="cpu")


def test_a_kernel_that_config_json_names_is_not_fetched(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched: list[str] = []
    monkeypatch.setattr(
        "transformers.modeling_utils.lazy_import_flash_attention",
        lambda name, **_: fetched.append(name),
    )
    for field in ("_attn_implementation", "attn_implementation"):
        change(directory / "config.json", **{field: "somebody/kernel"})
        with pytest.warns(UserWarning, match="going on with SDPA"):
            assert load_model(str(directory), device="cpu").attention == "sdpa"
    assert fetched == []


# What third-party code raises over these: a zero is divided by, a key is missing, a type is wrong,
# a list nests too deep, Rust panics.
CONFIGURATIONS: list[dict[str, Any]] = [
    {"num_key_value_heads": 0},
    {"hidden_act": "nosuch"},
    {"rope_parameters": {"rope_type": "nosuch"}},
    {"rope_parameters": []},
    {"hidden_size": "x"},
    # Older releases read no types of the layers of a llama.
    {"model_type": "qwen2", "layer_types": 7},
    {"dtype": "float7"},
    {"sliding_window": {"a": 1}},
]


@pytest.mark.parametrize("fields", CONFIGURATIONS)
def test_a_configuration_that_nothing_can_be_made_of_is_one_line(
    directory: Path, fields: dict[str, Any]
) -> None:
    change(directory / "config.json", **fields)
    assert f"of {directory}" in problem(directory)


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000])
def test_a_file_of_another_shape_is_one_line(directory: Path, file: str, text: str) -> None:
    (directory / file).write_text(text)
    assert str(directory) in problem(directory)


def test_a_tokenizer_that_fails_at_the_first_text_is_one_line(directory: Path) -> None:
    change(directory / "tokenizer_config.json", model_max_length={"a": 1})
    assert f"cannot read the tokenizer of {directory}: TypeError" in problem(directory)


def test_ends_of_answers_that_are_no_tokens_are_one_line(directory: Path) -> None:
    change(directory / "generation_config.json", eos_token_id=["x"])
    assert "gives eos_token_id 'x', which is no token" in problem(directory)


def test_a_configuration_of_another_model_is_one_line(directory: Path) -> None:
    (directory / "config.json").write_text(AutoConfig.for_model("mamba").to_json_string())
    assert "'mamba' model has no attention heads" in problem(directory)
