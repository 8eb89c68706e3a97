"""Ours against the peers' procedure and against the floor, on the same cases: ``make bench``.

The peers run each case from scratch: the prompt with SDPA (or ``--prefill eager``), then token by
token with ``output_attentions=True``, which takes eager attention, and the heads of every layer one
by one in Python. In float32 their scores must equal ours. They are timed on a sample of the cases
and scaled by prompt tokens. The floor is the plain forward pass over the tokens that prompts do not
share.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np
import torch
from clock import timed
from models import NAMES, draw, load
from transformers import DynamicCache

from headprobe.attention.observe import forward
from headprobe.attention.prefix_cache import PrefixCache
from headprobe.models.device import DTYPES
from headprobe.models.loading import LoadedModel
from headprobe.prompts.case import Case
from headprobe.runs.case_runner import Decode, observe_cases
from headprobe.runs.memory import ChunkSizes
from headprobe.runs.observation import Observation
from headprobe.runs.prefix_tree import PrefixTree
from headprobe.tasks import TASKS


@torch.inference_mode()
def peer(loaded: LoadedModel, case: Case, decode: Decode, prefill: str) -> np.ndarray:
    """The r2 scores of one case, ``[layer, head]``, as the peers compute them."""
    model, cache = loaded.model, DynamicCache()
    inputs = torch.tensor([case.input_ids], device=loaded.device)
    model.set_attn_implementation(prefill)
    model(inputs[:, :-1], past_key_values=cache, use_cache=True, logits_to_keep=1)
    model.set_attn_implementation("eager")
    token = inputs[:, -1:]
    scores = np.zeros((loaded.layout.layers, loaded.layout.num_heads))
    size = case.span_end - case.span_start
    for expected in case.answer_ids:
        output = model(token, past_key_values=cache, use_cache=True, output_attentions=True)
        for layer, rows in enumerate(output.attentions):
            for head in range(rows.shape[1]):
                values, places = rows[0, head, -1].topk(size)
                for value, place in zip(values, places, strict=True):
                    if case.span_start <= place < case.span_end:
                        scores[layer, head] += float(value) / size
        token = output.logits[:, -1:].argmax(-1)
        if decode == "forced":
            token = torch.full_like(token, expected)
        elif "\n" in loaded.tokenizer.decode(token[0]):
            break
    return scores


@torch.inference_mode()
def floor(loaded: LoadedModel, cases: Sequence[Case], tree: PrefixTree, chunk: int) -> None:
    """Run every distinct token of the prompts, and nothing else."""
    cache = PrefixCache(loaded.model, max(case.length for case in cases))
    for path in tree.paths(range(len(cases)), packed=False):
        cache.crop(path.shared)
        prompt = torch.tensor([cases[path.prompt].input_ids[path.shared :]], device=loaded.device)
        for piece in torch.split(prompt, chunk, dim=1):
            forward(loaded.model, piece, past_key_values=cache, logits_to_keep=1, use_cache=True)


def main() -> None:
    """Print seconds for all cases, and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="nano", help=NAMES)
    parser.add_argument("--lengths", default="256:2048:10")
    parser.add_argument("--depths", default="0:100:10")
    parser.add_argument("--needles", type=int, default=1)
    parser.add_argument("--decode", default="greedy", choices=["greedy", "forced"])
    parser.add_argument("--sample", type=int, default=10, help="cases that the peer is timed on")
    parser.add_argument("--rounds", type=int, default=3, help="of ours and the floor; the median")
    parser.add_argument(
        "--prefill", default="sdpa", choices=["sdpa", "eager"], help="how the peer reads prompts"
    )
    parser.add_argument("--chunk", type=int, default=2048)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=list(DTYPES))
    parser.add_argument("--most", type=float, help="fail above so many times the floor")
    options = parser.parse_args()
    loaded = load(options.model, device=options.device, dtype=options.dtype)
    cases = draw(loaded, lengths=options.lengths, depths=options.depths, needles=options.needles)
    tree = PrefixTree.of([case.input_ids for case in cases])
    seen: list[Observation] = []
    how = {
        "decode": options.decode,
        "tree": tree,
        "chunk_sizes": ChunkSizes(prefill_chunk=options.chunk),
    }
    list(observe_cases(loaded, cases, TASKS["r2"], wanted=[0], **how))
    seconds = [
        (
            timed(
                lambda: seen.extend(observe_cases(loaded, cases, TASKS["r2"], **how)), loaded.device
            ),
            timed(lambda: floor(loaded, cases, tree, options.chunk), loaded.device),
        )
        for _ in range(options.rounds)
    ]
    ours, least = np.median(seconds, axis=0)

    sample = [cases[i] for i in np.linspace(0, len(cases) - 1, options.sample).astype(int)]
    scores: list[np.ndarray] = []
    peer(loaded, sample[0], options.decode, options.prefill)
    theirs = timed(
        lambda: scores.extend(
            peer(loaded, case, options.decode, options.prefill) for case in sample
        ),
        loaded.device,
    )
    observed = {one.case_id: one.scores["r2"] for one in seen}
    if options.dtype == "float32":
        for case, expected in zip(sample, scores, strict=True):
            np.testing.assert_allclose(observed[case.case_id], expected, atol=1e-4)
    tokens = int(tree.lengths.sum())
    theirs *= tokens / sum(case.length for case in sample)
    print(
        f"{options.model}, {options.dtype} on {options.device}, {options.decode}, "
        f"lengths {options.lengths}, depths {options.depths}: {len(cases)} cases, "
        f"{tokens:,} prompt tokens, {tree.unique_tokens:,} distinct\n\n"
        "| peer, s | headprobe, s | floor, s | peer / headprobe | headprobe / floor |\n"
        "|---|---|---|---|---|\n"
        f"| {theirs:.1f} | {ours:.1f} | {least:.1f} | {theirs / ours:.1f} | {ours / least:.2f} |",
        flush=True,
    )
    if options.most is not None and ours > options.most * least:
        raise SystemExit(f"expected at most {options.most} times the floor")


if __name__ == "__main__":
    main()
