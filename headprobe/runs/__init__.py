"""Carry out runs, from the plan to the directory of results.

Every long run goes through the ``engine``: it owns the ``directory``, its lock, the ``progress``,
resuming, the ``distributed`` processes and the report. ``score``, ``score_weights``, evaluation,
ablation and importing are its clients. ``plan`` prepares a scoring run, on cases that ``draw``
makes, in a prompt style that ``prompt_trial`` decides on; ``case_runner`` runs the model on the
cases along the ``prefix_tree`` of their ``shared_prefixes``, in chunks that ``memory`` allows,
until ``stops`` ends a response, and makes an ``observation`` of each, with the sums of its
``score_accumulator``; ``failures`` explains failed cases, ``pass_rates`` counts passed cases by
kind of needle; ``held_out`` keeps evaluated cases apart from scored ones.
"""
