"""Models and tokenizers: found by alias, directory or hub id, loaded, their heads counted.

``aliases`` are short names, ``hub`` finds a model's files, ``bundled`` those that ship with
headprobe; ``config`` reads what a model is, ``device`` says where it runs, ``loading`` loads it;
``layout`` is the record of its heads.
"""
