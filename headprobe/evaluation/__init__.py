"""Accuracy under budgets, beside the full cache and the baselines.

``question_sets`` are drawn from a task or read from a file of ``questions``, and asked in each of
the ``settings`` under the budgets of ``methods`` and their ``baselines``; ``answering`` asks them
of a model; ``results`` grades and compares the answers; ``plan`` works out from the options and
from ``scored_runs`` what will be asked, by what ``identity`` it goes on, and ``run`` carries a plan
out into a directory.
"""
