"""Prompts with a known answer: needles hidden in haystacks, counted to the token.

``grid`` says at which lengths and depths, ``template`` how a question is put, ``tokenize`` how a
prompt's pieces become tokens; ``build`` makes a ``case`` of each, ``sampling`` takes some of them.
``noise`` is the prose of the bundled model's own language.
"""
