"""Profile every attention head of a causal language model; turn the scores into KV-cache budgets.

::

    model ──┐
            ├─► observe ─► measures ─► HeadScores ─► allocate ─► HeadBudgets ─► export · compress
    cases ──┘   (torch ends here)      (numpy from here on)       plot · show · compare · evaluate

``model`` loads; ``needles``, ``haystacks`` and ``cases`` make prompts; ``attention`` looks into a
forward pass, ``readout`` from a head's output to the logits; ``probes`` ask and grade; ``measures``
give heads numbers; ``walk`` runs the cases along the ``tree`` of their prompts; ``journal`` keeps
what was observed; ``planning``, ``scoring`` and ``rundir`` make a run of it, ``held_out`` knows
what that did not see; ``alibi`` and ``weights`` make one without cases; ``scores`` holds the
numbers, ``reliability`` and ``comparison`` say how alike they rank heads, by ``ranks``; ``mixing``
adds up those of several runs; ``allocators`` turn them into ``budgets``; ``compression`` runs a
model with its cache cut to one; ``evaluation`` is the accuracy that a budget leaves, ``ablation``
that without some heads, ``metrics`` grade both; ``formats`` are files of other programs and
``importing`` makes runs of them; ``plots`` and ``cli`` show them; ``registry`` finds methods by
name; ``embedded`` is the bundled model.
"""

__version__ = "0.1.0"
