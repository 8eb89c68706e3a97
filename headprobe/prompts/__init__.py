"""Prompts with a known answer: needles hidden in haystacks, counted to the token.

``grid`` says at which lengths and depths, ``template`` how a question is put, ``build`` makes the
cases; ``noise`` is the prose of the bundled model's own language.
"""
