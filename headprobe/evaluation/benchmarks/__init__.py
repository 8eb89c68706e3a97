"""Public benchmarks: rows as they are, asked and graded by the benchmark's own protocol.

``rows`` reads every schema, ``protocol`` says what a protocol is, ``longbench``, ``loogle`` and
``ruler`` hold the protocols, ``metrics`` grades, ``asking`` writes rows as prompts. RULER's rows are
also made here, by ``ruler``.
"""
