"""Accuracy with heads silenced: do answers depend on the heads that a measure puts first?

``rankings`` says which heads, ``silencing`` takes them out of a model, ``curves`` are what the
answers come to; ``plan`` says from the options what will be asked, and ``run`` goes from there to
the directory.
"""
