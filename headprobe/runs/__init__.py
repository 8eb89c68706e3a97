"""A run from its plan to its directory.

``plan`` says what will be run, on cases that ``draw`` gives; ``case_runner`` takes them through the
model along the ``prefix_tree`` of their prompts, in pieces that ``memory`` allows; ``progress``
keeps what was observed; ``score`` makes scores of it, in several processes if they are
``distributed``; ``score_weights`` needs no cases; ``held_out`` knows what a run did not see;
``directory`` is its files.
"""
