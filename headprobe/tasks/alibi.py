"""How far a head sees in an ALiBi model, as in RazorAttention (Tang et al., arXiv 2407.15891).

The weights alone tell it: no prompt is run.
"""

from __future__ import annotations

from headprobe.tasks.task import Probe, Task

TASK = Task(
    name="alibi",
    summary="how far a head sees (RazorAttention): its scope in tokens; bloom, falcon, mpt",
    probe=Probe(),
    measures=("alibi",),
)
