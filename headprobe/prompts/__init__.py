"""Build prompts with a known answer: needles hidden in haystacks, exact to the token.

``spec`` says which cases are wanted, ``grid`` parses lengths and depths; ``needles`` and
``haystacks`` read texts; ``style`` and ``template`` put the question and the chat template around
a context; ``tokenize`` tokenizes a prompt's pieces; ``build`` makes each ``case``, ``sampling``
takes a balanced part of them. ``noise`` is the prose of the nano model's language.
"""
