"""Plan a scoring run from its options: the cases, the chunk sizes and the cost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headprobe.errors import UsageError
from headprobe.prompts.case import Case
from headprobe.prompts.sampling import balanced_order
from headprobe.prompts.spec import CaseSpec
from headprobe.prompts.style import PromptDecision, PromptOptions
from headprobe.runs.directory import directory_for
from headprobe.runs.distributed import Processes
from headprobe.runs.documents import draw_documents
from headprobe.runs.draw import DrawnCases, draw_cases
from headprobe.runs.identity import Plan, model_identity
from headprobe.runs.memory import ChunkSizes, MemoryOptions, cache_bytes, chunk_sizes_for
from headprobe.runs.prefix_tree import PrefixTree
from headprobe.runs.progress import FILE_NAME as PROGRESS
from headprobe.runs.progress import stored_plan
from headprobe.runs.prompt_trial import decide_style
from headprobe.runs.reading_setup import Decode
from headprobe.runs.shared_prefixes import question_of, shared_prefixes, watches_question
from headprobe.tasks import Task

if TYPE_CHECKING:
    from headprobe.models.loading import LoadedModel


@dataclass(frozen=True, kw_only=True)
class Cost:
    """The cost of a run: its tokens, and its memory in bytes.

    ``prompt_tokens`` counts the prompts' tokens, prompts that ask "N/A" included where a measure
    needs them; ``unique_tokens`` counts the tokens that are run, since a token that prompts share
    is run once; ``saving`` is the first over the second. ``cache`` is the KV cache of the longest
    prompt, ``activation_bytes`` the memory for everything besides cache and weights; ``peak`` is
    the sum of weights, cache and activations.
    """

    prompt_tokens: int
    unique_tokens: int
    saving: float
    prefill_chunk: int
    weights: int
    cache: int
    activation_bytes: int
    peak: int


@dataclass(frozen=True, eq=False, kw_only=True)
class PlannedRun:
    """Everything about a run that is known before the model runs.

    A run goes on from an earlier one whose ``plan`` has the same identity. ``task`` has the
    measures to compute. ``possible`` counts the cases of the whole grid, from which ``cases`` were
    drawn. ``tree`` is the tree of the prefixes that prompts can share. The run stops early once the
    reliability of the ranking exceeds ``until_stable``, if given. ``prompt`` is the prompt style.
    """

    task_name: str
    task: Task
    cases: Sequence[Case]
    possible: int
    plan: Plan
    seed: int
    out: Path
    decode: Decode
    tree: PrefixTree
    chunk_sizes: ChunkSizes
    cost: Cost
    until_stable: float | None
    drawn: DrawnCases
    prompt: PromptDecision

    def rounds(self) -> Iterator[set[int]]:
        """Yield the cases in portions after which the run may stop: about one case a needle.

        Cases that are run together, as tails of one path, are in one portion.
        """
        if self.until_stable is None:
            yield set(range(len(self.cases)))
            return
        packs = [
            set(self.tree.order[part.start : part.stop].tolist()) for part in self.tree.groups()
        ]
        pack_of = {case_id: pack for pack in packs for case_id in pack}
        size = len({case.needle_id for case in self.cases})
        left, portion = set(range(len(self.cases))), set[int]()
        for case in balanced_order(self.cases, self.seed):
            if case.case_id in left:
                portion |= pack_of[case.case_id]
                left -= portion
            if len(portion) >= size or not left:
                yield portion
                portion = set()
            if not left:
                return

    @property
    def summary(self) -> str:
        """One line for the terminal."""
        drawn = "" if len(self.cases) == self.possible else f" of {self.possible}, balanced"
        return (
            f"{self.task_name}: {len(self.cases)} cases{drawn}, {self.cost.prompt_tokens:,} prompt "
            f"tokens, of which {self.cost.unique_tokens:,} are run"
            + (f"; prompt {self.prompt.describe()}" if self.drawn.writer else "")
        )


def prepare(
    loaded: LoadedModel,
    task: Task,
    spec: CaseSpec,
    *,
    out: Path | None = None,
    decode: Decode = "greedy",
    memory: MemoryOptions | None = None,
    until_stable: float | None = None,
    prompt: PromptOptions | None = None,
    decision: PromptDecision | None = None,
) -> PlannedRun:
    """Build a task's cases and the plan of a run; the model's weights are not needed for it.

    Args:
        loaded: the model.
        task: the task, with the measures to compute and the steps to count.
        spec: the cases to draw.
        out: the run directory; left out, it is named after model and task.
        decode: see ``observe_cases``.
        memory: the memory that the run may take, and with it the chunk sizes.
        until_stable: stop when the ranking of the heads is this reliable, between 0 and 1.
        prompt: the form of prompts.
        decision: the prompt style; left out, the style that is known without a trial, if any.

    Raises:
        UsageError: an option does not apply, or a file is missing or unusable.
    """
    if until_stable is not None and not 0 < until_stable < 1:
        raise ValueError(f"expected until_stable between 0 and 1, got {until_stable}")
    if decode == "forced" and not task.asks:
        message = f"task {task.name} has no answers to force: leave it out"
        raise UsageError(message, option="decode", value=decode)
    memory = memory or MemoryOptions()
    options = prompt or PromptOptions()
    decision = decision or PromptDecision.known(options, loaded.tokenizer)
    settled = decision.settle(options) if task.asks else options
    draw = draw_documents if task.reads_documents else draw_cases
    drawn = draw(loaded, task.probe, spec, prompt=settled)
    cases = drawn.cases
    tree = PrefixTree.of(shared_prefixes(cases, task))
    longest = max(case.length + task.probe.max_new_tokens(case) for case in cases)
    element = loaded.model.dtype.itemsize
    chunk_sizes = chunk_sizes_for(loaded.model.config, memory, longest=longest, element=element)
    return PlannedRun(
        task_name=task.name,
        task=task,
        cases=cases,
        possible=drawn.possible,
        plan=Plan(
            identity={
                "kind": "score",
                "task": task.name,
                "measures": list(task.measures),
                **model_identity(loaded),
                "decode": decode,
                **({"steps": task.probe.steps} if task.asks else {}),
                **drawn.plan.identity,
            },
            labels={
                **drawn.plan.labels,
                **(decision.in_plan() if task.asks else {}),
                **run_labels(loaded, chunk_sizes),
                "until_stable": until_stable,
            },
        ),
        seed=spec.seed or 0,
        out=out or directory_for(loaded.label, task.name),
        decode=decode,
        tree=tree,
        chunk_sizes=chunk_sizes,
        cost=_cost(
            loaded,
            cases,
            task,
            tree,
            chunk_sizes=chunk_sizes,
            longest=longest,
            activation_bytes=memory.activation_memory,
        ),
        until_stable=until_stable,
        drawn=drawn,
        prompt=decision,
    )


def prepare_decided(
    loaded: LoadedModel,
    task: Task,
    spec: CaseSpec,
    *,
    prompt: PromptOptions,
    processes: Processes,
    overwrite: bool = False,
    **options: Any,
) -> PlannedRun:
    """Plan a run and decide its prompt style: the earlier one on resuming, else by a trial.

    Of several processes the main one decides for all.

    Args:
        loaded: the model.
        task: the task.
        spec: the cases to draw.
        prompt: the form of prompts.
        processes: the processes of the run.
        overwrite: ignore the style of an earlier run.
        options: further keywords of ``prepare``.
    """
    first = prepare(loaded, task, spec, prompt=prompt, **options)
    decision: PromptDecision | None = None
    if processes.is_main_process:
        plans = [] if overwrite else [stored_plan(first.out / PROGRESS)]
        decision = PromptDecision.known(prompt, loaded.tokenizer, plans)
        decision = _decide(loaded, replace(first, prompt=decision), prompt)
    (decision, *_) = processes.all_gather(decision)
    if decision == first.prompt:
        return first
    return prepare(loaded, task, spec, prompt=prompt, decision=decision, **options)


def _decide(loaded: LoadedModel, run: PlannedRun, prompt: PromptOptions) -> PromptDecision:
    """Return the run's prompt style, decided by a trial if it is not decided yet."""
    if run.prompt.used is not None or not run.task.asks:
        return run.prompt
    return decide_style(
        loaded,
        run.task,
        run.drawn,
        prompt=prompt,
        run_tokens=run.cost.unique_tokens,
        seed=run.seed,
    )


def _cost(
    loaded: LoadedModel,
    cases: Sequence[Case],
    task: Task,
    tree: PrefixTree,
    *,
    chunk_sizes: ChunkSizes,
    longest: int,
    activation_bytes: int,
) -> Cost:
    weights = loaded.weight_bytes
    cache = cache_bytes(loaded.layout, tokens=longest, element=loaded.model.dtype.itemsize)
    asked = [question_of(case) for case in cases] if watches_question(task) else []
    blank = sum(len(question.blank_ids) for question in asked)
    prompts = sum(case.length for case in cases)
    tokens = prompts + sum(question.start for question in asked) + blank
    unique = tree.unique_tokens + prompts - int(tree.lengths.sum()) + blank
    return Cost(
        prompt_tokens=tokens,
        unique_tokens=unique,
        saving=tokens / unique,
        prefill_chunk=chunk_sizes.prefill_chunk,
        weights=weights,
        cache=cache,
        activation_bytes=activation_bytes,
        peak=weights + cache + activation_bytes,
    )


def run_labels(loaded: LoadedModel, chunk_sizes: ChunkSizes) -> dict[str, Any]:
    """Return the model's name, the chunk sizes and the number of threads.

    Chunks and threads change the order of sums, which moves scores by some 1e-4 at most.
    """
    import torch

    return {
        "model": loaded.layout.id,
        "prefill_chunk": chunk_sizes.prefill_chunk,
        "row_bytes": chunk_sizes.row_bytes,
        "threads": torch.get_num_threads(),
    }
