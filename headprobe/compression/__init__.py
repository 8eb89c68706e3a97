"""The reference runtime: a KV cache cut to a budget, whose heads keep different numbers of entries.

``cache`` is what a model is called with, ``layer`` one layer of it; ``cutting`` cuts it by what the
``observation_window`` attends to: ``selection`` says which entries a head keeps, ``sharing`` how
many if heads share by attention, ``compensation`` makes one entry of those that go. ``ragged``
stores what is kept, ``attend`` computes attention over it, and ``decoding`` goes on greedily.
"""

from headprobe.compression.cache import HeadBudgetCache
from headprobe.compression.decoding import GreedyDecoder
from headprobe.compression.sharing import Target

__all__ = ["GreedyDecoder", "HeadBudgetCache", "Target"]
