"""Profile every attention head of a causal language model; turn the scores into KV-cache budgets.

::

    model ──┐
            ├─► observe ─► measures ─► HeadScores ─► allocate ─► HeadBudgets ─► export · compress
    cases ──┘   (torch ends here)      (numpy from here on)       plot · show · compare · evaluate

A room a step: ``models`` and ``prompts``; ``attention`` and ``tasks``, which ``measures`` read and
``runs`` go through; ``scores``; ``allocators`` and ``budgets``; ``formats``, ``compression``,
``evaluation``, ``ablation``. ``plots`` and ``cli`` show them; ``nano`` trains the bundled model.
"""

__version__ = "0.1.0"
