"""A run from its plan to its directory.

Every run that takes long goes through the ``engine``: it owns the ``directory``, its lock, the
``progress``, resuming, the ``distributed`` processes and the report. ``score``, ``score_weights``,
evaluation, ablation and importing are its clients. ``plan`` says what will be scored, on cases that
``draw`` gives, in a prompt style that ``prompt_trial`` decides on; ``case_runner`` takes them
through the model along the ``prefix_tree`` of their prompts, in pieces that ``memory`` allows, and
makes an ``observation`` of each; ``failures`` says why cases fail, ``pass_rates`` counts by kind;
``held_out`` knows what a run did not see.
"""
