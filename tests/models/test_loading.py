from __future__ import annotations

import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils import logging

from headprobe.errors import HeadprobeError, UsageError
from headprobe.models import bundled as bundled_module
from headprobe.models.aliases import ALIASES, NANO, Alias
from headprobe.models.bundled import bundled
from headprobe.models.config import head_layout, read_layout
from headprobe.models.loading import load_model
from tests._support.refusals import refused
from tests._support.refused_models import change_json, problem


def change_config(directory: Path, **fields: Any) -> None:
    change_json(directory / "config.json", **fields)


def test_a_directory_loads_ready_to_read(
    directory: Path, tiny_llama: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded = load_model(str(directory), device="cpu")
    assert capsys.readouterr() == ("", "")
    assert (loaded.name, loaded.max_context, loaded.dtype) == (str(directory), 128, "float32")
    layout = loaded.layout
    assert (layout.id, layout.architecture) == (str(directory), "llama")
    assert (layout.layers, layout.num_heads, layout.num_kv_heads, layout.head_dim) == (2, 4, 2, 8)
    assert not loaded.model.training
    assert not any(weight.requires_grad for weight in loaded.model.parameters())
    ids = torch.tensor([loaded.tokenizer.encode("w5 w7 w9")]).to(loaded.device)
    assert torch.equal(loaded.model(ids).logits, tiny_llama(ids).logits)


def test_other_weights_have_another_fingerprint(directory: Path, tiny_llama: Any) -> None:
    before = load_model(str(directory), device="cpu").fingerprint
    assert load_model(str(directory), device="cpu").fingerprint == before
    with torch.no_grad():
        tiny_llama.model.layers[0].mlp.up_proj.weight.add_(0.01)
    tiny_llama.save_pretrained(directory)
    assert load_model(str(directory), device="cpu").fingerprint != before


def test_the_cpu_computes_in_float32_unless_told_otherwise(
    directory: Path, tiny_llama: Any
) -> None:
    tiny_llama.bfloat16().save_pretrained(directory)
    assert load_model(str(directory), device="cpu").dtype == "float32"
    assert load_model(str(directory), device="cpu", dtype="bfloat16").dtype == "bfloat16"


def test_settings_of_transformers_are_as_before(directory: Path) -> None:
    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    load_model(str(directory), device="cpu")
    problem(directory / "nothing", UsageError)
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("tpu9", "expected auto, cpu"),
        ("cuda:99", ""),
        ("cpu:7", "there are 1 here"),
        ("cpu:x", "expected auto, cpu"),
        ("xpu:99", ""),
        ("hpu", "expected auto, cpu"),
        ("mkldnn", "expected auto, cpu"),
        ("meta", "expected auto, cpu"),
    ],
)
def test_a_wrong_device_is_wrong_usage(directory: Path, device: str, message: str) -> None:
    with refused(message, option="device", value=device):
        load_model(str(directory), device=device)


def test_a_wrong_dtype_is_wrong_usage(directory: Path) -> None:
    with refused("expected auto, float32", option="dtype", value="float7"):
        load_model(str(directory), device="cpu", dtype="float7")


def test_a_device_map_without_accelerate_is_wrong_usage(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headprobe.models.options.find_spec", lambda _: None)
    with refused(r"pip install 'headprobe\[accelerate\]'", option="device_map", value="auto"):
        load_model(str(directory), device_map="auto")


def test_a_path_without_a_model_is_wrong_usage(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    assert "no such directory" in problem(tmp_path / "missing", UsageError)
    assert "no such directory" in problem("./missing", UsageError)
    assert "no such directory" in problem("~/missing-model", UsageError)
    assert "no such directory" in problem(tmp_path / "file", UsageError)
    assert "no config.json" in problem(tmp_path, UsageError)
    assert "neither an alias nor a hub id" in problem("a/b/c", UsageError)


def test_damaged_weights_are_named(directory: Path) -> None:
    file = directory / "model.safetensors"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    assert "cannot read the weights" in problem(directory)
    file.write_bytes(b"hello")
    assert "cannot read the weights" in problem(directory)
    file.unlink()
    assert "no file named model.safetensors" in problem(directory)


def test_weights_that_do_not_fit_the_configuration_are_named(directory: Path) -> None:
    change_config(directory, num_hidden_layers=3)
    assert "9 are missing or of another shape, model.layers.2." in problem(directory)
    change_config(directory, num_hidden_layers=2, intermediate_size=48)
    assert "6 are missing or of another shape, model.layers.0.mlp." in problem(directory)


def test_a_damaged_configuration_is_named(directory: Path) -> None:
    change_config(directory, model_type="nosuch")
    assert "model type `nosuch`" in problem(directory)
    (directory / "config.json").write_text("{")
    assert "not a valid JSON file" in problem(directory)


def test_heads_that_cannot_be_are_named(directory: Path) -> None:
    unreadable = f"cannot read the configuration of {directory}: "
    change_config(directory, num_attention_heads=8, num_key_value_heads=3, head_dim=4)
    assert f"{unreadable}expected heads to be a multiple of kv_heads" in problem(directory)
    with pytest.raises(HeadprobeError, match=unreadable):
        read_layout(directory)
    change_config(directory, num_attention_heads=0)
    assert unreadable in problem(directory)


def test_a_missing_or_damaged_tokenizer_is_named(directory: Path) -> None:
    (directory / "tokenizer.json").write_text("{")
    assert "cannot read the tokenizer" in problem(directory)
    for file in directory.glob("tokenizer*"):
        file.unlink()
    assert "has no tokenizer" in problem(directory)
    change_config(directory, model_type="gpt2")
    (directory / "tokenizer_config.json").write_text("{}")
    assert "it has no words" in problem(directory)


@pytest.mark.parametrize("architecture", ["t5", "bart", "vit"])
def test_a_model_that_is_not_causal_is_refused(directory: Path, architecture: str) -> None:
    (directory / "config.json").write_text(AutoConfig.for_model(architecture).to_json_string())
    assert f"is a '{architecture}' model, no causal language model" in problem(directory)


def test_an_encoder_that_loads_as_a_decoder_is_refused(directory: Path) -> None:
    size = {"hidden_size": 16, "intermediate_size": 16, "vocab_size": 64}
    config = AutoConfig.for_model("bert", num_hidden_layers=1, num_attention_heads=2, **size)
    AutoModelForCausalLM.from_config(config).save_pretrained(directory)
    assert "is a 'bert' model, no causal language model" in problem(directory)


def test_foreign_code_is_not_run_unasked(directory: Path) -> None:
    change_config(directory, model_type="foreign", auto_map={"AutoConfig": "foreign.Config"})
    (directory / "foreign.py").write_text("raise SystemExit('run')")
    assert "`trust_remote_code`" in problem(directory)


@pytest.mark.usefixtures("offline")
def test_a_hub_model_without_network_is_one_clear_line() -> None:
    llama = "meta-llama/Meta-Llama-3-8B-Instruct"
    with refused("no network", kind=HeadprobeError, option="model", value=llama):
        load_model("llama3-8b", device="cpu")
    message = problem("llama3-8b")
    assert f"`hf download {llama}`" in message
    assert "give a local directory" in message
    # A path that is not there looks like a hub id.
    assert problem("models/mine").startswith("model=models/mine: no directory of that name, ")


@pytest.mark.usefixtures("offline")
def test_without_network_a_misspelt_alias_is_said_to_be_none() -> None:
    wanted = "not an alias .see `headprobe list models`.*no network"
    with refused(wanted, kind=HeadprobeError, option="model", value="typo"):
        load_model("typo", device="cpu")


def test_a_cached_hub_model_loads_without_network(directory: Path, offline: Path) -> None:
    repository = offline / "models--some--model"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    shutil.copytree(directory, repository / "snapshots" / ("0" * 40))
    loaded = load_model("some/model", device="cpu")
    assert (loaded.name, loaded.layout.id) == ("some/model", "some/model")


@pytest.mark.parametrize(
    ("architecture", "fields", "kv_heads", "head_dim"),
    [
        ("llama", {}, 4, 8),
        ("llama", {"num_key_value_heads": 2}, 2, 8),
        ("qwen3", {"num_key_value_heads": 2, "head_dim": 16}, 2, 16),
        ("gpt2", {}, 4, 8),
        ("opt", {}, 4, 8),
        ("gpt_neox", {}, 4, 8),
        ("gpt_bigcode", {}, 1, 8),
        ("gpt_bigcode", {"multi_query": False, "n_head": 4}, 4, 8),
        ("falcon", {}, 1, 8),
        ("falcon", {"multi_query": False}, 4, 8),
        ("falcon", {"new_decoder_architecture": True, "num_kv_heads": 2}, 2, 8),
        ("bloom", {"n_layer": 3, "n_head": 4}, 4, 8),
        ("deepseek_v3", {"num_key_value_heads": 4, "v_head_dim": 12}, 4, 192),
    ],
)
def test_the_layout_follows_the_configuration(
    architecture: str, fields: dict[str, Any], kv_heads: int, head_dim: int
) -> None:
    size = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
    layout = head_layout(AutoConfig.for_model(architecture, **size | fields), id="x")
    assert (layout.id, layout.architecture, layout.layers, layout.num_heads) == (
        "x",
        architecture,
        3,
        4,
    )
    assert (layout.num_kv_heads, layout.head_dim) == (kv_heads, head_dim)


def test_the_layout_of_a_model_with_vision_is_that_of_its_text_part() -> None:
    text = {"num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2}
    layout = head_layout(AutoConfig.for_model("gemma3", text_config=text), id="x")
    assert (layout.layers, layout.num_heads, layout.num_kv_heads, layout.head_dim) == (3, 4, 2, 256)


def test_a_model_without_attention_has_no_layout() -> None:
    with pytest.raises(HeadprobeError, match="'mamba' model has no attention heads"):
        head_layout(AutoConfig.for_model("mamba"), id="x")


def test_every_alias_but_nano_is_a_hub_id() -> None:
    assert len(ALIASES) >= 25
    assert ALIASES["llama3-8b"].repository == "meta-llama/Meta-Llama-3-8B-Instruct"
    for alias, model in ALIASES.items():
        assert alias == NANO or model.repository.count("/") == 1
        assert model.num_heads % model.num_kv_heads == 0
    assert len({model.repository for model in ALIASES.values()}) == len(ALIASES)


# Where transformers' defaults are the configuration of a published model.
@pytest.mark.parametrize(
    ("alias", "architecture", "checked"),
    [
        ("llama4-scout", "llama4_text", ("layers", "num_heads", "num_kv_heads")),
        ("mistral-7b", "mistral", ("layers", "num_heads", "num_kv_heads")),
        ("mixtral-8x7b", "mixtral", ("layers", "num_heads", "num_kv_heads")),
        ("gemma2-2b", "gemma2", ("layers", "num_heads", "num_kv_heads", "max_context")),
        ("phi3-mini", "phi3", ("layers", "num_heads", "num_kv_heads")),
        ("glm4-9b", "glm4", ("layers", "num_heads", "num_kv_heads")),
        ("glm4.5-air", "glm4_moe", ("layers", "num_heads", "num_kv_heads", "max_context")),
        ("gpt-oss-120b", "gpt_oss", ("layers", "num_heads", "num_kv_heads", "max_context")),
        ("smollm3-3b", "smollm3", ("layers", "num_heads", "num_kv_heads")),
        ("command-r", "cohere", ("layers", "num_heads", "num_kv_heads", "max_context")),
    ],
)
def test_an_alias_agrees_with_the_defaults_of_transformers(
    alias: str, architecture: str, checked: tuple[str, ...]
) -> None:
    config = AutoConfig.for_model(architecture)
    found = asdict(head_layout(config, id="x")) | {"max_context": config.max_position_embeddings}
    assert all(getattr(ALIASES[alias], field) == found[field] for field in checked)


@pytest.mark.usefixtures("offline")
def test_an_alias_whose_model_is_another_is_one_clear_line(
    directory: Path, offline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = offline / "models--some--model"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    shutil.copytree(directory, repository / "snapshots" / ("0" * 40))
    right = Alias(repository="some/model", layers=2, num_heads=4, num_kv_heads=2, max_context=128)
    for alias in (right, replace(right, max_context=None)):
        monkeypatch.setitem(ALIASES, "tiny", alias)
        assert load_model("tiny", device="cpu").layout.id == "some/model"
    for changes, found in (
        ({"layers": 3}, "layers 2, expected 3"),
        ({"num_heads": 8}, "num_heads 4, expected 8"),
        ({"num_kv_heads": 4}, "num_kv_heads 2, expected 4"),
        ({"max_context": 4096}, "max_context 128, expected 4096"),
    ):
        monkeypatch.setitem(ALIASES, "tiny", replace(right, **changes))
        message = problem("tiny")
        assert f"some/model is not what tiny stands for: its config.json gives {found}" in message


def test_bundled_files_are_found_in_the_package_or_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundled_module, "_PACKAGE", tmp_path / "headprobe")
    with pytest.raises(HeadprobeError, match=r"needles/one\.jsonl is missing"):
        bundled("needles", "one.jsonl")
    for data in (tmp_path / "data", tmp_path / "headprobe" / "data"):
        (data / "needles").mkdir(parents=True)
        (data / "needles" / "one.jsonl").touch()
        assert bundled("needles", "one.jsonl") == data / "needles" / "one.jsonl"
