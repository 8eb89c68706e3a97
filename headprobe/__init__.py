"""Profile every attention head of a causal language model; turn the scores into KV-cache budgets.

::

    model ──┐
            ├─► observe ─► measures ─► HeadScores ─► allocate ─► HeadBudgets ─► export · plot · show
    cases ──┘   (torch ends here)      (numpy from here on)

``model`` loads; ``needles``, ``haystacks`` and ``cases`` make prompts; ``attention`` looks into a
forward pass; ``probes`` ask and grade; ``measures`` give heads numbers; ``walk`` runs the cases;
``journal`` keeps what was observed; ``scoring`` and ``rundir`` make a run of it; ``scores`` holds
the numbers; ``allocators`` turn them into ``budgets``; ``formats`` are files of other programs
and ``importing`` makes runs of them; ``plots`` and ``cli`` show them; ``embedded`` is the bundled
model.
"""

__version__ = "0.1.0"
