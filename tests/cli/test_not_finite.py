"""A model that overflows stops score, evaluate and ablate at the first prompt, with the layer."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import BloomConfig, BloomForCausalLM, PreTrainedTokenizerFast

from headprobe.models.loading import load_model
from tests._support.command_line import refusal, succeed

CASES = ["--lengths", "400", "--depths", "0,100", "--limit", "2", "--device", "cpu"]
LINE = "the output of layer 2 is not finite in float16; try `dtype=bfloat16`"


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a nano whose layer 2 float16 cannot hold, scored in float32."""
    folder = tmp_path_factory.mktemp("work")
    nano = load_model("nano", device="cpu")
    with torch.no_grad():
        mlp = nano.model.model.layers[2].mlp
        mlp.up_proj.weight.mul_(1e3)
        mlp.down_proj.weight.mul_(1e3)
    nano.model.save_pretrained(folder / "hot")
    nano.tokenizer.save_pretrained(folder / "hot")
    return folder


@pytest.fixture
def inside(work: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(work)
    scored = ["score", "--model", "./hot", *CASES, "--decode", "forced", "--out", "scored"]
    succeed(*scored)
    return work


@pytest.mark.parametrize("decode", ["greedy", "forced"])
@pytest.mark.slow
def test_scoring_stops_at_the_first_case(inside: Path, decode: str) -> None:
    half = ["--dtype", "float16", "--decode", decode, "--out", f"half-{decode}"]
    assert LINE in refusal("score", "--model", "./hot", *CASES, *half).message
    assert not (inside / f"half-{decode}" / "scores.safetensors").exists()


def test_a_task_that_only_reads_stops_too(inside: Path) -> None:
    half = ["--dtype", "float16", "--device", "cpu", "--lengths", "128", "--limit", "2"]
    assert LINE in refusal("score", "--model", "./hot", "--task", "razor", *half).message


@pytest.mark.slow
def test_evaluation_and_ablation_stop_at_the_first_question(inside: Path) -> None:
    half = ["--model", "./hot", *CASES, "--dtype", "float16"]
    assert LINE in refusal("evaluate", "--scores", "scored", "--budget", "16", *half).message
    assert LINE in refusal("ablate", "scored", "--top-k", "1", *half).message
    mean = ["--ablation", "mean", "--out", "mean"]
    assert LINE in refusal("ablate", "scored", "--top-k", "1", *mean, *half).message


@pytest.fixture(scope="module")
def huge(work: Path) -> Path:
    """A nano whose layer 2 puts out numbers that make every later norm put out zeros."""
    nano = load_model("nano", device="cpu")
    with torch.no_grad():
        nano.model.model.layers[2].mlp.down_proj.weight.mul_(1e30)
    nano.model.save_pretrained(work / "huge")
    nano.tokenizer.save_pretrained(work / "huge")
    return work / "huge"


def test_huge_finite_numbers_are_no_scores_and_no_accuracy(inside: Path, huge: Path) -> None:
    told = "the output of layer 2 reaches .* is model.layers.2.mlp.down_proj.weight"
    model = ["--model", str(huge), "--device", "cpu"]
    razor = ["--task", "razor", "--lengths", "128", "--limit", "2", "--out", "razor"]
    assert re.search(told, refusal("score", *model, *razor).message)
    reads = ["--task", "stability", "--lengths", "256", "--limit", "2", "--out", "reads"]
    assert re.search(told, refusal("score", *model, *reads).message)
    asked = [*model, *CASES[:-2]]
    assert re.search(told, refusal("ablate", "scored", "--top-k", "1", *asked).message)
    evaluate = ["evaluate", "--scores", "scored", "--budget", "16", *asked]
    assert re.search(told, refusal(*evaluate).message)
    assert not list(inside.rglob("razor/scores.safetensors"))


def test_a_damaged_weight_is_named_in_a_task_that_reads_weights(tmp_path: Path) -> None:
    config = BloomConfig(vocab_size=64, hidden_size=32, n_layer=2, n_head=4)
    bloom = BloomForCausalLM(config)
    bloom.transformer.h[1].self_attention.query_key_value.weight.data[3] = torch.nan
    bloom.save_pretrained(tmp_path / "bloom")
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(64)}))
    PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(tmp_path / "bloom")
    run = ["--task", "alibi", "--device", "cpu", "--out", str(tmp_path / "out")]
    message = refusal("score", "--model", str(tmp_path / "bloom"), *run).message
    weight = "transformer.h.1.self_attention.query_key_value.weight"
    assert re.search(rf"the weight {weight} is not finite in float32; download", message)
