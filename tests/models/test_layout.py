from typing import Any

import pytest

from headprobe.models.layout import SIZES, HeadLayout, check_same_heads
from tests._support.refusals import refused

FIELDS: dict[str, Any] = {
    "id": "meta-llama/Meta-Llama-3-8B",
    "architecture": "LlamaForCausalLM",
    "layers": 32,
    "heads": 32,
    "kv_heads": 8,
    "head_dim": 128,
}


def test_the_json_of_a_layout_is_the_contracts_and_reads_back() -> None:
    layout = HeadLayout.from_json(FIELDS)
    assert layout.to_json() == FIELDS
    assert HeadLayout.from_json(FIELDS) == layout


def test_a_group_is_the_query_heads_of_one_kv_head() -> None:
    assert HeadLayout.from_json(FIELDS).group_size == 4
    assert HeadLayout.from_json(FIELDS | {"kv_heads": 32}).group_size == 1


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("nano", "nano"),
        ("Qwen/Qwen2.5-Coder-0.5B", "Qwen/Qwen2.5-Coder-0.5B"),
        ("owner/name:file.gguf", "owner/name:file.gguf"),
        ("/models/qwen2.5-coder-0.5b", "qwen2.5-coder-0.5b"),
        ("/models/qwen2.5-coder-0.5b/", "qwen2.5-coder-0.5b"),
        ("./smollm2.gguf", "smollm2.gguf"),
        ("../runs/models/tuned+adapter", "tuned+adapter"),
        ("C:\\models\\tuned", "tuned"),
        ("/", "/"),
    ],
)
def test_a_model_is_named_by_the_last_part_of_its_path(model: str, name: str) -> None:
    assert HeadLayout.from_json(FIELDS | {"id": model}).name == name


def test_fields_that_a_later_version_may_add_are_left_alone() -> None:
    assert HeadLayout.from_json(FIELDS | {"experts": 8}) == HeadLayout.from_json(FIELDS)


@pytest.mark.parametrize("name", FIELDS)
def test_a_missing_field_is_named(name: str) -> None:
    fields = {key: value for key, value in FIELDS.items() if key != name}
    with pytest.raises(ValueError, match=f"expected model.{name}, got none"):
        HeadLayout.from_json(fields)


@pytest.mark.parametrize("name", ["layers", "heads", "kv_heads", "head_dim"])
@pytest.mark.parametrize("value", [0, -1])
def test_a_count_that_is_not_positive_is_named(name: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"expected a positive integer for {name}, got {value}"):
        HeadLayout.from_json(FIELDS | {name: value})


def test_heads_that_kv_heads_cannot_share_evenly_are_refused() -> None:
    with pytest.raises(ValueError, match="expected heads to be a multiple of kv_heads, got 32 and"):
        HeadLayout.from_json(FIELDS | {"kv_heads": 5})


@pytest.mark.parametrize("name", SIZES)
def test_layouts_that_differ_in_a_size_are_refused_by_its_name(name: str) -> None:
    one, other = FIELDS | {"id": "one"}, FIELDS | {"id": "other", name: 16}
    layouts = [HeadLayout.from_json(fields) for fields in (one, other)]
    problem = f"a is of one and b of other, which differ in {name}, {one[name]} and {other[name]}"
    with refused(problem):
        check_same_heads(*layouts, names=("a", "b"))
    with refused(problem, option="model", value="other"):
        check_same_heads(*layouts, names=("a", "b"), option="model")
    check_same_heads(*layouts, names=("a", "b"), fields=set(SIZES) - {name})


def test_layouts_of_other_names_have_the_same_heads() -> None:
    other = HeadLayout.from_json(FIELDS | {"id": "other", "architecture": "x", "head_dim": 64})
    check_same_heads(HeadLayout.from_json(FIELDS), other, names=("a", "b"))
