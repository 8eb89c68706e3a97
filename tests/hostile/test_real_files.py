"""Files that people have, where they are at hand: rows of benchmarks, published heads."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from headprobe.formats.import_run import read_run
from headprobe.prompts.haystacks import sentences

SHARED = Path(__file__).parents[2] / ".." / "shared"


def shared(name: str) -> Path:
    if not (SHARED / name).exists():
        pytest.skip(f"{name} is not here")
    return SHARED / name


@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("longbench_multi_news", "context"),
        ("longbench_multifieldqa_zh", "context"),
        ("longbench_passage_retrieval_zh", "context"),
        ("loogle_shortdep_qa", "input"),
        ("loogle_longdep_qa", "input"),
        ("ruler_4096_niah_multikey_3", "input"),
    ],
)
def test_rows_of_benchmarks_are_haystacks_by_any_of_their_columns(name: str, column: str) -> None:
    path = shared(f"benchmarks/{name}.jsonl")
    found = list(itertools.islice(sentences(f"{path}:{column}", seed=0), 200))
    assert len(set(found)) > 20
    assert max(map(len, found)) <= 400


@pytest.mark.parametrize(
    ("name", "source", "shape"),
    [
        ("headkv/Meta-Llama-3-8B-Instruct_retrieval_heads.json", "headkv", (107, 32, 32)),
        ("headkv/Meta-Llama-3-8B-Instruct_retrieval_reasoning_heads.json", "headkv", (74, 32, 32)),
        ("retrieval_head/llama-2-7b-80k.json", "headkv", None),
        ("duo_attention/Meta-Llama-3.1-8B-Instruct", "duo", (1, 32, 32)),
        ("duo_attention", "duo", (1, 32, 32)),
    ],
)
def test_published_heads_are_read(
    name: str, source: str, shape: tuple[int, int, int] | None
) -> None:
    run, _, notes = read_run(shared(f"published/{name}"), source=source)
    assert run.per_case[source].shape[1:] == (32, 32)
    assert shape is None or run.per_case[source].shape == shape
    assert (run.layout.num_kv_heads == 8) == (source == "duo")
    assert not any("layers" in note for note in notes)
