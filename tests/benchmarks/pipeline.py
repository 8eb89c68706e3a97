"""`evaluate` against kvpress' own pipeline, on the same questions and budgets, by turns.

The pipeline reads the context anew for every budget; ``evaluate`` reads it once. kvpress compresses
after the context, so the setting is the query-agnostic one. Run in kvpress' environment:
``.venv-kvpress/bin/python tests/benchmarks/pipeline.py``, or ``make bench``.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from clock import seconds_on
from kvpress import KVPressTextGenerationPipeline, SnapKVPress

from headprobe.allocators import allocate, parse_budget
from headprobe.budgets import HeadBudgets
from headprobe.evaluation.answering import answer
from headprobe.evaluation.methods import fixed
from headprobe.evaluation.questions import Question, questions_of
from headprobe.evaluation.settings import QUERY_AGNOSTIC
from headprobe.formats.kvpress import HeadBudgetPress
from headprobe.models.device import DTYPES
from headprobe.models.loading import LoadedModel, load_model
from headprobe.prompts.grid import parse_lengths
from headprobe.prompts.spec import CaseSpec
from headprobe.runs.plan import prepare
from headprobe.tasks import TASKS


def ask_kvpress(loaded: LoadedModel, question: Question, budgets: list[HeadBudgets]) -> list[str]:
    """The pipeline's answers to a question, of which it is given the tokens, under each budget."""
    pipeline = KVPressTextGenerationPipeline(model=loaded.model, tokenizer=loaded.tokenizer)
    tokens = {
        "context_ids": torch.tensor([question.context_ids]),
        "questions_ids": [torch.tensor([question.question_ids])],
    }
    answers = []
    for one in budgets:
        press = HeadBudgetPress(SnapKVPress(window_size=one.window), one)
        with torch.inference_mode():
            answers += pipeline._forward(
                tokens, max_new_tokens=question.max_new_tokens, press=press
            )
    return answers


def main() -> None:
    """Print seconds of both, their ratio, and how many answers are equal."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--task", default="retrieval")
    parser.add_argument("--lengths", default="1000")
    parser.add_argument("--limit", type=int, default=4)
    parser.add_argument("--budgets", default="32,48,64,96,128,192,256,384,512,768")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=list(DTYPES))
    parser.add_argument("--least-gain", type=float, default=0, help="fail below so many times")
    options = parser.parse_args()
    loaded = load_model(options.model, device=options.device, dtype=options.dtype)
    task = TASKS[options.task]
    spec = CaseSpec(lengths=parse_lengths(options.lengths), limit=options.limit)
    questions = questions_of(prepare(loaded, task, spec).drawn, task.probe)
    shape = loaded.layout.layers, loaded.layout.num_heads
    scores = np.random.default_rng(0).lognormal(sigma=1.5, size=shape)
    sizes = options.budgets.split(",")
    budgets = [allocate(scores, loaded.layout, budget=parse_budget(size)) for size in sizes]
    methods = [fixed("headkv", *pair) for pair in zip(sizes, budgets, strict=True)]
    ours = theirs = alike = 0.0
    for question in questions:
        start = seconds_on(loaded.device)
        [answered] = answer(loaded, [question], methods, settings=[QUERY_AGNOSTIC])
        middle = seconds_on(loaded.device)
        said = ask_kvpress(loaded, question, budgets)
        theirs += seconds_on(loaded.device) - middle
        ours += middle - start
        found = answered[QUERY_AGNOSTIC].responses[1:]
        alike += sum(one == other.strip() for one, other in zip(found, said, strict=True))
        print(f"evaluate {ours:.1f} s, kvpress {theirs:.1f} s", flush=True)
    print(
        f"{options.model}, {len(questions)} questions of {options.lengths} tokens, {len(methods)} "
        f"budgets: kvpress / evaluate {theirs / ours:.1f}; "
        f"{alike:.0f} of {len(questions) * len(methods)} answers are equal"
    )
    if theirs < options.least_gain * ours:
        raise SystemExit(f"expected at least {options.least_gain} times")


if __name__ == "__main__":
    main()
