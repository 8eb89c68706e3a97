"""Decoding over a cut cache against the full one, in the same run: ``make bench``.

Random weights do for latency and memory. Each model prefills the context, then decodes token by
token: once over transformers' own cache, once for each budget over the ragged one. Budgets are
shared out by headkv from scores as uneven as real ones, so that every head has its own length. On
a GPU: ``--models llama3-8b --lengths 32768,131072 --device cuda --dtype bfloat16``.
"""

from __future__ import annotations

import argparse
import time
from contextlib import nullcontext

import numpy as np
import torch
from models import NAMES, load, wait_for
from transformers import DynamicCache, PreTrainedModel

from headprobe.allocators import allocate, parse_budget
from headprobe.budgets import HeadBudgets
from headprobe.compression import HeadBudgetCache
from headprobe.models.config import head_layout
from headprobe.models.device import DTYPES

CHUNK = 2048


def share_out(model: PreTrainedModel, budget: str, length: int) -> HeadBudgets:
    """A headkv budget of log-normal scores."""
    layout = head_layout(model.config, id="benchmark")
    scores = np.random.default_rng(0).lognormal(sigma=1.5, size=(layout.layers, layout.heads))
    return allocate(scores, layout, budget=parse_budget(budget), context_length=length)


def decode(
    model: PreTrainedModel, length: int, steps: int, budgets: HeadBudgets | None
) -> tuple[float, float]:
    """Seconds a token (median) and bytes of cache, behind a context of ``length`` tokens."""
    device = model.device
    ids = torch.randint(model.config.vocab_size, (1, length), device=device)
    own = DynamicCache(config=model.config)
    cut = None if budgets is None else HeadBudgetCache(model, budgets, cut_at=length)
    with cut or nullcontext(own) as cache:
        for chunk in ids.split(CHUNK, dim=1):
            model(chunk, past_key_values=cache, logits_to_keep=1)
        held = cut.nbytes if cut else sum(x.keys.nbytes + x.values.nbytes for x in own.layers)
        seconds = []
        for _ in range(steps):
            wait_for(device)
            start = time.perf_counter()
            # Reading the token waits for the device.
            model(ids[:, :1], past_key_values=cache).logits.argmax().item()
            seconds.append(time.perf_counter() - start)
    return float(np.median(seconds)), held


@torch.inference_mode()
def main() -> None:
    """Print milliseconds a token and mebibytes of cache, full and cut, at each length."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default="nano,random-8x512", help=", ".join(NAMES))
    parser.add_argument("--lengths", default="2048,8192,16384")
    parser.add_argument("--budgets", default="128,20%,100%", help="a KV head, on average")
    parser.add_argument("--steps", type=int, default=32, help="tokens that are timed")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=DTYPES)
    options = parser.parse_args()
    print("| model | context | budget | full, ms | cut, ms | ratio | full, MiB | cut, MiB |")
    print("|---|---|---|---|---|---|---|---|")
    for name in options.models.split(","):
        model = load(name, device=options.device, dtype=options.dtype).model
        for length in map(int, options.lengths.split(",")):
            full, full_bytes = decode(model, length, options.steps, None)
            for budget in options.budgets.split(","):
                budgets = share_out(model, budget, length)
                cut, cut_bytes = decode(model, length, options.steps, budgets)
                print(
                    f"| {name} | {length} | {budget} | {full * 1e3:.2f} | {cut * 1e3:.2f} "
                    f"| {cut / full:.2f} | {full_bytes / 2**20:.1f} | {cut_bytes / 2**20:.1f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
