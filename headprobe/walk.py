"""Runs cases through the model: greedy answers, and what each head looks at while giving them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from headprobe.attention import LayerRows, full_cache, observe
from headprobe.cases import Case
from headprobe.journal import Observation
from headprobe.measures import get_measure
from headprobe.tasks import Task

if TYPE_CHECKING:
    from headprobe.model import LoadedModel


def walk(loaded: LoadedModel, cases: Sequence[Case], task: Task) -> Iterator[Observation]:
    """Observe the cases one after the other, in their order.

    Raises:
        HeadprobeError: the model's attention cannot be observed.
    """
    stops = _Stops(loaded)
    for case in cases:
        yield _observe(loaded, case, task, stops)


class _Stops:
    """The tokens that end an answer: end-of-sequence, and any whose text has a line break."""

    def __init__(self, loaded: LoadedModel) -> None:
        self._tokenizer = loaded.tokenizer
        self._generation = loaded.model.generation_config

    @cached_property
    def _ends(self) -> set[int]:
        ends = self._generation.eos_token_id if self._generation is not None else None
        listed = ends if isinstance(ends, list) else [ends]
        return {end for end in (*listed, self._tokenizer.eos_token_id) if end is not None}

    def __contains__(self, token: int) -> bool:
        return token in self._ends or "\n" in self._tokenizer.decode([token])


class _Tally:
    """Adds up what the measures say of every head, step by step."""

    def __init__(self, loaded: LoadedModel, case: Case, task: Task) -> None:
        shape = (loaded.layout.layers, loaded.layout.heads)
        self._case = case
        self._measures = {name: get_measure(name) for name in task.measures}
        self._summaries: dict[tuple[str, int], Tensor] = {}
        self.totals = {
            name: torch.zeros(shape, dtype=torch.float64, device=loaded.device)
            for name in task.measures
        }

    def see(self, seen: LayerRows) -> None:
        """Keep what the measures need of a layer's rows."""
        for name, measure in self._measures.items():
            self._summaries[name, seen.layer] = measure.summarise(seen.rows, self._case)

    def choose(self, token: Tensor) -> None:
        """Score the rows seen last, now that the token they chose is known (shape ``[1]``)."""
        for (name, layer), summary in self._summaries.items():
            share = self._measures[name].score(summary, self._case, token.to(summary.device))
            self.totals[name][layer] += share[:, -1].to(self.totals[name].device)


@torch.inference_mode()
def _observe(loaded: LoadedModel, case: Case, task: Task, stops: _Stops) -> Observation:
    tally = _Tally(loaded, case, task)
    cache = full_cache(loaded.model)
    inputs = torch.tensor([case.input_ids], device=loaded.device)
    generated: list[int] = []
    for _ in range(task.probe.most_steps(case)):
        output = observe(
            loaded.model, inputs, tally.see, past_key_values=cache, logits_to_keep=1, use_cache=True
        )
        token = output.logits[0, -1].argmax().view(1)
        tally.choose(token)
        generated.append(int(token))
        if generated[-1] in stops:
            break
        inputs = token.view(1, 1)
    response = str(loaded.tokenizer.decode(generated, skip_special_tokens=True)).strip()
    return Observation(
        case_id=case.case_id,
        generated_ids=tuple(generated),
        response=response,
        success=task.probe.success(response, case),
        scores={name: total.float().cpu().numpy() for name, total in tally.totals.items()},
    )
