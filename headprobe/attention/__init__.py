"""A model's attention: seen row by row, taken over, and followed on to the logits.

``observe`` is the one file that knows transformers' attention interface; ``prefix_cache`` reads
prompts in pieces and goes back to where they part; ``kernels`` says which of PyTorch's attention
kernels may run; ``logit_attribution`` is what a head adds to a
token's logit; ``alibi_scope`` is how far heads see, from the weights alone.
"""
