"""Ours against the peers' procedure, on the same cases in the same run: ``make bench``.

The peers run each case from scratch and decode token by token with ``output_attentions=True``,
which takes eager attention, and go through the heads of every layer in Python. Their generated
tokens and scores must equal ours.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from transformers import AutoModelForCausalLM, DynamicCache

from headprobe.bundled import bundled
from headprobe.cases import Case, hide_needles
from headprobe.haystacks import sentences
from headprobe.model import LoadedModel, load_model
from headprobe.needles import read_needles
from headprobe.tasks import TASKS
from headprobe.walk import walk


def peer(model: torch.nn.Module, loaded: LoadedModel, case: Case) -> np.ndarray:
    """The r2 scores of one case, ``[layer, head]``, as the peers compute them."""
    cache = DynamicCache()
    inputs = torch.tensor([case.input_ids])
    model(inputs[:, :-1], past_key_values=cache, use_cache=True)
    token = inputs[:, -1:]
    scores = np.zeros((loaded.layout.layers, loaded.layout.heads))
    size = case.span_end - case.span_start
    for _ in case.answer_ids:
        output = model(token, past_key_values=cache, use_cache=True, output_attentions=True)
        for layer, rows in enumerate(output.attentions):
            for head in range(rows.shape[1]):
                values, places = rows[0, head, -1].topk(size)
                for value, place in zip(values, places, strict=True):
                    if case.span_start <= place < case.span_end:
                        scores[layer, head] += float(value) / size
        token = output.logits[:, -1:].argmax(-1)
        if "\n" in loaded.tokenizer.decode(token[0]):
            break
    return scores


def main() -> None:
    """Print seconds a case for both, and their ratio, at each length."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lengths", default="256,1024,2048")
    parser.add_argument("--cases", type=int, default=10, help="cases a length")
    options = parser.parse_args()
    loaded = load_model("nano", device="cpu", dtype="float32")
    eager = AutoModelForCausalLM.from_pretrained(
        bundled("models", "nano"), attn_implementation="eager", dtype=torch.float32
    ).eval()
    print("| length | peer, s a case | headprobe, s a case | ratio |\n|---|---|---|---|")
    for length in map(int, options.lengths.split(",")):
        cases = hide_needles(
            read_needles(bundled("needles", "nano", "r2.jsonl")),
            sentences=sentences("noise", seed=0),
            tokenizer=loaded.tokenizer,
            lengths=[length],
            depths=[0.0, 25.0, 50.0, 75.0, 100.0],
            limit=options.cases,
        )
        start = time.perf_counter()
        ours = [seen.scores["r2"] for seen in walk(loaded, cases, TASKS["r2"])]
        middle = time.perf_counter()
        with torch.inference_mode():
            theirs = [peer(eager, loaded, case) for case in cases]
        end = time.perf_counter()
        np.testing.assert_allclose(ours, theirs, atol=1e-4)
        fast, slow = (middle - start) / len(cases), (end - middle) / len(cases)
        print(f"| {length} | {slow:.3f} | {fast:.3f} | {slow / fast:.1f} |", flush=True)


if __name__ == "__main__":
    main()
