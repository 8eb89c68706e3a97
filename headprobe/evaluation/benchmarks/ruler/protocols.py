"""RULER's protocol: the assistant's turn opens with the answer prefix; references are matched."""

from __future__ import annotations

from headprobe.evaluation.benchmarks.protocol import Protocol
from headprobe.evaluation.benchmarks.ruler.tasks import TASKS
from headprobe.evaluation.benchmarks.ruler.templates import FAMILIES, family_of

PROTOCOLS = {
    # A prompt of RULER's own tells its family alone.
    name: Protocol(
        name=f"ruler:{name}",
        style="prefix",
        max_new_tokens=FAMILIES[family_of(name)].max_new_tokens,
        truncation="end of context",
        metrics=(FAMILIES[family_of(name)].metric,),
    )
    for name in dict.fromkeys((*TASKS, *FAMILIES))
}
