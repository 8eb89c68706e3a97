"""The reference runtime: a KV cache cut to a budget, whose heads keep different numbers of entries.

``cache`` is what a model is called with, ``layer`` one layer of it; ``eviction`` cuts a layer by
what the ``observation_window`` attends to: ``selection`` says which entries a head keeps,
``sharing`` how many where heads share by attention, ``compensation`` makes one entry of the dropped
ones. ``ragged`` stores what is kept, ``attend`` computes attention over it, and ``decoding``
continues the answer greedily.
"""

from headprobe.compression.cache import HeadBudgetCache
from headprobe.compression.decoding import GreedyDecoder
from headprobe.compression.sharing import Target

__all__ = ["GreedyDecoder", "HeadBudgetCache", "Target"]
