"""RULER's thirteen tasks (Hsieh et al., arXiv 2404.06654), generated at any length.

``templates`` holds the prompts, which are the protocol; ``needles``, ``tracking``, ``counting`` and
``documents`` make the samples of a task of ``tasks``; ``sample`` finds the haystack that fills a
length. Nouns and adjectives are RULER's (wonderwords'); its essays, which may not be passed on, are
the bundled ones.
"""
