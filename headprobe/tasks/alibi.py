"""The scope of a head in an ALiBi model, as in RazorAttention (Tang et al., arXiv 2407.15891).

The weights alone tell it: no prompt is run.
"""

from __future__ import annotations

from headprobe.tasks._task import Probe, Task

TASK = Task(
    name="alibi",
    summary="scope of a head, the tokens that it can see (RazorAttention); bloom, falcon, mpt",
    probe=Probe(),
    measures=("alibi",),
)
