"""Decoding over a compressed cache against the full one, in the same run: ``make bench``.

Random weights and random entries do for latency and memory. The full cache has its memory set aside
and no mask, so that PyTorch takes its best kernel and copies nothing; it takes turns with the
compressed one. Budgets are made by headkv from scores as uneven as real ones, so that every head
has its own length. On CUDA each is also decoded as a captured step (``GreedyDecoder``); the full
cache is then one whose budget drops nothing. On a GPU: ``--models llama3-8b --lengths 32768,131072
--device cuda --dtype bfloat16``.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from clock import wait_for
from models import NAMES, load
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache

from headprobe.allocators import allocate, parse_budget
from headprobe.attention.kernels import allowed_kernels
from headprobe.attention.prefix_cache import PrefixCache
from headprobe.budgets import HeadBudgets
from headprobe.compression import GreedyDecoder, HeadBudgetCache
from headprobe.models.config import head_layout
from headprobe.models.device import DTYPES

WARM_UP, ROUNDS = 4, 4


def share_out(model: PreTrainedModel, budget: str, length: int) -> HeadBudgets:
    """A headkv budget of log-normal scores."""
    layout = head_layout(model.config, id="benchmark")
    scores = np.random.default_rng(0).lognormal(sigma=1.5, size=(layout.layers, layout.num_heads))
    return allocate(scores, layout, budget=parse_budget(budget), context_length=length)


def fill(model: PreTrainedModel, cache: Cache, length: int) -> None:
    """Put random entries into an empty cache, and random queries where a compression needs some."""
    layout = head_layout(model.config, id="benchmark")

    def states(heads: int, tokens: int) -> Tensor:
        shape = (1, heads, tokens, layout.head_dim)
        return torch.randn(shape, device=model.device, dtype=model.dtype)

    for index in range(layout.layers):
        keys, values = (states(layout.num_kv_heads, length) for _ in range(2))
        cache.update(keys, values, index)
        if isinstance(cache, HeadBudgetCache):
            layer = cache.layers[index]
            layer.see(states(layout.num_heads, 8), None, {}, before=None, compress_at=length)


def timed(step: Callable[[], object], count: int, device: torch.device) -> list[float]:
    """Seconds of each of some steps, warmed up."""
    seconds = []
    for _ in range(WARM_UP + count):
        wait_for(device)
        start = time.perf_counter()
        step()
        wait_for(device)
        seconds.append(time.perf_counter() - start)
    return seconds[WARM_UP:]


def by_turns(model: PreTrainedModel, caches: Sequence[Cache], count: int) -> Iterator[float]:
    """Median seconds a token over each of some caches, which take turns."""
    token = torch.zeros(1, 1, dtype=torch.int64, device=model.device)
    seconds: list[list[float]] = [[] for _ in caches]
    for _ in range(ROUNDS):
        for cache, own in zip(caches, seconds, strict=True):
            with cache if isinstance(cache, HeadBudgetCache) else allowed_kernels(model.device):
                own += timed(
                    lambda cache=cache: model(  # type: ignore[misc]
                        token, past_key_values=cache, logits_to_keep=1
                    ).logits.argmax(),
                    count,
                    model.device,
                )
    return map(float, map(np.median, seconds))


def captured(model: PreTrainedModel, cache: HeadBudgetCache, count: int) -> float:
    """Median seconds of a captured step over a compressed cache."""
    token = torch.zeros(1, dtype=torch.int64, device=model.device)
    with cache:
        decoder = GreedyDecoder(model, cache, max_new_tokens=WARM_UP + count)
        return float(np.median(timed(lambda: decoder.step(token), count, model.device)))


def measure(
    model: PreTrainedModel, length: int, budgets: Sequence[str], count: int
) -> Iterator[str]:
    """A row of the table for each budget."""
    steps = ROUNDS * (WARM_UP + count)
    whole = PrefixCache(model, length + (1 + len(budgets)) * steps)
    fill(model, whole, length)
    whole_bytes = sum(layer.keys.nbytes + layer.values.nbytes for layer in whole.layers)
    on_gpu = model.device.type == "cuda"
    if on_gpu:
        everything = HeadBudgetCache(model, share_out(model, "100%", length))
        with everything:
            fill(model, everything, length)
        best = captured(model, everything, count)
        del everything
    for budget in budgets:
        compressed = HeadBudgetCache(model, share_out(model, budget, length))
        with compressed:
            fill(model, compressed, length)
        held = compressed.nbytes
        compressed.set_aside(steps)
        full, plain = by_turns(model, [whole, compressed], count)
        columns = [budget, *_compared(full, plain)]
        columns += _compared(best, captured(model, compressed, count)) if on_gpu else ["-"] * 3
        yield " | ".join([*columns, f"{whole_bytes / 2**20:.1f}", f"{held / 2**20:.1f}"])


def _compared(full: float, compressed: float) -> list[str]:
    return [f"{full * 1e3:.2f}", f"{compressed * 1e3:.2f}", f"{compressed / full:.2f}"]


@torch.inference_mode()
def main() -> None:
    """Print milliseconds a token and mebibytes of cache, full and compressed, at each length."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default="nano,random-8x512", help=NAMES)
    parser.add_argument("--lengths", default="2048,8192,16384")
    parser.add_argument("--budgets", default="128,20%,100%", help="a KV head, on average")
    parser.add_argument("--steps", type=int, default=8, help="tokens that are timed in a round")
    parser.add_argument("--most", type=float, help="fail where compressed takes so many times full")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=DTYPES)
    options = parser.parse_args()
    print(
        "| model | context | budget | full, ms | compressed, ms | ratio "
        "| full captured, ms | compressed captured, ms | ratio | full, MiB | compressed, MiB |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for name in options.models.split(","):
        model = load(name, device=options.device, dtype=options.dtype).model
        for length in map(int, options.lengths.split(",")):
            for row in measure(model, length, options.budgets.split(","), options.steps):
                print(f"| {name} | {length} | {row} |", flush=True)
                ratio = float(row.split(" | ")[3])
                if options.most is not None and ratio > options.most:
                    raise SystemExit(f"expected a ratio of at most {options.most}, got {ratio}")


if __name__ == "__main__":
    main()
