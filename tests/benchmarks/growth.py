"""Cost as the work grows: needles, depths, lengths, heads, budgets, questions: ``make bench``.

From a base one thing at a time is grown. Ratios are to the base, in the same run; a ratio of more
than 1.5 times what was grown fails.
"""

from __future__ import annotations

import argparse
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial

import numpy as np
from clock import timed
from evaluate import questions
from models import NAMES, SHAPES, draw, load, random_model

from headprobe.allocators import BudgetSize, allocate
from headprobe.evaluation.answering import answer
from headprobe.evaluation.methods import fixed
from headprobe.models.device import DTYPES
from headprobe.models.loading import LoadedModel
from headprobe.runs.case_runner import observe_cases
from headprobe.runs.prefix_tree import PrefixTree
from headprobe.tasks import TASKS

Measured = Iterator[tuple[str, float, int]]
"""What was done, with its seconds and how many times more it is than the first."""

MOST = 1.5


def least_seconds(loaded: LoadedModel, work: Callable[[], Iterable[object]]) -> float:
    """The seconds of the faster of two runs: what else the machine does slows one of them."""
    seconds = []
    for _ in range(2):
        seconds.append(timed(lambda: deque(work(), maxlen=0), loaded.device))
    return min(seconds)


def score(loaded: LoadedModel, name: str, grid: Mapping[str, str | int]) -> tuple[str, float]:
    """Score a grid of cases, forced."""
    cases = draw(loaded, **grid)
    tree = PrefixTree.of([case.input_ids for case in cases])
    done = (
        f"{name} | {len(cases)} cases, {int(tree.lengths.sum()):,} prompt tokens, "
        f"{tree.unique_tokens:,} distinct"
    )
    work = partial(observe_cases, loaded, cases, TASKS["r2"], tree=tree, decode="forced")
    return done, least_seconds(loaded, work)


def grow_grid(loaded: LoadedModel, base: Mapping[str, str | int], top: int) -> Measured:
    """Score more and longer cases."""
    grown = [
        ("needles", 1, {}),
        ("needles", 2, {"needles": 4}),
        ("needles", 4, {"needles": 8}),
        ("depths", 2, {"depths": "0:100:6"}),
        ("depths", 4, {"depths": "0:100:12"}),
        ("lengths", 2, {"lengths": f"{top // 2}:{top}:4"}),
        ("lengths", 4, {"lengths": f"{top // 2}:{top}:8"}),
        ("context", 2, {"lengths": f"{top}:{2 * top}:2"}),
    ]
    for name, times, change in grown:
        yield *score(loaded, f"{name} x {times}", {**base, **change}), times


def grow_heads(loaded: LoadedModel, base: Mapping[str, str | int]) -> Measured:
    """Score one width of random weights, divided into more heads."""
    for heads in (8, 16, 32):
        shape = SHAPES["random-8x512"] | {
            "num_attention_heads": heads,
            "num_key_value_heads": heads // 2,
        }
        model = random_model(loaded, f"{heads} heads", shape)
        yield *score(model, f"{heads} heads a layer", base), 1


def grow_budgets(loaded: LoadedModel, *, tokens: int) -> Measured:
    """Answer questions under more budgets, and more questions."""
    layout = loaded.layout
    scores = np.random.default_rng(0).lognormal(sigma=1.5, size=(layout.layers, layout.num_heads))
    for count, asked in ((4, 1), (8, 1), (16, 1), (4, 2), (4, 4)):
        sizes = [BudgetSize(tokens=16 * n + 16) for n in range(count)]
        methods = [
            fixed("headkv", str(size.tokens), allocate(scores, layout, budget=size))
            for size in sizes
        ]
        drawn = questions(loaded, count=asked, tokens=tokens, answer=16)
        done = f"{count} budgets, {asked} questions | {tokens} tokens, both settings"
        seconds = least_seconds(loaded, partial(answer, loaded, drawn, methods))
        yield done, seconds, count * asked // 4


def show(measured: Measured) -> list[str]:
    """Print a row for each, and its ratio to the first; return what grew more than the work."""
    first, slow = None, []
    for done, seconds, times in measured:
        first = first or seconds
        print(f"| {done} | {seconds:.2f} | {seconds / first:.2f} |", flush=True)
        slow += [done] if seconds / first > MOST * times else []
    return slow


def main() -> None:
    """Print what was done, seconds and ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="nano", help=NAMES)
    parser.add_argument("--longest", type=int, default=1024, help="tokens, in the base grid")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=list(DTYPES))
    options = parser.parse_args()
    loaded = load(options.model, device=options.device, dtype=options.dtype)
    top = options.longest
    base = {"lengths": f"{top // 2}:{top}:2", "depths": "0:100:3", "needles": 2}
    list(observe_cases(loaded, draw(loaded, **base)[:1], TASKS["r2"], decode="forced"))
    print("| grown | work | seconds | ratio |")
    print("|---|---|---|---|")
    slow = [*show(grow_grid(loaded, base, top)), *show(grow_heads(loaded, base))]
    list(grow_budgets(loaded, tokens=64))
    slow += show(grow_budgets(loaded, tokens=top))
    if slow:
        raise SystemExit(f"grew by more than {MOST} times the work: {'; '.join(slow)}")


if __name__ == "__main__":
    main()
