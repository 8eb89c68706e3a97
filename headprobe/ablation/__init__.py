"""Accuracy with heads ablated: do answers depend on the heads that a measure puts first?

``rankings`` chooses the heads, ``ablated`` takes them out of a model, ``curves`` sums up the
answers; ``plan`` works out from the options what will be asked, and ``run`` carries a plan out into
a directory.
"""
