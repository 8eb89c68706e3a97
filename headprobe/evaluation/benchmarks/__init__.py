"""Public benchmarks: rows as they are, asked and graded by the benchmark's own protocol.

``rows`` reads every schema, ``protocol`` says what a protocol is, ``longbench``, ``loogle`` and
``ruler`` hold the protocols, ``metrics`` grades, ``asking`` writes rows as prompts, ``registry``
finds a set by its name and ``question_set`` makes its questions. RULER's rows are also made here.
"""
