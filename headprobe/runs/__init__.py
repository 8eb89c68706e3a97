"""Carry out runs, from the plan to the directory of results.

Every long run goes through the ``engine`` as a ``job``: the engine owns the ``directory``, its
lock, the ``progress``, in which each unit is a ``payload``, resuming by the plan's ``identity``,
the ``distributed`` processes, the ``result_files`` and the report. ``score``, ``score_weights``,
evaluation, ablation and importing are its clients. ``plan`` prepares a scoring run, on cases that
``draw`` makes, in a prompt style that ``prompt_trial`` decides on. ``case_runner`` goes, with a
``reading_setup``, along the ``prefix_tree`` of the cases' ``shared_prefixes``; after each path
``decoding`` lets the model answer in ``passes`` that ``memory`` allows, with ``drafts`` of the
answers, by ``greedy`` rules, and a ``score_accumulator`` sums what becomes an ``observation``.
``failures`` explains failed cases, ``pass_rates`` counts passed cases by kind of needle, and
``titles`` says both where runs are named;
``held_out`` keeps evaluated cases apart from scored ones; ``kept_rows`` are a few cases' rows,
which ``observe_rows`` observes.
"""
