"""Accuracy under budgets, beside the full cache and the baselines.

``questions`` are asked under the budgets of ``methods`` and their ``baselines``; ``answering`` asks
them of a model; ``results`` are what the answers come to; ``plan`` says from the options what will
be asked, and ``run`` goes from there to the directory.
"""
