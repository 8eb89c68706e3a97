"""Profile every attention head of a causal language model; turn the scores into KV-cache budgets."""

__version__ = "0.1.0"
