"""The walk against the plain procedure: eager attention, one token at a time, Python loops."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache

from architectures import WINDOWED, WITH_STATES, build
from headprobe.attention import observe
from headprobe.bundled import bundled
from headprobe.cases import Case, hide_needles
from headprobe.errors import HeadprobeError, HeadprobeWarning
from headprobe.haystacks import sentences
from headprobe.memory import Pieces
from headprobe.model import LoadedModel, _fingerprint, head_layout, load_model
from headprobe.needles import read_needles
from headprobe.probes import PROBES
from headprobe.tasks import TASKS, Task
from headprobe.tree import PrefixTree
from headprobe.walk import walk


@pytest.fixture(scope="module")
def nano() -> LoadedModel:
    return load_model("nano", device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def plain_nano() -> torch.nn.Module:
    model = AutoModelForCausalLM.from_pretrained(
        bundled("models", "nano"), attn_implementation="eager", dtype=torch.float32
    )
    return model.eval()


def cases_of(loaded: LoadedModel, task: str, limit: int) -> list[Case]:
    return hide_needles(
        read_needles(bundled("needles", "nano", TASKS[task].probe.needles)),
        sentences=sentences("noise", seed=3),
        tokenizer=loaded.tokenizer,
        lengths=[128, 200],
        depths=[0.0, 50.0, 100.0],
        limit=limit,
        seed=3,
    )


def plain_steps(
    model: torch.nn.Module, loaded: LoadedModel, case: Case, most_steps: int
) -> Iterator[tuple[np.ndarray, int]]:
    """Attention rows ``[layer, head, key]`` of every answer step, and the token chosen there."""
    # A cache that drops what has left a sliding window would shift the rows.
    cache = DynamicCache() if loaded.name in WINDOWED else None
    tokens = list(case.input_ids)
    with torch.no_grad():
        for _ in range(most_steps):
            for token in tokens:
                output = model(
                    torch.tensor([[token]]),
                    past_key_values=cache,
                    use_cache=True,
                    output_attentions=True,
                )
                cache = output.past_key_values
            rows = torch.stack([layer[0, :, -1] for layer in output.attentions])
            token = int(output.logits[0, -1].argmax())
            yield rows.double().numpy(), token
            if token == loaded.tokenizer.eos_token_id or "\n" in loaded.tokenizer.decode([token]):
                return
            tokens = [token]


def plain_retrieval(rows: np.ndarray, token: int, case: Case) -> np.ndarray:
    score = np.zeros(rows.shape[:2])
    size = case.span_end - case.span_start
    for layer in range(rows.shape[0]):
        for head in range(rows.shape[1]):
            best = max(range(rows.shape[2]), key=lambda j: rows[layer, head, j])
            in_span = case.span_start <= best < case.span_end
            if in_span and case.input_ids[best] == token:
                score[layer, head] = 1 / size
    return score


def plain_r2(rows: np.ndarray, token: int, case: Case) -> np.ndarray:
    score = np.zeros(rows.shape[:2])
    size = case.span_end - case.span_start
    for layer in range(rows.shape[0]):
        for head in range(rows.shape[1]):
            row = rows[layer, head]
            strongest = sorted(range(len(row)), key=lambda j: -row[j])[:size]
            kept = [row[j] for j in strongest if case.span_start <= j < case.span_end]
            score[layer, head] = sum(kept) / size
    return score


PLAIN = {"retrieval": plain_retrieval, "r2": plain_r2}


def plain_observation(
    model: torch.nn.Module, loaded: LoadedModel, case: Case, task: Task
) -> tuple[tuple[int, ...], dict[str, np.ndarray]]:
    """What is generated, and every measure's scores."""
    shape = (loaded.layout.layers, loaded.layout.heads)
    scores = {name: np.zeros(shape) for name in task.measures}
    generated = []
    for rows, token in plain_steps(model, loaded, case, task.probe.most_steps(case)):
        generated.append(token)
        for name in task.measures:
            scores[name][attention_layers(loaded)] += PLAIN[name](rows, token, case)
    return tuple(generated), scores


def attention_layers(loaded: LoadedModel) -> list[int]:
    return sorted(m.layer_idx for m in loaded.model.modules() if hasattr(m, "is_causal"))


def both(task: str) -> Task:
    return replace(TASKS[task], measures=("retrieval", "r2"))


def check_equals_plain(
    loaded: LoadedModel, plain: torch.nn.Module, cases: list[Case], task: Task, **how: Any
) -> None:
    walked = {seen.case_id: seen for seen in walk(loaded, cases, task, **how)}
    for case in cases:
        generated, scores = plain_observation(plain, loaded, case, task)
        seen = walked[case.case_id]
        response = loaded.tokenizer.decode(generated, skip_special_tokens=True).strip()
        assert seen.generated_ids == generated
        assert seen.response == response
        assert seen.success == task.probe.success(response, case)
        for name, expected in scores.items():
            np.testing.assert_allclose(seen.scores[name], expected, atol=1e-4)


@pytest.mark.parametrize("chunk", [2048, 50], ids=["whole", "chunked"])
@pytest.mark.parametrize("task", ["retrieval", "r2"])
def test_scores_equal_the_plain_procedure_case_by_case(
    nano: LoadedModel, plain_nano: torch.nn.Module, task: str, chunk: int
) -> None:
    cases = cases_of(nano, task, limit=6)
    check_equals_plain(nano, plain_nano, cases, both(task), pieces=Pieces(chunk=chunk))


def tiny(architecture: str, **changes: Any) -> tuple[LoadedModel, torch.nn.Module]:
    """A tiny random model that reads the bundled tokenizer's tokens, and a plain copy of it."""
    tokenizer = AutoTokenizer.from_pretrained(bundled("models", "nano"))
    sizes = {"vocab_size": len(tokenizer), "max_position_embeddings": 512, "n_positions": 512}
    model = build(architecture, **sizes | changes)
    plain = copy.deepcopy(model)
    plain.set_attn_implementation("eager")
    loaded = LoadedModel(
        name=architecture,
        model=model,
        tokenizer=tokenizer,
        layout=head_layout(model.config, id=architecture),
        window=512,
        fingerprint="",
    )
    return loaded, plain


@pytest.mark.parametrize(
    "architecture",
    [
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
        *WITH_STATES,
    ],
)
def test_every_architecture_is_walked_as_the_plain_procedure_goes(architecture: str) -> None:
    loaded, plain = tiny(architecture)
    short = replace(both("retrieval"), probe=replace(PROBES["retrieval"], most_steps=lambda _: 4))
    cases = cases_of(loaded, "retrieval", limit=5)
    check_equals_plain(loaded, plain, cases, short, pieces=Pieces(chunk=64))


def spread(nano: LoadedModel, elsewhere: str | int, share: float, **how: Any) -> LoadedModel:
    """A copy of the model with the last ``share`` of its layers elsewhere, the rest on the CPU."""
    accelerate = pytest.importorskip("accelerate")
    parts = [f"model.layers.{index}" for index in range(nano.layout.layers)]
    parts = ["model.embed_tokens", "model.rotary_emb", *parts, "model.norm", "lm_head"]
    here = round((1 - share) * len(parts))
    places = {part: "cpu" if at < here else elsewhere for at, part in enumerate(parts)}
    model = copy.deepcopy(nano.model)
    accelerate.dispatch_model(model, places, "cpu", skip_keys="past_key_values", **how)
    return replace(nano, model=model)


def check_equals_whole(spread: LoadedModel, nano: LoadedModel) -> None:
    cases = cases_of(nano, "r2", limit=4)
    expected = {seen.case_id: seen for seen in walk(nano, cases, both("r2"))}
    for seen in walk(spread, cases, both("r2")):
        assert seen.generated_ids == expected[seen.case_id].generated_ids
        for name, scores in expected[seen.case_id].scores.items():
            np.testing.assert_allclose(seen.scores[name], scores, atol=1e-4)


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_weights_without_room_are_read_from_disk(
    nano: LoadedModel, tmp_path: Path, share: float
) -> None:
    loaded = spread(nano, "disk", share, offload_dir=tmp_path)
    assert any(weight.is_meta for weight in loaded.model.parameters())
    assert loaded.device == nano.device
    assert _fingerprint(loaded.model) == nano.fingerprint
    check_equals_whole(loaded, nano)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="takes a second device")
def test_layers_may_lie_on_several_devices(nano: LoadedModel) -> None:
    loaded = spread(nano, 0, 0.5)
    assert {weight.device.type for weight in loaded.model.parameters()} == {"cpu", "cuda"}
    check_equals_whole(loaded, nano)


def test_the_expected_answer_can_be_forced(nano: LoadedModel, plain_nano: torch.nn.Module) -> None:
    task = both("r2")
    cases = cases_of(nano, "r2", limit=4)
    for seen in walk(nano, cases, task, decode="forced"):
        case = cases[seen.case_id]
        assert seen.generated_ids == case.answer_ids
        assert seen.success == 100
        whole = torch.tensor([[*case.input_ids, *case.answer_ids]])
        with torch.no_grad():
            attentions = plain_nano(whole, output_attentions=True).attentions
        rows = torch.stack([layer[0] for layer in attentions]).double().numpy()
        for name in task.measures:
            expected = sum(
                PLAIN[name](rows[:, :, case.length - 1 + step, : case.length + step], token, case)
                for step, token in enumerate(case.answer_ids)
            )
            np.testing.assert_allclose(seen.scores[name], expected, atol=1e-4)


def test_the_step_that_stops_an_answer_is_scored(nano: LoadedModel) -> None:
    cases = cases_of(nano, "retrieval", limit=3)
    line_break = nano.tokenizer.convert_tokens_to_ids("\n")
    for seen in walk(nano, cases, TASKS["retrieval"]):
        assert seen.generated_ids[-1] == line_break
        assert line_break not in seen.generated_ids[:-1]


def test_r2_takes_no_more_steps_than_the_answer_has_tokens(nano: LoadedModel) -> None:
    cases = cases_of(nano, "r2", limit=6)
    for seen in walk(nano, cases, TASKS["r2"]):
        assert 1 <= len(seen.generated_ids) <= len(cases[seen.case_id].answer_ids)


def test_a_case_gives_the_same_bits_whatever_else_is_walked(nano: LoadedModel) -> None:
    task = TASKS["r2"]
    cases = cases_of(nano, "r2", limit=12)
    together = {seen.case_id: seen for seen in walk(nano, cases, task)}
    for wanted in ({0}, {3, 7}, set(range(1, 12, 2))):
        for seen in walk(nano, cases, task, wanted=wanted):
            np.testing.assert_array_equal(seen.scores["r2"], together[seen.case_id].scores["r2"])


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
    list(walk(loaded, cases, TASKS["r2"], decode="forced"))
    tree = PrefixTree.of([case.input_ids for case in cases])
    answers = sum(len(case.answer_ids) - 1 for case in cases)
    assert sum(counted) == tree.distinct + answers
    assert sum(counted) < 0.7 * sum(case.length for case in cases)


def test_an_expected_answer_takes_one_pass(nano: LoadedModel) -> None:
    loaded = replace(nano, model=copy.deepcopy(nano.model))
    counted = count_tokens(loaded)
    cases = cases_of(nano, "retrieval", limit=1)
    (seen,) = walk(loaded, cases, TASKS["retrieval"])
    cases = [replace(cases[0], answer_ids=seen.generated_ids[:-1])]
    counted.clear()
    (again,) = walk(loaded, cases, TASKS["retrieval"])
    assert again.generated_ids == seen.generated_ids
    assert counted == [cases[0].length + len(cases[0].answer_ids)]


def test_out_of_memory_goes_on_in_smaller_pieces(
    nano: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases = cases_of(nano, "r2", limit=4)
    expected = {seen.case_id: seen for seen in walk(nano, cases, TASKS["r2"])}

    def short_of_memory(model: Any, tokens: torch.Tensor, *args: Any, **inputs: Any) -> Any:
        if tokens.shape[1] > 70:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return observe(model, tokens, *args, **inputs)

    monkeypatch.setattr("headprobe.walk.observe", short_of_memory)
    with pytest.warns(HeadprobeWarning, match="going on with --chunk 64") as warned:
        seen_again = list(walk(nano, cases, TASKS["r2"], pieces=Pieces(chunk=256)))
    assert len(warned) == 2
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

    monkeypatch.setattr("headprobe.walk.observe", out_of_memory)
    with (
        pytest.warns(HeadprobeWarning),
        pytest.raises(HeadprobeError, match=r"does not fit .* try shorter --lengths"),
    ):
        list(walk(nano, cases_of(nano, "r2", limit=1), TASKS["r2"]))


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


def test_the_largest_tensor_grows_with_the_length_and_not_its_square(nano: LoadedModel) -> None:
    largest = []
    for length in (512, 1024, 2048):
        cases = hide_needles(
            read_needles(bundled("needles", "nano", "retrieval.jsonl"))[:1],
            sentences=sentences("noise", seed=0),
            tokenizer=nano.tokenizer,
            lengths=[length],
            depths=[50.0],
        )
        with LargestTensor() as watch:
            list(walk(nano, cases, TASKS["retrieval"], pieces=Pieces(chunk=128)))
        largest.append(watch.elements)
    assert largest[2] / largest[1] < 2.2
    assert largest[1] / largest[0] < 2.2
