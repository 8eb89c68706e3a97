"""Accuracy under budgets, beside the full cache and the baselines.

``questions`` are asked under the budgets of ``contenders``; ``answering`` asks them of a model;
``outcomes`` are what the answers come to; ``run`` goes from the options to the directory.
"""
