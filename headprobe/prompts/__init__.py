"""Prompts with a known answer: needles hidden in haystacks, counted to the token.

``grid`` says at which lengths and depths, ``style`` how a question is put, in which ``template``;
``tokenize`` makes tokens of a prompt's pieces; ``build`` makes a ``case`` of each, ``sampling``
takes some of them. ``noise`` is the prose of the bundled model's own language.
"""
