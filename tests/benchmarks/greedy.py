"""Greedy answers against forced ones on the same cases, by turns in one process: ``make bench``.

Forced, every answer takes one pass with its prompt; greedy, what no draft says takes a pass a step.
A chat model is asked for: ``--model DIRECTORY --task retrieval``, on a GPU with ``--device cuda
--dtype bfloat16 --lengths 1000:10000:10 --limit 64``.
"""

from __future__ import annotations

import argparse

import numpy as np
from clock import seconds_on

from headprobe.models.device import DTYPES
from headprobe.models.loading import load_model
from headprobe.prompts.grid import parse_lengths
from headprobe.prompts.spec import CaseSpec
from headprobe.runs.case_runner import observe_cases
from headprobe.runs.plan import prepare
from headprobe.tasks import TASKS


def main() -> None:
    """Print seconds of both, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--task", default="r2")
    parser.add_argument("--lengths", default="512,1024,2048")
    parser.add_argument("--limit", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=list(DTYPES))
    parser.add_argument("--most", type=float, default=1.5, help="fail above this ratio")
    options = parser.parse_args()
    loaded = load_model(options.model, device=options.device, dtype=options.dtype)
    task = TASKS[options.task]
    spec = CaseSpec(lengths=parse_lengths(options.lengths), limit=options.limit)
    run = prepare(loaded, task, spec)
    ratios = []
    for _ in range(options.rounds):
        seconds = {}
        for decode in ("forced", "greedy"):
            start = seconds_on(loaded.device)
            list(
                observe_cases(
                    loaded,
                    run.cases,
                    task,
                    tree=run.tree,
                    decode=decode,
                    chunk_sizes=run.chunk_sizes,
                )
            )
            seconds[decode] = seconds_on(loaded.device) - start
        ratios.append(seconds["greedy"] / seconds["forced"])
        print(f"forced {seconds['forced']:.1f} s, greedy {seconds['greedy']:.1f} s", flush=True)
    ratio = float(np.median(ratios))
    print(
        f"{options.model}, {options.dtype} on {options.device}, {options.task}, "
        f"{len(run.cases)} cases: greedy {ratio:.2f} times forced"
    )
    if ratio > options.most:
        raise SystemExit(f"expected at most {options.most} times")


if __name__ == "__main__":
    main()
