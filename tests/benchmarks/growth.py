"""Cost as the work grows: needles, depths, lengths, context length: ``make bench``.

From a base grid one thing at a time is grown. Ratios are to the base, in the same run.
"""

from __future__ import annotations

import argparse
import time

from models import NAMES, draw, load, wait_for

from headprobe.models.device import DTYPES
from headprobe.runs.case_runner import observe_cases
from headprobe.runs.prefix_tree import PrefixTree
from headprobe.tasks import TASKS


def main() -> None:
    """Print cases, tokens and seconds of every grid."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="nano", choices=NAMES)
    parser.add_argument("--longest", type=int, default=1024, help="tokens, in the base grid")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=list(DTYPES))
    options = parser.parse_args()
    loaded = load(options.model, device=options.device, dtype=options.dtype)
    top = options.longest
    base = {"lengths": f"{top // 2}:{top}:2", "depths": "0:100:3", "needles": 2}
    grids = {
        "base": {},
        "needles x 2": {"needles": 4},
        "needles x 4": {"needles": 8},
        "depths x 2": {"depths": "0:100:6"},
        "depths x 4": {"depths": "0:100:12"},
        "lengths x 2": {"lengths": f"{top // 2}:{top}:4"},
        "lengths x 4": {"lengths": f"{top // 2}:{top}:8"},
        "context x 2": {"lengths": f"{top}:{2 * top}:2"},
    }
    list(observe_cases(loaded, draw(loaded, **base)[:1], TASKS["r2"], decode="forced"))
    print("| grid | cases | prompt tokens | distinct tokens | seconds | ratio |")
    print("|---|---|---|---|---|---|")
    first = None
    for name, change in grids.items():
        cases = draw(loaded, **base | change)
        tree = PrefixTree.of([case.input_ids for case in cases])
        start = time.perf_counter()
        list(observe_cases(loaded, cases, TASKS["r2"], tree=tree, decode="forced"))
        wait_for(loaded.device)
        seconds = time.perf_counter() - start
        first = first or seconds
        print(
            f"| {name} | {len(cases)} | {int(tree.lengths.sum()):,} | {tree.unique_tokens:,} "
            f"| {seconds:.2f} | {seconds / first:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
