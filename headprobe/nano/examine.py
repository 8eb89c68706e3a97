"""Measure the nano model's accuracy: ``python -m headprobe.nano.examine``.

The accuracy of free greedy generation is measured at every length and depth, on needles of held-out
words and wordings, drawn by the seed; and again with the needle removed, and with the two people's
facts swapped (the answer should follow).
"""

from __future__ import annotations

import argparse
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch

from headprobe.models.loading import LoadedModel, load_model
from headprobe.nano.needles import reasoning_needles, retrieval_needles
from headprobe.prompts.build import hide_needles
from headprobe.prompts.case import Case
from headprobe.prompts.haystacks import NOISE, sentences
from headprobe.prompts.needles import Needle, parse_needle
from headprobe.prompts.style import PromptWriter
from headprobe.tasks import PASSED_ABOVE, TASKS, Probe

LENGTHS = (128, 256, 512, 1024, 1536, 2048)
DEPTHS = (0.0, 25.0, 50.0, 75.0, 100.0)
MAX_NEW_TOKENS = 8


def swapped(needle: Needle, wrong: str) -> Needle:
    """Swap the right and the wrong answer in a needle."""
    other = {needle.answer: wrong, wrong: needle.answer}
    pattern = re.compile("|".join(map(re.escape, sorted(other, key=len, reverse=True))))
    text = pattern.sub(lambda found: other[found[0]], needle.text)
    start = text.index(wrong)
    return replace(
        needle,
        text=text,
        answer=wrong,
        wrong_answer=needle.answer,
        start=start,
        stop=start + len(wrong),
    )


def accuracy(
    loaded: LoadedModel,
    needles: Sequence[Needle],
    probe: Probe,
    length: int,
    depth: float,
    *,
    seed: int,
) -> float:
    """Compute the fraction of needles, hidden at one length and depth, whose answers pass."""
    cases = _hide(loaded, needles, length, depth, seed)
    return _answered(loaded, cases, probe, [list(case.input_ids) for case in cases])


def accuracy_without(
    loaded: LoadedModel, needles: Sequence[Needle], probe: Probe, length: int, *, seed: int
) -> float:
    """Compute the accuracy at half depth with the needles' tokens replaced by prose."""
    cases = _hide(loaded, needles, length, 50.0, seed)
    prompts = []
    for case, needle in zip(cases, needles, strict=True):
        size = len(loaded.tokenizer(" " + needle.text, add_special_tokens=False)["input_ids"])
        ids = list(case.input_ids)
        ids[case.position : case.position + size] = ids[1 : 1 + size]
        prompts.append(ids)
    return _answered(loaded, cases, probe, prompts)


def _hide(
    loaded: LoadedModel, needles: Sequence[Needle], length: int, depth: float, seed: int
) -> list[Case]:
    return hide_needles(
        needles,
        sentences=sentences(NOISE, seed=seed),
        writer=PromptWriter(loaded.tokenizer),
        lengths=[length],
        depths=[depth],
    )


@torch.inference_mode()
def _answered(
    loaded: LoadedModel, cases: Sequence[Case], probe: Probe, prompts: Sequence[Sequence[int]]
) -> float:
    passed = 0
    for start in range(0, len(prompts), 16):
        ids = torch.tensor(prompts[start : start + 16], device=loaded.device)
        written = loaded.model.generate(  # type: ignore[operator]
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=MAX_NEW_TOKENS,
        )
        for case, row in zip(cases[start : start + 16], written[:, ids.shape[1] :], strict=True):
            answer = str(loaded.tokenizer.decode(row, skip_special_tokens=True))
            passed += probe.score(answer.split("\n")[0].strip(), case) > PASSED_ABOVE
    return passed / len(cases)


def _grid(title: str, at: Callable[[int, float], float]) -> None:
    print(f"\n{title}\n")
    print("| length | " + " | ".join(f"{depth:.0f} %" for depth in DEPTHS) + " |")
    print("|---" * (len(DEPTHS) + 1) + "|")
    for length in LENGTHS:
        row = [f"{100 * at(length, depth):.1f}" for depth in DEPTHS]
        print(f"| {length} | " + " | ".join(row) + " |", flush=True)


def main() -> None:
    """Print the grids of accuracy as Markdown tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--needles", type=int, default=96, help="needles a cell, about")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    loaded = load_model(options.model)
    rng = random.Random(options.seed)
    reasoning = [needle for _ in range(options.needles // 24) for needle in reasoning_needles(rng)]
    plain = [needle for _ in range(options.needles // 24) for needle in retrieval_needles(rng)]
    sets = {
        "retrieval": (plain, TASKS["retrieval"].probe),
        "r2, linking": ([n for n in reasoning if n["kind"] == "linking"], TASKS["r2"].probe),
        "r2, comparing": ([n for n in reasoning if n["kind"] == "comparing"], TASKS["r2"].probe),
    }
    for name, (fields, probe) in sets.items():
        needles = [parse_needle(one) for one in fields]
        _grid(
            f"{name}: passed, per cent of {len(needles)} needles a cell",
            partial(accuracy, loaded, needles, probe, seed=1),
        )
        gone = accuracy_without(loaded, needles, probe, 512, seed=1)
        print(f"\nneedle removed, length 512: {100 * gone:.1f} % passed")
        if "wrong_answer" in fields[0]:
            turned = [swapped(n, f["wrong_answer"]) for n, f in zip(needles, fields, strict=True)]
            followed = accuracy(loaded, turned, probe, 512, 50.0, seed=1)
            print(f"facts swapped, length 512: {100 * followed:.1f} % follow")


if __name__ == "__main__":
    main()
