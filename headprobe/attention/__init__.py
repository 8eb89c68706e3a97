"""Observe a model's attention row by row, replace its computation, trace it to the logits.

``observe`` is the one file that knows transformers' attention interface, ``rows`` computes what it
observes; ``prefix_cache`` is a KV cache that can be cropped to the prefix two prompts share;
``branches`` places several texts in one, and ``packing`` checks whether a model takes that;
``kernels`` restricts which of PyTorch's attention kernels may run; ``finite`` names the layer whose
numbers are NaN or infinite; ``logit_attribution`` computes what a head adds to a token's logit;
``alibi_scope`` bounds from the weights alone how far the heads of an ALiBi model see.
"""
