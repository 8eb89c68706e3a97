"""The reference runtime: a KV cache compressed to a budget, a number of entries for every head.

``cache`` is what a model is called with, ``layer`` one layer of it; ``eviction`` compresses a layer
to a ``target``: ``selections`` say what each of the ``held`` entries is worth by what a
``layer_view`` shows, such as the attention of the ``observation_window``, the ``query_moments`` and
the ``reconstruction`` of the context, ``observed`` meanwhile; ``ranking`` orders them, ``sharing``
says how many a head keeps where heads share, ``compensation`` makes one entry of the dropped ones.
``ragged`` stores what is kept, as ``entries`` in ``slots``; ``attend`` computes attention over it,
under ``masks``, and ``decoding`` continues the answer greedily.
"""

from headprobe.compression.cache import HeadBudgetCache
from headprobe.compression.decoding import GreedyDecoder
from headprobe.compression.target import Target

__all__ = ["GreedyDecoder", "HeadBudgetCache", "Target"]
