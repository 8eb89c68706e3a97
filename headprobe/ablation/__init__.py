"""Accuracy with heads silenced: do answers depend on the heads that a measure puts first?

``silencing`` takes heads out of a model; ``curves`` says which, and what the answers come to;
``run`` goes from the options to the directory.
"""
