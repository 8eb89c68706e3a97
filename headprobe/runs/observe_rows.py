"""Observe the attention rows that a run keeps, once its scores are known.

A chosen case is read a second time, with the answer that it got: a few more forward passes, and
nothing has to be held while the run does not know yet which cases and heads will be the telling
ones.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, UInt8

from headprobe.attention.observe import forward, observe
from headprobe.attention.prefix_cache import PrefixCache, reads_whole
from headprobe.attention.rows import AttentionRows
from headprobe.errors import HeadprobeWarning
from headprobe.models.layout import Head
from headprobe.models.logits import last_position
from headprobe.prompts.case import Case
from headprobe.runs.kept_rows import BINS, MOST_STEPS, TOP_TOKENS, KeptCase
from headprobe.runs.memory import LEAST_CHUNK, ChunkSizes
from headprobe.runs.observation import Observation
from headprobe.tasks import Probe

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from headprobe.models.loading import LoadedModel


def observe_rows(
    loaded: LoadedModel,
    cases: Sequence[Case],
    observations: Sequence[Observation],
    chosen: Mapping[int, str],
    *,
    probe: Probe,
    heads: Sequence[Head],
    chunk_sizes: ChunkSizes,
) -> Iterator[KeptCase]:
    """Read the chosen cases again and yield their rows; a case that memory is too small for is not.

    Args:
        loaded: the model.
        cases: all cases of the run, by ``case_id``.
        observations: the answers that the cases got.
        chosen: the reason for each case to keep, by ``case_id``.
        probe: tells the first watched query.
        heads: the heads whose rows are kept by token.
        chunk_sizes: the tokens and the attention rows that are computed at a time.
    """
    seen_of = {seen.case_id: seen for seen in observations}
    for case_id, why in chosen.items():
        case, seen = cases[case_id], seen_of[case_id]
        read = (*case.input_ids, *seen.generated_ids[:-1])
        watched = _watched(probe.first_query(case), len(read), seen)
        first = watched.start - (case.length - 1) if seen.generated_ids else 0
        written = range(max(0, seen.step_start - first), min(len(watched), seen.step_end - first))
        counts_all = probe.counts_all_steps or not written
        counted = range(len(watched)) if counts_all else written
        rows = _RowKeeper(loaded, len(read), watched, counted, heads)
        if not _read(loaded, read[: watched.stop], watched, rows, chunk_sizes):
            warnings.warn(
                f"the rows of case {case_id} are not kept: its {len(read):,} tokens do not fit "
                "into memory a second time",
                HeadprobeWarning,
                stacklevel=2,
            )
            continue
        generated = seen.generated_ids[first : first + len(watched)]
        yield KeptCase(
            case_id=case_id,
            why=why,
            tokens=token_texts(loaded.tokenizer, read),
            first_query=watched.start,
            chosen=token_texts(loaded.tokenizer, generated),
            step_start=written.start,
            step_end=written.stop,
            counted=(counted.start, counted.stop),
            needle=(case.position, case.span_end),
            span=(case.span_start, case.span_end),
            question=(case.question.start, case.question.end) if case.question else None,
            answer=case.answer,
            wrong_answer=case.wrong_answer,
            bins=rows.bins,
            top_tokens=rows.top_tokens,
            top_weights=rows.top_weights,
        )


def token_texts(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> tuple[str, ...]:
    """Return the text of each token; joined they are the text of all.

    Some tokens are parts of one character: the last of them gets it, the others an empty text.
    """

    def decode(start: int, stop: int) -> str:
        part = list(ids[max(0, start) : stop])
        return str(tokenizer.decode(part, clean_up_tokenization_spaces=False))

    texts: list[str] = []
    start = 0
    for stop in range(1, len(ids) + 1):
        # With the token before it, since a text's first token may lose its space.
        text = decode(start - 1, stop)[len(decode(start - 1, start)) :]
        unfinished = text.endswith("\ufffd") and stop - start < 4
        texts.append("" if unfinished else text)
        start = start if unfinished else stop
    return tuple(texts)


def _watched(first: int, end: int, seen: Observation) -> range:
    """Return the queries of at most ``MOST_STEPS`` steps, the answer's among them."""
    start = max(first, end - MOST_STEPS)
    if seen.generated_ids:
        start = min(start, first + seen.step_start)
    return range(start, min(end, start + MOST_STEPS))


def _read(
    loaded: LoadedModel,
    tokens: Sequence[int],
    watched: range,
    rows: _RowKeeper,
    chunk_sizes: ChunkSizes,
) -> bool:
    """Run the model on tokens, in smaller chunks if memory runs out; tell whether it went well."""
    while True:
        try:
            _observe(loaded, tokens, watched, rows, chunk_sizes)
            return True
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            if chunk_sizes.prefill_chunk <= LEAST_CHUNK:
                return False
            chunk_sizes = chunk_sizes.halved(longest=len(tokens))


@torch.inference_mode()
def _observe(
    loaded: LoadedModel,
    tokens: Sequence[int],
    watched: range,
    rows: _RowKeeper,
    chunk_sizes: ChunkSizes,
) -> None:
    cache = PrefixCache(loaded.model, len(tokens))
    ids = torch.tensor([tokens], device=loaded.device)
    ahead = 0 if reads_whole(loaded.model) else watched.start
    for piece in torch.split(ids[:, :ahead], chunk_sizes.prefill_chunk, dim=1) if ahead else ():
        forward(
            loaded.model,
            piece,
            past_key_values=cache,
            logits_to_keep=last_position(piece),
            use_cache=True,
        )
    observe(
        loaded.model,
        ids[:, ahead:],
        rows.see,
        watch=slice(watched.start - ahead, None),
        past_key_values=cache,
        chunk_bytes=chunk_sizes.row_bytes,
        logits_to_keep=last_position(ids[:, ahead:]),
        use_cache=True,
    )


class _RowKeeper:
    """Takes a case's rows, layer by layer, and keeps of them what the file holds."""

    def __init__(
        self,
        loaded: LoadedModel,
        tokens: int,
        watched: range,
        counted: range,
        heads: Sequence[Head],
    ) -> None:
        layers, num_heads = loaded.layout.layers, loaded.layout.num_heads
        kept = min(TOP_TOKENS, watched.stop)
        self._tokens = tokens
        self._first = watched.start
        self._counted = counted
        self._heads = heads
        self._sums = np.zeros((layers, num_heads, BINS))
        self.top_tokens = np.zeros((len(heads), len(watched), kept), dtype=np.int32)
        self.top_weights = np.zeros((len(heads), len(watched), kept), dtype=np.float16)

    def see(self, rows: AttentionRows) -> None:
        """Add up the bins of all heads of a layer, and the strongest tokens of the top heads."""
        start = int(rows.queries[0]) - self._first
        steps = slice(start, start + len(rows.queries))
        if start == 0:  # Anew, where memory ran out at the first attempt.
            self._sums[rows.layer] = 0.0
        counted = [i for i in range(len(rows.queries)) if start + i in self._counted]
        self._sums[rows.layer] += self._binned(rows)[:, counted].sum(axis=1)
        for place, (layer, head) in enumerate(self._heads):
            if layer == rows.layer:
                top = rows.weights[head].topk(self.top_tokens.shape[-1], dim=-1)
                self.top_tokens[place, steps] = top.indices.cpu().numpy()
                self.top_weights[place, steps] = top.values.cpu().numpy()

    @property
    def bins(self) -> UInt8[np.ndarray, "layer query_head bin"]:
        """The mean over the counted steps of every head's attention by stretch."""
        return _coded(self._sums / len(self._counted))

    def _binned(self, rows: AttentionRows) -> Float[np.ndarray, "query_head step bin"]:
        weights = rows.weights
        of_key = torch.arange(weights.shape[-1], device=weights.device) * BINS // self._tokens
        sums = weights.new_zeros((*weights.shape[:-1], BINS)).index_add_(-1, of_key, weights)
        binned: np.ndarray = sums.cpu().numpy()
        return binned


def _coded(attention: Float[np.ndarray, "*size"]) -> UInt8[np.ndarray, "*size"]:
    """Store attention from 0 to 1 in a byte; the root leaves room for small values."""
    coded: np.ndarray = np.rint(255 * np.sqrt(attention.clip(0, 1)))
    return coded.astype(np.uint8)
