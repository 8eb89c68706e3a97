"""Accuracy under budgets, beside the full cache and the baselines.

``questions`` are asked under the budgets of ``methods`` and their ``baselines``; ``answering`` asks
them of a model; ``results`` grades and compares the answers; ``plan`` works out from the options
what will be asked, and ``run`` carries a plan out into a directory.
"""
