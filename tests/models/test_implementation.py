from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig
from transformers.utils import import_utils

from headprobe.errors import HeadprobeWarning, UsageError
from headprobe.models.implementation import choose_attention

CUDA, CPU = torch.device("cuda"), torch.device("cpu")


def chosen(
    architecture: str = "llama",
    wanted: str | None = None,
    *,
    named: Any = None,
    device: torch.device = CPU,
    dtype: torch.dtype = torch.bfloat16,
    trust: bool = False,
) -> str | None:
    config = AutoConfig.for_model(architecture, _attn_implementation=named)
    choose_attention(config, wanted, name="x", device=device, dtype=dtype, trust=trust)
    implementation: str | None = config._attn_implementation
    return implementation


@pytest.fixture
def flash_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_utils, "is_flash_attn_2_available", lambda: True)


@pytest.mark.parametrize("named", [None, "sdpa", "eager"])
def test_what_can_run_is_taken_without_a_word(named: str | None) -> None:
    assert chosen(named=named) == named
    assert chosen("gemma2", named=None) == "eager"
    assert chosen("gemma2", named="sdpa") == "eager"


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ("flash_attention_2", "it runs on CUDA and not on cpu"),
        ("flex_attention", "it does not show what each head attends to"),
        ("somebody/kernel", "it does not show what each head attends to"),
        (
            "somebody/flash-kernel",
            "is code: read it, then give `trust_remote_code`",
        ),
        ("kernels-community/flash-attn2", "a kernel of the hub is code"),
        ("paged|eager", "it is unknown; choose sdpa, eager"),
        ("x" * 500, "it is unknown"),
    ],
)
def test_a_kernel_that_cannot_be_used_gives_way_to_sdpa_with_a_line(
    named: str, message: str
) -> None:
    with pytest.warns(HeadprobeWarning) as said:
        assert chosen(named=named) is None
    assert message in str(said[0].message)
    assert str(said[0].message).endswith("going on with SDPA")
    assert len(str(said[0].message)) < 250


def test_a_kernel_of_a_part_of_the_model_is_not_fetched_either() -> None:
    config = AutoConfig.for_model("gemma3", text_config={"_attn_implementation": "somebody/kernel"})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", HeadprobeWarning)
        choose_attention(config, None, name="x", device=CPU, dtype=torch.float32, trust=False)
    assert config.text_config._attn_implementation is None
    assert config.vision_config._attn_implementation is None


@pytest.mark.usefixtures("flash_installed")
def test_flash_attention_runs_on_cuda_in_half_precision() -> None:
    assert chosen(named="flash_attention_2", device=CUDA) == "flash_attention_2"
    assert chosen(wanted="flash_attention_2", device=CUDA) == "flash_attention_2"
    with pytest.raises(UsageError, match="does not compute in float32; give `dtype=bfloat16`"):
        chosen(wanted="flash_attention_2", device=CUDA, dtype=torch.float32)
    with pytest.raises(UsageError, match="it is not for this model; choose sdpa, eager"):
        chosen("gpt_oss", "flash_attention_2", device=CUDA)


def test_a_wanted_kernel_that_cannot_run_is_wrong_usage() -> None:
    for wanted, message in (
        ("flash_attention_2", "it runs on CUDA and not on cpu; choose sdpa, eager"),
        ("flex_attention", "it does not show what each head attends to"),
        ("fastest", "it is unknown; choose sdpa, eager, flash_attention_2"),
    ):
        with pytest.raises(UsageError, match=f"attention={wanted}: {message}"):
            chosen(wanted=wanted)
    with pytest.raises(UsageError, match="needs the package flash-attn"):
        chosen(wanted="flash_attention_2", device=CUDA)
    with pytest.raises(UsageError, match="SDPA cannot compute that of a 'gemma2' model"):
        chosen("gemma2", "sdpa")


def test_a_trusted_kernel_needs_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "kernels-community/flash-attn2"
    monkeypatch.setattr("headprobe.models.implementation.find_spec", lambda _: None)
    with pytest.raises(UsageError, match="pip install kernels"):
        chosen(wanted=name, device=CUDA, trust=True)
    monkeypatch.setattr("headprobe.models.implementation.find_spec", lambda _: Path())
    assert chosen(named=name, device=CUDA, trust=True) == name


def test_implementations_of_experts_are_not_fetched_either() -> None:
    config = AutoConfig.for_model("mixtral", _experts_implementation="somebody/kernel")
    choose_attention(config, None, name="x", device=CPU, dtype=torch.float32, trust=False)
    assert config._experts_implementation is None
