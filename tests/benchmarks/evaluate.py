"""Seconds and passes of an evaluation: questions under many budgets, in both settings.

Random weights never end an answer, so that every one takes all its tokens: the most that can be
asked of it. Each size is divided by headkv from scores as uneven as real ones and meets the five
baselines. The peer generates once a budget and setting; here that is estimated from one generation
with transformers' own cache. On a GPU: ``--model qwen2.5-0.5b --device cuda --dtype bfloat16``.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from clock import seconds_on, timed
from models import NAMES, load
from transformers import DynamicCache

from headprobe.allocators import allocate, parse_budget
from headprobe.attention.kernels import allowed_kernels
from headprobe.evaluation.answering import answer
from headprobe.evaluation.baselines import with_baselines
from headprobe.evaluation.methods import fixed
from headprobe.evaluation.questions import Question
from headprobe.models.device import DTYPES
from headprobe.models.loading import LoadedModel


def questions(loaded: LoadedModel, *, count: int, tokens: int, answer: int) -> list[Question]:
    """Random tokens, the last 40 of them the question."""
    random = np.random.default_rng(0)
    drawn = random.integers(3, len(loaded.tokenizer), (count, tokens)).tolist()
    return [
        Question(
            question_id=number,
            group=number,
            context_ids=tuple(ids[:-40]),
            question_ids=tuple(ids[-40:]),
            answers=("",),
            max_new_tokens=answer,
        )
        for number, ids in enumerate(drawn)
    ]


@torch.inference_mode()
def generate(loaded: LoadedModel, question: Question) -> float:
    """Seconds of one answer with transformers' own cache."""
    cache = DynamicCache(config=loaded.model.config)
    ids = torch.tensor([[*question.context_ids, *question.question_ids]], device=loaded.device)
    start = seconds_on(loaded.device)
    with allowed_kernels(loaded.device):
        for _ in range(question.max_new_tokens):
            output = loaded.model(ids, past_key_values=cache, logits_to_keep=1)
            ids = output.logits[:, -1].argmax(dim=-1, keepdim=True)
    return seconds_on(loaded.device) - start


def main() -> None:
    """Print seconds and forward passes a question, and what one generation a budget would take."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="nano", help=NAMES)
    parser.add_argument("--questions", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=1000)
    parser.add_argument("--max-new-tokens", type=int, default=16)
    parser.add_argument("--budgets", default="32,48,64,96,128", help="each with five baselines")
    parser.add_argument("--least-gain", type=float, default=0, help="fail below so many times")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=DTYPES)
    options = parser.parse_args()
    loaded = load(options.model, device=options.device, dtype=options.dtype)
    asked = questions(
        loaded,
        count=options.questions + 1,
        tokens=options.tokens,
        answer=options.max_new_tokens,
    )
    layout = loaded.layout
    scores = np.random.default_rng(0).lognormal(sigma=1.5, size=(layout.layers, layout.num_heads))
    methods = with_baselines(
        [
            fixed("headkv", size, allocate(scores, layout, budget=parse_budget(size)))
            for size in options.budgets.split(",")
        ],
        seed=0,
    )
    passes = 0

    def count(*_: object) -> None:
        nonlocal passes
        passes += 1

    loaded.model.register_forward_pre_hook(count)
    seconds = []
    answers = answer(loaded, asked, methods)
    for _ in asked:
        seconds.append(timed(lambda: next(answers), loaded.device))
    first, *others = seconds
    each = passes / len(asked)
    generate(loaded, asked[0])
    once = float(np.median([generate(loaded, question) for question in asked[:3]]))
    total, peer = sum(others), once * 2 * len(methods) * len(others)
    print(
        f"{options.model}, {len(others)} questions of {options.tokens} tokens, {len(methods)} "
        f"budgets, 2 settings, {options.max_new_tokens} tokens an answer: {total:.1f} s after "
        f"{first:.1f} s of the first, median {np.median(others):.2f} s a question, "
        f"{each:.1f} passes a question; a generation a budget and setting: {once:.3f} s each, "
        f"{peer:.0f} s in all, {peer / total:.0f} times"
    )
    if peer < options.least_gain * total:
        raise SystemExit(f"expected at least {options.least_gain} times the peer")


if __name__ == "__main__":
    main()
