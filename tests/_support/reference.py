"""The plain procedure: eager attention, one step at a time, scores by loops in float64."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import AutoTokenizer, DynamicCache, PreTrainedTokenizerBase

from headprobe.models.bundled import bundled
from headprobe.models.config import head_layout
from headprobe.models.loading import LoadedModel
from headprobe.prompts.build import hide_needles
from headprobe.prompts.case import Case
from headprobe.prompts.haystacks import sentences
from headprobe.prompts.needles import read_needles
from headprobe.prompts.style import PromptWriter
from headprobe.tasks import TASKS, Task
from headprobe.tasks.grading import answer_steps
from tests._support.architectures import WINDOWED, WITH_STATES, build


def cases_of(loaded: LoadedModel, task: str, limit: int) -> list[Case]:
    return hide_needles(
        read_needles(bundled("needles", "nano", TASKS[task].probe.needles)),
        sentences=sentences("noise", seed=3),
        writer=PromptWriter(loaded.tokenizer),
        lengths=[128, 200],
        depths=[0.0, 50.0, 100.0],
        limit=limit,
        seed=3,
    )


def cases_on_a_path(loaded: LoadedModel, lengths: Sequence[int]) -> list[Case]:
    """Prompts of different lengths with one needle at one place, which share a path."""
    return hide_needles(
        read_needles(bundled("needles", "nano", "r2.jsonl"))[:1],
        sentences=sentences("noise", seed=3),
        writer=PromptWriter(loaded.tokenizer),
        lengths=lengths,
        depths=[0.0],
    )


@functools.cache
def bundled_tokenizer() -> PreTrainedTokenizerBase:
    """The bundled model's tokenizer; it is for all, so look only."""
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(bundled("models", "nano"))
    return tokenizer


def tiny(architecture: str, **changes: Any) -> tuple[LoadedModel, torch.nn.Module]:
    """A tiny random model that reads the bundled tokenizer's tokens, and a plain copy of it."""
    tokenizer = bundled_tokenizer()
    sizes = {"vocab_size": len(tokenizer), "max_position_embeddings": 512, "n_positions": 512}
    model = build(architecture, **sizes | changes)
    # A final norm that does nothing would hide what is done about it.
    for weight in model.get_submodule(places(architecture)[1]).parameters():
        torch.nn.init.normal_(weight, mean=0.5, std=0.5)
    plain = copy.deepcopy(model)
    plain.set_attn_implementation("eager")
    loaded = LoadedModel(
        name=architecture,
        model=model,
        tokenizer=tokenizer,
        layout=head_layout(model.config, id=architecture),
        max_context=512,
        fingerprint="",
    )
    return loaded, plain


@dataclass(frozen=True, eq=False, kw_only=True)
class Step:
    """One step of the answer: rows ``[layer, head, key]``, each layer's values, the token chosen.

    Layers without attention are left out; values are ``[kv_head, key, value_dim]``.
    """

    rows: np.ndarray
    token: int
    values: tuple[np.ndarray, ...] = ()


def plain_steps(
    model: torch.nn.Module, loaded: LoadedModel, case: Case, max_new_tokens: int
) -> Iterator[Step]:
    # A cache that drops what has left a sliding window would shift the rows.
    cache = DynamicCache() if loaded.name in WINDOWED else None
    # What keeps a state is defined token by token; attention reads a prompt at once.
    one_by_one = loaded.name in WITH_STATES
    read = [[token] for token in case.input_ids] if one_by_one else [[*case.input_ids]]
    chosen: list[int] = []
    with torch.no_grad():
        for _ in range(max_new_tokens):
            for tokens in read:
                output = model(
                    torch.tensor([tokens]),
                    past_key_values=cache,
                    use_cache=True,
                    output_attentions=True,
                )
                cache = output.past_key_values
            rows = torch.stack([layer[0, :, -1] for layer in output.attentions])
            logits = output.logits[0, -1].clone()
            if not chosen and loaded.tokenizer.eos_token_id is not None:
                # An end of the text does not come first.
                logits[loaded.tokenizer.eos_token_id] = float("-inf")
            token = int(logits.argmax())
            values = kept_values(model, cache)
            yield Step(rows=rows.double().numpy(), token=token, values=values)
            chosen.append(token)
            said = loaded.tokenizer.decode(chosen, skip_special_tokens=True).lstrip()
            if token == loaded.tokenizer.eos_token_id or "\n" in said:
                return
            read = [[token]]


def kept_values(model: torch.nn.Module, cache: Any) -> tuple[np.ndarray, ...]:
    kept = []
    for attention in (part for part in model.modules() if hasattr(part, "is_causal")):
        layer = cache.layers[attention.layer_idx]
        values = layer.values
        # deepseek keeps what keys and values are made of.
        if hasattr(attention, "expand_kv"):
            _, values = attention.expand_kv(layer.keys, layer.values)
        kept.append(values[0].double().numpy())
    return tuple(kept)


def attention_layers(loaded: LoadedModel) -> list[int]:
    return sorted(m.layer_idx for m in loaded.model.modules() if hasattr(m, "is_causal"))


PlainMeasure = Callable[[Step, Case], np.ndarray]


def head_by_head(measure: Callable[[list[float], int, Case], float]) -> PlainMeasure:
    def every_head(step: Step, case: Case) -> np.ndarray:
        return np.array(
            [[measure(row.tolist(), step.token, case) for row in layer] for layer in step.rows]
        )

    return every_head


def plain_retrieval(row: list[float], token: int, case: Case) -> float:
    best = max(range(len(row)), key=lambda j: row[j])
    in_span = case.span_start <= best < case.span_end
    return float(in_span and case.input_ids[best] == token) / (case.span_end - case.span_start)


def plain_r2(row: list[float], token: int, case: Case) -> float:
    size = case.span_end - case.span_start
    strongest = sorted(range(len(row)), key=lambda j: -row[j])[:size]
    return sum(row[j] for j in strongest if case.span_start <= j < case.span_end) / size


def plain_semantic(row: list[float], token: int, case: Case) -> float:
    score = 0.0
    for needle_token in case.input_ids[case.span]:
        if needle_token == token:
            score += sum(row[case.span])
    return score


def plain_mass(row: list[float], token: int, case: Case) -> float:
    # The newest key is the query's own.
    inner = range(4, len(row) - 8)
    return sum(row[j] for j in range(case.span_start, case.span_end) if j in inner)


def plain_contrast(row: list[float], token: int, case: Case) -> float:
    return contrast(row, case)


def contrast(numbers: list[float], case: Case) -> float:
    """Over the span, minus off it by the lengths' ratio."""
    on = numbers[case.span]
    off = numbers[: case.span_start] + numbers[case.span_end :]
    return sum(on) - len(on) / len(off) * sum(off)


PLAIN: dict[str, PlainMeasure] = {
    "retrieval": head_by_head(plain_retrieval),
    "r2": head_by_head(plain_r2),
    "semantic": head_by_head(plain_semantic),
    "mass": head_by_head(plain_mass),
    "contrast": head_by_head(plain_contrast),
}

ONE_LESS = ("gemma2", "gemma3_text", "qwen3_next")
CENTRED = ("gpt2", "gpt_bigcode", "gpt_neox", "opt", "phi", "cohere")


def places(architecture: str) -> tuple[str, str]:
    """Where a family keeps a layer's output projection and the final norm."""
    others = {
        "gpt2": ("transformer.h.{}.attn.c_proj", "transformer.ln_f"),
        "gpt_bigcode": ("transformer.h.{}.attn.c_proj", "transformer.ln_f"),
        "gpt_neox": ("gpt_neox.layers.{}.attention.dense", "gpt_neox.final_layer_norm"),
        "opt": ("model.decoder.layers.{}.self_attn.out_proj", "model.decoder.final_layer_norm"),
        "phi": ("model.layers.{}.self_attn.dense", "model.final_layernorm"),
        "persimmon": ("model.layers.{}.self_attn.dense", "model.final_layernorm"),
        "lfm2": ("model.layers.{}.self_attn.out_proj", "model.embedding_norm"),
        "jamba": ("model.layers.{}.self_attn.o_proj", "model.final_layernorm"),
        "falcon_h1": ("model.layers.{}.self_attn.o_proj", "model.final_layernorm"),
    }
    return others.get(architecture, ("model.layers.{}.self_attn.o_proj", "model.norm"))


def read_direction(model: torch.nn.Module, architecture: str, token: int) -> np.ndarray:
    """u(y): the token's unembedding through the final norm's weight, less its mean if centred."""
    gain = model.get_submodule(places(architecture)[1]).weight.double() + float(
        architecture in ONE_LESS
    )
    unembedding = model.get_output_embeddings().weight[token].double() * gain
    if architecture in CENTRED:
        unembedding = unembedding - unembedding.mean()
    return unembedding.detach().numpy()


def plain_locos(model: torch.nn.Module, loaded: LoadedModel) -> PlainMeasure:
    """phi[j] = a[j] u W_O v_j, position by position."""
    layers = attention_layers(loaded)
    paths = [places(loaded.name)[0].format(layer) for layer in layers]
    projections = [model.get_submodule(path).weight.detach().double().numpy() for path in paths]
    if loaded.name == "gpt2":
        projections = [weight.T for weight in projections]

    def measure(step: Step, case: Case) -> np.ndarray:
        direction = read_direction(model, loaded.name, step.token)
        scores = np.zeros(step.rows.shape[:2])
        for layer, (rows, values) in enumerate(zip(step.rows, step.values, strict=True)):
            heads, width = len(rows), values.shape[-1]
            for head, row in enumerate(rows):
                read = direction @ projections[layer][:, head * width : (head + 1) * width]
                kept = values[head * len(values) // heads]
                phi = [row[j] * (read @ kept[j]) for j in range(len(row))]
                scores[layer, head] = contrast(phi, case)
        return scores

    return measure


def plain_qr(model: torch.nn.Module, case: Case) -> np.ndarray:
    """Two whole prompts, the question in one and "N/A" in the other; ``[layer, head]``."""
    asked = case.question
    assert asked is not None
    before = case.input_ids[: asked.start]
    question = case.input_ids[asked.start : asked.end]
    means = []
    for tokens in (question, asked.blank_ids):
        with torch.no_grad():
            attentions = model(
                torch.tensor([[*before, *tokens]]), output_attentions=True
            ).attentions
        rows = torch.stack([layer[0, :, -len(tokens) :] for layer in attentions]).double()
        means.append(rows[..., case.span].sum(dim=-1).mean(dim=-1).numpy())
    return means[0] - means[1]


def plain_observation(
    model: torch.nn.Module, loaded: LoadedModel, case: Case, task: Task
) -> tuple[tuple[int, ...], dict[str, np.ndarray]]:
    """What is generated, and every measure's scores."""
    shape = (loaded.layout.layers, loaded.layout.num_heads)
    layers = attention_layers(loaded)
    measures = PLAIN | {"locos": plain_locos(model, loaded)}
    scores = {name: np.zeros(shape) for name in task.measures}
    steps = [*plain_steps(model, loaded, case, task.probe.max_new_tokens(case))]
    generated = [step.token for step in steps]
    start, end = answer_steps(
        generated,
        case.answer,
        lambda ids: str(loaded.tokenizer.decode(list(ids), skip_special_tokens=True)),
    )
    for name in scores.keys() & measures.keys():
        every = name == "retrieval" or task.probe.counts_all_steps
        for step in steps if every else steps[start:end]:
            scores[name][layers] += measures[name](step, case)
    if "qr" in scores:
        scores["qr"][layers] = plain_qr(model, case)
    return tuple(generated), scores
