"""Files of models, damaged: each is read, or refused by one line, and nothing else happens."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from headprobe.errors import HeadprobeError, HeadprobeWarning, UsageError
from headprobe.models.loading import load_model
from headprobe.prompts.style import PromptWriter
from tests._support.mutations import mutations

COUNTS = {
    "config.json": 60,
    "generation_config.json": 30,
    "tokenizer.json": 40,
    "tokenizer_config.json": 40,
}


@pytest.fixture
def model(tiny_llama: Any, tmp_path: Path) -> Path:
    words = {f"w{index}": index for index in range(60)} | {"a": 60, "<s>": 61, "<unk>": 62}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tiny_llama.save_pretrained(tmp_path / "model")
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>"
    ).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def outcome(directory: Path) -> str:
    """Read a model and frame a prompt; return "read", or the line of the refusal."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=HeadprobeWarning)
            loaded = load_model(str(directory), device="cpu")
            PromptWriter(loaded.tokenizer).chat_affixes()
            PromptWriter(loaded.tokenizer).pieces.encode("w1 w2")
    except HeadprobeError as error:
        return str(error)
    return "read"


@pytest.mark.parametrize("name", COUNTS)
def test_a_damaged_file_is_read_or_refused_by_one_line(
    model: Path, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    whole = (model / name).read_text()
    found = []
    for damaged in mutations(whole, count=COUNTS[name], seed=len(name)):
        (model / name).write_bytes(damaged)
        found.append(outcome(model))
        assert "\n" not in found[-1]
        assert len(found[-1]) < 600
    assert 0 < found.count("read") < len(found)
    (model / name).write_text(whole)
    assert outcome(model) == "read"
    out, err = capfd.readouterr()
    # What the Rust code of tokenizers before 0.23 prints over a vocabulary with holes.
    assert [line for line in out.splitlines() if not line.startswith("The OrderedVocab")] == []
    assert err == ""


def of_another_shape(index: dict[str, Any]) -> Any:
    return list(index["weight_map"])


def elsewhere(index: dict[str, Any]) -> Any:
    return index | {"weight_map": dict.fromkeys(index["weight_map"], "../other/model.safetensors")}


def absolute(index: dict[str, Any]) -> Any:
    return index | {"weight_map": dict.fromkeys(index["weight_map"], "/etc/passwd")}


def missing(index: dict[str, Any]) -> Any:
    return index | {"weight_map": dict.fromkeys(index["weight_map"], "model-9.safetensors")}


def of_numbers(index: dict[str, Any]) -> Any:
    return index | {"weight_map": dict.fromkeys(index["weight_map"], 7)}


def nested(index: dict[str, Any]) -> Any:
    return {"weight_map": {"a": index}}


@pytest.mark.parametrize(
    "damage", [of_another_shape, elsewhere, absolute, missing, of_numbers, nested]
)
def test_an_index_of_weights_names_files_beside_it(model: Path, damage: Any) -> None:
    names = [name for name, _ in load_model(str(model), device="cpu").model.named_parameters()]
    (model / "model.safetensors").rename(model / "model-1.safetensors")
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, "model-1.safetensors")}
    path = model / "model.safetensors.index.json"
    path.write_text(json.dumps(index))
    assert outcome(model) == "read"
    path.write_text(json.dumps(damage(index)))
    assert str(model) in outcome(model)
    path.write_text("[" * 100_000)
    assert str(model) in outcome(model)


SPINS = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
FILLS = (
    "{% set x = namespace(a=[1]) %}{% for i in range(40) %}{% set x.a = x.a + x.a %}{% endfor %}"
)
TEMPLATES = {
    "{{ 1 / 0 }}": "division by zero",
    "{% include 'other' %}": "no loader",
    "{% import 'other' as other %}": "no loader",
    "{% extends 'other' %}": "no loader",
    "{{ ''.__class__.__mro__ }}": "unsafe",
    "{{ cycler.__init__.__globals__ }}": "unsafe",
    "{{ raise_exception('first\nsecond\x1b[31m') }}": "first;",
    "{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}": "recursion",
    "{{ messages": "unexpected end of template",
    "{{ messages[7].content }}": "no element 7",
    "{{ 'no place for the user' }}": "drops the user's text",
    "{{ 9 ** 9 ** 9 ** 9 }}": "to a power",
    "{{ 'x' * 99999999999 }}": "MemoryError",
    "{{ 'x' * 9999999 }}{{ messages[0].content }}": "characters around a question",
    SPINS: "it takes more than",
    FILLS: "MemoryError",
}


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_chat_template_is_used_or_refused_by_one_line(
    model: Path, template: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if template == SPINS:
        monkeypatch.setattr("headprobe.prompts.template._SECONDS", 0.2)
    monkeypatch.setattr("headprobe.prompts.template._BYTES", 2**27)
    loaded = load_model(str(model), device="cpu")
    loaded.tokenizer.chat_template = template
    with pytest.raises(UsageError) as error:
        PromptWriter(loaded.tokenizer, style="chat").chat_affixes()
    assert TEMPLATES[template] in str(error.value)
    assert "`chat_template`" in str(error.value)
    assert "\n" not in str(error.value)
