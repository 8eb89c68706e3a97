"""Find models and tokenizers by alias, directory or hub id, load them, count their heads.

``aliases`` lists short names, ``hub`` finds a model's files, ``bundled`` finds the files that ship
with headprobe; ``config`` reads a model's configuration, ``device`` chooses the device and the
precision, ``loading`` loads the weights; ``layout`` is the record of a model's heads.
"""
