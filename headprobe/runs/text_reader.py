"""Read natural texts with a model, and take down every measure of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import torch

from headprobe.attention.finite import NotFinite, not_finite, require_finite_scores
from headprobe.errors import out_of_memory
from headprobe.measures import TEXT_MEASURES
from headprobe.prompts.case import Case
from headprobe.runs.memory import ChunkSizes
from headprobe.runs.observation import Observation
from headprobe.tasks import Task

if TYPE_CHECKING:
    from headprobe.models.loading import LoadedModel


def read_texts(
    loaded: LoadedModel,
    cases: Sequence[Case],
    task: Task,
    *,
    wanted: Iterable[int],
    chunk_sizes: ChunkSizes,
) -> Iterator[Observation]:
    """Read the wanted texts one by one, a measure after the other.

    Raises:
        HeadprobeError: the model's attention cannot be observed, the device's memory is too small
            for a text, or a score is not finite.
    """
    for case_id in sorted(wanted):
        case = cases[case_id]
        ids = torch.tensor([case.input_ids], device=loaded.device)
        try:
            with torch.inference_mode():
                scores = {
                    name: TEXT_MEASURES[name]
                    .read(loaded, ids, chunk_sizes.prefill_chunk)
                    .float()
                    .numpy()
                    for name in task.measures
                }
            for matrix in scores.values():
                require_finite_scores(matrix)
        except torch.OutOfMemoryError as error:
            raise out_of_memory(error, tokens=case.length) from error
        except NotFinite:
            raise not_finite(loaded, case.input_ids) from None
        yield Observation(
            case_id=case_id,
            generated_ids=(),
            step_start=0,
            step_end=0,
            response="",
            score=task.probe.score("", case),
            scores=scores,
        )
