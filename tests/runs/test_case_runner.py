"""Observed cases against the plain procedure: eager attention, one step at a time, Python loops."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoModelForCausalLM

from headprobe.attention.observe import observe
from headprobe.errors import HeadprobeError, HeadprobeWarning
from headprobe.models.bundled import bundled
from headprobe.models.loading import LoadedModel, _fingerprint, load_model
from headprobe.prompts.build import hide_needles
from headprobe.prompts.case import Case
from headprobe.prompts.haystacks import sentences
from headprobe.prompts.needles import read_needles
from headprobe.prompts.spec import CaseSpec
from headprobe.prompts.style import PromptWriter
from headprobe.runs.case_runner import observe_cases
from headprobe.runs.greedy import GreedyRules
from headprobe.runs.memory import ChunkSizes
from headprobe.runs.observation import Observation
from headprobe.runs.plan import prepare
from headprobe.runs.prefix_tree import BLOCK
from headprobe.tasks import TASKS, Task, repetition
from tests._support.architectures import WINDOWED, WITH_STATES
from tests._support.chat_templates import tokenizer_with
from tests._support.reference import (
    PLAIN,
    Step,
    attention_layers,
    cases_of,
    cases_on_a_path,
    plain_observation,
    plain_qr,
    tiny,
)


@pytest.fixture(scope="module")
def nano() -> LoadedModel:
    return load_model("nano", device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def plain_nano() -> torch.nn.Module:
    model = AutoModelForCausalLM.from_pretrained(
        bundled("models", "nano"), attn_implementation="eager", dtype=torch.float32
    )
    return model.eval()


def every(task: str) -> Task:
    return TASKS[task].measuring(["all"])


Plain = list[tuple[tuple[int, ...], dict[str, np.ndarray]]]


def check_equals_plain(
    loaded: LoadedModel, plain: Plain, cases: list[Case], task: Task, **how: Any
) -> None:
    observed = {seen.case_id: seen for seen in observe_cases(loaded, cases, task, **how)}
    for case, (generated, scores) in zip(cases, plain, strict=True):
        seen = observed[case.case_id]
        response = loaded.tokenizer.decode(generated, skip_special_tokens=True).strip()
        assert seen.generated_ids == generated
        assert seen.response == response
        assert seen.score == task.probe.score(response, case)
        for name, expected in scores.items():
            # Logits, which locos is in, are not within 0 and 1.
            rtol = 1e-5 if name == "locos" else 0
            np.testing.assert_allclose(seen.scores[name], expected, atol=1e-4, rtol=rtol)


@pytest.fixture(scope="module", params=["retrieval", "r2"])
def observed(
    request: pytest.FixtureRequest, nano: LoadedModel, plain_nano: torch.nn.Module
) -> tuple[Task, list[Case], Plain]:
    """A task, cases of it, and what the plain procedure finds on them."""
    task, cases = every(request.param), cases_of(nano, request.param, limit=6)
    return task, cases, [plain_observation(plain_nano, nano, case, task) for case in cases]


@pytest.mark.parametrize("prefill_chunk", [2048, 50, 7], ids=["whole", "chunked", "cut up"])
@pytest.mark.slow
def test_scores_equal_the_plain_procedure_case_by_case(
    nano: LoadedModel, observed: tuple[Task, list[Case], Plain], prefill_chunk: int
) -> None:
    task, cases, plain = observed
    check_equals_plain(
        nano, plain, cases, task, chunk_sizes=ChunkSizes(prefill_chunk=prefill_chunk)
    )


OBSERVED = [
    "llama",
    "mistral",
    "qwen2",
    "qwen3",
    "gemma2",
    "gemma3_text",
    "phi3",
    "gpt_neox",
    "olmo3",
    "mixtral",
    "gpt_oss",
    "deepseek_v3",
    "gpt2",
    "gpt_bigcode",
    "opt",
    "phi",
    "cohere",
    *WITH_STATES,
]


@pytest.mark.parametrize("architecture", OBSERVED)
@pytest.mark.slow
def test_every_architecture_is_observed_as_the_plain_procedure_does(architecture: str) -> None:
    loaded, model = tiny(architecture)
    short = replace(
        every("retrieval"), probe=replace(TASKS["retrieval"].probe, max_new_tokens=lambda _: 4)
    )
    # Two lengths, and prompts that share a path.
    cases = cases_of(loaded, "retrieval", limit=3)
    plain = [plain_observation(model, loaded, case, short) for case in cases]
    check_equals_plain(loaded, plain, cases, short, chunk_sizes=ChunkSizes(prefill_chunk=64))


def full_maps(plain: torch.nn.Module, case: Case) -> np.ndarray:
    """Attention ``[layer, head, query, key]`` of a whole prompt in one pass, without a cache."""
    with torch.no_grad():
        output = plain(torch.tensor([case.input_ids]), use_cache=False, output_attentions=True)
    return torch.stack([layer[0] for layer in output.attentions]).double().numpy()


def plain_repetition(maps: np.ndarray, case: Case) -> dict[str, np.ndarray]:
    """METHODS.md 4: means over the queries of all repeats but the first."""
    ids = case.input_ids
    queries = range(case.span_end, case.length)
    echo, induction = np.zeros(maps.shape[:2]), np.zeros(maps.shape[:2])
    for i in queries:
        for j in range(case.span_start, i):
            if ids[j] == ids[i]:
                echo += maps[:, :, i, j]
                induction += maps[:, :, i, j + 1]
    return {"echo": echo / len(queries), "induction": induction / len(queries)}


def check_repetition(
    loaded: LoadedModel, plain: torch.nn.Module, lengths: list[int], chunk_sizes: ChunkSizes
) -> None:
    probe = TASKS["razor"].probe
    window = loaded.max_context
    cases = repetition.draw(loaded.tokenizer, lengths=lengths, max_context=window, seed=3)[:4]
    observed = list(observe_cases(loaded, cases, TASKS["razor"], chunk_sizes=chunk_sizes))
    assert {seen.case_id for seen in observed} == {0, 1, 2, 3}
    for seen in observed:
        case = cases[seen.case_id]
        assert (seen.generated_ids, seen.response) == ((), "")
        assert seen.score == probe.score("", case) == 100
        for name, expected in plain_repetition(full_maps(plain, case), case).items():
            scores = np.zeros((loaded.layout.layers, loaded.layout.num_heads))
            scores[attention_layers(loaded)] = expected
            assert scores.any()
            np.testing.assert_allclose(seen.scores[name], scores, rtol=1e-3, atol=1e-6)


# A few queries' rows at a time; a cut inside the first block and one inside a repeat.
PIECES = [ChunkSizes(), ChunkSizes(prefill_chunk=50, row_bytes=2**15)]


@pytest.mark.parametrize("chunk_sizes", PIECES, ids=["whole", "chunked"])
@pytest.mark.slow
def test_repetition_equals_the_full_map(
    nano: LoadedModel, plain_nano: torch.nn.Module, chunk_sizes: ChunkSizes
) -> None:
    check_repetition(nano, plain_nano, [261, 521], chunk_sizes)


@pytest.mark.parametrize("architecture", OBSERVED)
@pytest.mark.slow
def test_repetition_equals_the_full_map_of_every_architecture(architecture: str) -> None:
    # A sliding window that reaches back to the last repeat, and to no earlier one.
    windowed = {"sliding_window": 24} if architecture in WINDOWED else {}
    loaded, plain = tiny(architecture, **windowed)
    check_repetition(loaded, plain, [69, 77], ChunkSizes(prefill_chunk=24, row_bytes=2**12))


# Measures that read no weights.
BOTH = TASKS["r2"].measuring(["r2", "retrieval"])


def spread(nano: LoadedModel, elsewhere: str | int, fraction: float, **how: Any) -> LoadedModel:
    """A copy of the model with the last ``fraction`` of its layers elsewhere than on the CPU."""
    accelerate = pytest.importorskip("accelerate")
    parts = [f"model.layers.{index}" for index in range(nano.layout.layers)]
    parts = ["model.embed_tokens", "model.rotary_emb", *parts, "model.norm", "lm_head"]
    here = round((1 - fraction) * len(parts))
    places = {part: "cpu" if at < here else elsewhere for at, part in enumerate(parts)}
    model = copy.deepcopy(nano.model)
    accelerate.dispatch_model(model, places, "cpu", skip_keys="past_key_values", **how)
    return replace(nano, model=model)


def check_equals_whole(spread: LoadedModel, nano: LoadedModel) -> None:
    cases = cases_of(nano, "r2", limit=4)
    expected = {seen.case_id: seen for seen in observe_cases(nano, cases, BOTH)}
    for seen in observe_cases(spread, cases, BOTH):
        assert seen.generated_ids == expected[seen.case_id].generated_ids
        for name, scores in expected[seen.case_id].scores.items():
            np.testing.assert_allclose(seen.scores[name], scores, atol=1e-4)


@pytest.mark.parametrize("fraction", [0.5, 1.0])
def test_weights_without_room_are_read_from_disk(
    nano: LoadedModel, tmp_path: Path, fraction: float
) -> None:
    if fraction == 1:
        # Older ones refuse to dispatch a model of which nothing stays.
        pytest.importorskip("accelerate", minversion="1.15")
    loaded = spread(nano, "disk", fraction, offload_dir=tmp_path)
    assert any(weight.is_meta for weight in loaded.model.parameters())
    assert loaded.device == nano.device
    assert _fingerprint(loaded.model) == nano.fingerprint
    check_equals_whole(loaded, nano)


@pytest.mark.gpu
def test_layers_may_lie_on_several_devices(nano: LoadedModel) -> None:
    loaded = spread(nano, 0, 0.5)
    assert {weight.device.type for weight in loaded.model.parameters()} == {"cpu", "cuda"}
    check_equals_whole(loaded, nano)


def test_the_expected_answer_can_be_forced(nano: LoadedModel, plain_nano: torch.nn.Module) -> None:
    task = every("r2")
    cases = cases_of(nano, "r2", limit=4)
    for seen in observe_cases(nano, cases, task, decode="forced"):
        case = cases[seen.case_id]
        assert seen.generated_ids == case.answer_ids
        assert seen.score == 100
        whole = torch.tensor([[*case.input_ids, *case.answer_ids]])
        with torch.no_grad():
            attentions = plain_nano(whole, output_attentions=True).attentions
        rows = torch.stack([layer[0] for layer in attentions]).double().numpy()
        for name, measure in PLAIN.items():
            expected = sum(
                measure(Step(rows=rows[:, :, last, : last + 1], token=token), case)
                for last, token in enumerate(case.answer_ids, start=case.length - 1)
            )
            np.testing.assert_allclose(seen.scores[name], expected, atol=1e-4)
        np.testing.assert_allclose(seen.scores["qr"], plain_qr(plain_nano, case), atol=1e-4)


def test_the_step_that_stops_an_answer_is_scored(nano: LoadedModel) -> None:
    cases = cases_of(nano, "retrieval", limit=3)
    line_break = nano.tokenizer.convert_tokens_to_ids("\n")
    for seen in observe_cases(nano, cases, TASKS["retrieval"]):
        assert seen.generated_ids[-1] == line_break
        assert line_break not in seen.generated_ids[:-1]


def test_an_answer_ends_at_every_token_that_the_generation_settings_list(
    nano: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases = cases_of(nano, "retrieval", limit=1)
    (whole,) = observe_cases(nano, cases, TASKS["retrieval"])
    assert len(set(whole.generated_ids)) > 2
    ends = [nano.tokenizer.eos_token_id, whole.generated_ids[1]]
    monkeypatch.setattr(nano.model.generation_config, "eos_token_id", ends)
    (branch_point,) = observe_cases(nano, cases, TASKS["retrieval"])
    assert (
        branch_point.generated_ids == whole.generated_ids[: whole.generated_ids.index(ends[1]) + 1]
    )


@pytest.mark.parametrize("packed", [True, False])
def test_an_end_token_does_not_come_first(
    nano: LoadedModel, monkeypatch: pytest.MonkeyPatch, packed: bool
) -> None:
    cases = cases_of(nano, "retrieval", limit=2)
    first = [seen.generated_ids[0] for seen in observe_cases(nano, cases, TASKS["retrieval"])]
    monkeypatch.setattr(nano.model.generation_config, "eos_token_id", first)
    for seen in observe_cases(nano, cases, TASKS["retrieval"], packed=packed):
        assert seen.generated_ids[0] not in first


def test_a_token_without_an_embedding_is_one_clear_error(nano: LoadedModel) -> None:
    (case,) = cases_of(nano, "r2", limit=1)
    assert case.question is not None
    size = nano.model.get_input_embeddings().num_embeddings
    beyond = (size + 5,)
    for changes in (
        {"input_ids": beyond + case.input_ids[1:]},
        {"answer_ids": beyond},
        {"question": replace(case.question, blank_ids=beyond)},
    ):
        with pytest.raises(HeadprobeError, match=f"nano: it gives token {size + 5}, .* {size};"):
            next(observe_cases(nano, [replace(case, **changes)], TASKS["r2"]))


def test_the_reference_takes_no_more_steps_than_the_answer_has_tokens(nano: LoadedModel) -> None:
    cases = cases_of(nano, "r2", limit=6)
    for seen in observe_cases(nano, cases, TASKS["r2"].counting("reference")):
        assert 1 <= len(seen.generated_ids) <= len(cases[seen.case_id].answer_ids)
        assert (seen.step_start, seen.step_end) == (0, len(seen.generated_ids))


@pytest.mark.slow
def test_a_case_gives_the_same_bits_whatever_else_is_observed(nano: LoadedModel) -> None:
    task = every("r2")
    cases = cases_of(nano, "r2", limit=12)
    together = {seen.case_id: seen for seen in observe_cases(nano, cases, task)}
    for wanted in ({0}, {3, 7}, set(range(1, 12, 2))):
        for seen in observe_cases(nano, cases, task, wanted=wanted):
            for name, scores in together[seen.case_id].scores.items():
                np.testing.assert_array_equal(seen.scores[name], scores)


def count_tokens(loaded: LoadedModel) -> list[int]:
    """The tokens of every forward pass from now on."""
    counted: list[int] = []
    loaded.model.register_forward_pre_hook(
        lambda _, args, kwargs: counted.append(args[0].shape[1]), with_kwargs=True
    )
    return counted


def test_every_shared_token_is_run_once(nano: LoadedModel) -> None:
    loaded = replace(nano, model=copy.deepcopy(nano.model))
    counted = count_tokens(loaded)
    cases = cases_of(nano, "r2", limit=18)
    list(observe_cases(loaded, cases, TASKS["r2"], decode="forced", packed=True))
    answers = sum(len(case.answer_ids) - 1 for case in cases)
    prefixes = {case.input_ids[:end] for case in cases for end in range(1, case.length + 1)}
    again = sum(counted) - answers - len(prefixes)
    assert 0 <= again < BLOCK * len(cases)
    assert sum(counted) < 0.8 * sum(case.length for case in cases)


@pytest.mark.slow
def test_a_run_takes_the_tokens_that_were_planned(nano: LoadedModel) -> None:
    loaded = replace(nano, model=copy.deepcopy(nano.model))
    spec = CaseSpec(lengths=(128, 200), depths=(0.0, 50.0, 100.0), limit=12)
    distinct = {}
    for measures in ("r2", "qr", "all"):
        run = prepare(loaded, TASKS["r2"].measuring([measures]), spec, decode="forced")
        counted = count_tokens(loaded)
        list(
            observe_cases(loaded, run.cases, run.task, tree=run.tree, decode="forced", packed=True)
        )
        answers = sum(len(case.answer_ids) - 1 for case in run.cases)
        assert sum(counted) - answers == run.cost.unique_tokens
        distinct[measures] = run.cost.unique_tokens
    # The context is not run again for "N/A"; what questions have in common is.
    assert distinct["qr"] == distinct["all"]
    assert 0 < distinct["qr"] - distinct["r2"] < 2 * BLOCK * len(run.cases)


def test_an_expected_answer_takes_one_pass(nano: LoadedModel) -> None:
    loaded = replace(nano, model=copy.deepcopy(nano.model))
    counted = count_tokens(loaded)
    cases = cases_of(nano, "retrieval", limit=1)
    (seen,) = observe_cases(loaded, cases, TASKS["retrieval"], packed=True)
    cases = [replace(cases[0], answer_ids=seen.generated_ids[:-1])]
    counted.clear()
    (again,) = observe_cases(loaded, cases, TASKS["retrieval"], packed=True)
    assert again.generated_ids == seen.generated_ids
    assert len(counted) == 1


@pytest.fixture(scope="module")
def one_path(nano: LoadedModel) -> list[Case]:
    """Ten prompts of different lengths with one needle at one place."""
    return cases_on_a_path(nano, [*range(150, 400, 25)])


@pytest.fixture(scope="module")
def whole_path(nano: LoadedModel, one_path: list[Case]) -> dict[int, Observation]:
    """What is seen of them where memory allows all at once."""
    return {s.case_id: s for s in observe_cases(nano, one_path, TASKS["r2"], packed=True)}


def test_prompts_that_share_a_path_are_answered_in_two_passes(
    nano: LoadedModel, one_path: list[Case]
) -> None:
    loaded = replace(nano, model=copy.deepcopy(nano.model))
    counted = count_tokens(loaded)
    alone = list(observe_cases(loaded, one_path, every("r2"), decode="forced", packed=False))
    assert len(counted) >= 2 * len(one_path)
    counted.clear()
    packed = list(observe_cases(loaded, one_path, every("r2"), decode="forced", packed=True))
    assert len(counted) == 2
    assert len(packed) == len(one_path)
    expected = {seen.case_id: seen for seen in alone}
    for seen in packed:
        for name, scores in expected[seen.case_id].scores.items():
            np.testing.assert_allclose(seen.scores[name], scores, atol=1e-4, rtol=1e-5)


def test_what_no_draft_says_takes_a_pass_a_step_for_all_prompts_of_a_path(
    nano: LoadedModel, one_path: list[Case]
) -> None:
    loaded = replace(nano, model=copy.deepcopy(nano.model))
    # Another expected answer, so that its draft fails at once.
    cases = [replace(case, answer_ids=case.answer_ids[::-1]) for case in one_path]
    counted = count_tokens(loaded)
    alone = {s.case_id: s for s in observe_cases(loaded, cases, TASKS["r2"], packed=False)}
    passes = len(counted)
    counted.clear()
    for seen in observe_cases(loaded, cases, TASKS["r2"], packed=True):
        assert seen.generated_ids == alone[seen.case_id].generated_ids
    steps = [len(seen.generated_ids) for seen in alone.values()]
    assert len(counted) <= 1 + max(steps)
    assert 3 * len(counted) < passes


def test_packed_prompts_are_run_in_chunks_that_memory_allows(
    nano: LoadedModel, one_path: list[Case], whole_path: dict[int, Observation]
) -> None:
    loaded = replace(nano, model=copy.deepcopy(nano.model))
    counted = count_tokens(loaded)
    chunk_sizes = ChunkSizes(prefill_chunk=40, row_bytes=2**14)
    for seen in observe_cases(loaded, one_path, TASKS["r2"], packed=True, chunk_sizes=chunk_sizes):
        assert seen.generated_ids == whole_path[seen.case_id].generated_ids
        expected = whole_path[seen.case_id].scores["r2"]
        np.testing.assert_allclose(seen.scores["r2"], expected, atol=1e-5)
    assert max(counted) == 40


@pytest.mark.parametrize("most", [1, 5])
def test_no_pass_computes_more_logits_than_memory_allows(
    nano: LoadedModel, one_path: list[Case], whole_path: dict[int, Observation], most: int
) -> None:
    loaded = replace(nano, model=copy.deepcopy(nano.model))
    counted: list[int] = []
    loaded.model.get_output_embeddings().register_forward_pre_hook(
        lambda _, args: counted.append(args[0].shape[1])
    )
    sizes = ChunkSizes(most_logits=most)
    for seen in observe_cases(loaded, one_path, TASKS["r2"], packed=True, chunk_sizes=sizes):
        assert seen.generated_ids == whole_path[seen.case_id].generated_ids
        expected = whole_path[seen.case_id].scores["r2"]
        np.testing.assert_allclose(seen.scores["r2"], expected, atol=1e-5)
    assert max(counted) == most


def test_out_of_memory_goes_on_in_smaller_pieces(
    nano: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases = cases_of(nano, "r2", limit=4)
    expected = {seen.case_id: seen for seen in observe_cases(nano, cases, TASKS["r2"])}

    def short_of_memory(model: Any, tokens: torch.Tensor, *args: Any, **inputs: Any) -> Any:
        if tokens.shape[1] > 70:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return observe(model, tokens, *args, **inputs)

    monkeypatch.setattr("headprobe.runs.passes.observe", short_of_memory)
    with pytest.warns(HeadprobeWarning, match="going on with `prefill_chunk=64`") as warned:
        seen_again = list(
            observe_cases(nano, cases, TASKS["r2"], chunk_sizes=ChunkSizes(prefill_chunk=256))
        )
    assert len(warned) == 1
    for seen in seen_again:
        assert seen.generated_ids == expected[seen.case_id].generated_ids
        np.testing.assert_allclose(
            seen.scores["r2"], expected[seen.case_id].scores["r2"], atol=1e-5
        )


def test_memory_that_never_suffices_is_one_clear_error(
    nano: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def out_of_memory(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nMore.")

    monkeypatch.setattr("headprobe.runs.passes.observe", out_of_memory)
    with (
        pytest.warns(HeadprobeWarning),
        pytest.raises(HeadprobeError, match=r"does not fit .* try shorter `lengths`"),
    ):
        list(observe_cases(nano, cases_of(nano, "r2", limit=1), TASKS["r2"]))


class LargestTensor(TorchDispatchMode):
    """Elements of the largest tensor that any operation returns."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.untyped_storage().nbytes())
        return result


@pytest.mark.parametrize(
    ("task", "chunk_sizes"),
    [
        ("retrieval", ChunkSizes(prefill_chunk=128)),
        ("razor", ChunkSizes(prefill_chunk=128)),
        ("razor", ChunkSizes()),
    ],
)
@pytest.mark.slow
def test_the_largest_tensor_grows_with_the_length_and_not_its_square(
    nano: LoadedModel, monkeypatch: pytest.MonkeyPatch, task: str, chunk_sizes: ChunkSizes
) -> None:
    taken = TASKS[task] if task == "razor" else every(task)
    largest = []
    # Contexts of some 512 tokens are run before what is watched, and these alike.
    monkeypatch.setattr("headprobe.runs.passes._WORTH_A_PASS", 256)
    for length in (256, 512, 1024):
        if task == "razor":
            cases = repetition.draw(nano.tokenizer, lengths=[length], max_context=None, seed=0)[:1]
        else:
            cases = hide_needles(
                read_needles(bundled("needles", "nano", "retrieval.jsonl"))[:1],
                sentences=sentences("noise", seed=0),
                writer=PromptWriter(nano.tokenizer),
                lengths=[length],
                depths=[50.0],
            )
        with LargestTensor() as watch:
            list(observe_cases(nano, cases, taken, chunk_sizes=chunk_sizes))
        largest.append(watch.elements)
    assert largest[2] / largest[1] < 2.2
    assert largest[1] / largest[0] < 2.2


def test_a_response_ends_with_a_line_break_only_once_something_was_said(nano: LoadedModel) -> None:
    # The nano model's own tokenizer ends a text with a line break.
    tokenizer = tokenizer_with(None)
    (line,), (said,), end = tokenizer("\n")["input_ids"], tokenizer("a")["input_ids"], 257
    assert tokenizer.eos_token_id == end
    rules = GreedyRules(replace(nano, tokenizer=tokenizer))
    assert not rules.is_end([line])
    assert not rules.is_end([line, line])
    assert not rules.is_end([line, said])
    assert rules.is_end([line, said, line])
    assert rules.is_end([said, line])
    assert rules.is_end([end])
    assert rules.is_end([line, end])
