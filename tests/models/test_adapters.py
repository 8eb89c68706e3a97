from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from safetensors.torch import load_file

from headprobe.errors import HeadprobeError, UsageError
from headprobe.models.loading import load_model
from headprobe.runs.directory import directory_for

# peft asks for what transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")


@pytest.fixture
def adapter(tiny_llama: Any, tmp_path: Path) -> Path:
    """A LoRA that changes the answers of ``tiny_llama``."""
    return save_adapter(tiny_llama, tmp_path / "lora")


def save_adapter(model: Any, path: Path) -> Path:
    torch.manual_seed(1)
    config = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    adapted: Any = get_peft_model(model, config)
    adapted.peft_config["default"].base_model_name_or_path = "some/base"
    adapted.save_pretrained(path, save_embedding_layers=False)
    adapted.unload()
    return path


def problem(expected: type[HeadprobeError] = HeadprobeError, **options: Any) -> str:
    with pytest.raises(HeadprobeError) as error:
        load_model(options.pop("model"), device="cpu", **options)
    assert type(error.value) is expected
    assert "\n" not in str(error.value)
    return str(error.value)


def test_an_adapter_is_merged_into_a_plain_model(
    directory: Path, adapter: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = load_model(str(directory), device="cpu")
    loaded = load_model(str(directory), device="cpu", adapter=adapter)
    assert capsys.readouterr() == ("", "")
    assert type(loaded.model) is type(plain.model)
    assert [*loaded.model.state_dict()] == [*plain.model.state_dict()]
    assert not any(weight.requires_grad for weight in loaded.model.parameters())
    assert loaded.fingerprint != plain.fingerprint
    assert loaded.layout.id == f"{directory}+lora"
    lora = load_file(adapter / "adapter_model.safetensors")
    prefix = "base_model.model.model.layers.1.self_attn.v_proj.lora_"
    scaling = json.loads((adapter / "adapter_config.json").read_text())["lora_alpha"] / 2
    change = scaling * lora[f"{prefix}B.weight"] @ lora[f"{prefix}A.weight"]
    name = "model.layers.1.self_attn.v_proj.weight"
    wanted = plain.model.get_parameter(name) + change
    torch.testing.assert_close(loaded.model.get_parameter(name).data, wanted.data)


def test_results_of_a_merged_model_are_filed_apart(directory: Path, adapter: Path) -> None:
    loaded = load_model(str(directory), device="cpu", adapter=adapter)
    assert str(directory_for(loaded.label, "r2")) == "outputs/tiny+lora/r2"


def test_a_folder_that_holds_an_adapter_names_its_base_model(adapter: Path) -> None:
    message = problem(UsageError, model=str(adapter))
    assert "an adapter of some/base lies there, no model" in message
    assert f"give `model=some/base` and `adapter={adapter}`" in message
    (adapter / "adapter_config.json").write_text("{}")
    assert "it names no base_model_name_or_path" in problem(model=str(adapter))


def test_what_is_no_adapter_is_wrong_usage(
    directory: Path, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = problem(UsageError, model=str(directory), adapter=tmp_path)
    assert "no adapter_config.json there" in message
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    message = problem(UsageError, model=str(directory), adapter=adapter)
    assert "no adapter_model.safetensors there" in message
    (adapter / "adapter_model.bin").rename(adapter / "adapter_model.safetensors")
    monkeypatch.setattr("headprobe.models.adapters.find_spec", lambda _: None)
    message = problem(UsageError, model=str(directory), adapter=adapter)
    assert "pip install 'headprobe[peft]'" in message


def test_an_adapter_of_another_model_is_one_line(
    directory: Path, tiny_llama: Any, tmp_path: Path
) -> None:
    config = type(tiny_llama.config)(**tiny_llama.config.to_dict() | {"num_hidden_layers": 3})
    deeper = save_adapter(type(tiny_llama)(config), tmp_path / "deeper")
    message = problem(model=str(directory), adapter=deeper)
    assert "does not fit the model: it has no place for base_model.model.model.layers.2" in message
    config = type(tiny_llama.config)(**tiny_llama.config.to_dict() | {"hidden_size": 64})
    wider = save_adapter(type(tiny_llama)(config), tmp_path / "wider")
    message = problem(model=str(directory), adapter=wider)
    assert f"cannot read the adapter {wider}" in message
    assert "trained on some/base" in message


def test_an_adapter_that_is_no_change_of_weights_is_refused(
    directory: Path, tiny_llama: Any, tmp_path: Path
) -> None:
    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    prompted: Any = get_peft_model(tiny_llama, config)
    prompted.save_pretrained(tmp_path / "prompt", save_embedding_layers=False)
    message = problem(model=str(directory), adapter=tmp_path / "prompt")
    assert "cannot be merged into weights: a LoRA is wanted" in message


@pytest.mark.parametrize("damage", [b"", b"\x00" * 64, b"version https://git-lfs"])
def test_a_damaged_adapter_is_one_line(directory: Path, adapter: Path, damage: bytes) -> None:
    (adapter / "adapter_model.safetensors").write_bytes(damage)
    assert f"cannot read the adapter {adapter}" in problem(model=str(directory), adapter=adapter)
