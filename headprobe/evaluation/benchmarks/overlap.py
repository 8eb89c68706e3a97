"""Words that two texts have in common, as the F1 of the benchmarks counts them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

CHINESE_MARKS = (
    "！？｡。＂＃＄％＆＇（）＊＋，－／：；＜＝＞＠［＼］＾＿｀｛｜｝～｟｠｢｣､、〃》「」『』【】"  # noqa: RUF001
    "〔〕〖〗〘〙〚〛〜〝〞〟〰〾〿–—‘’‛“”„‟…‧﹏."  # noqa: RUF001
)
"""The punctuation that LongBench and InfiniteBench take out of Chinese, beside ASCII's."""


def token_f1(said: Sequence[str], wanted: Sequence[str]) -> float:
    """Compute the F1 of the tokens that two texts share, each as often as both have it; 0 to 1."""
    common = (Counter(said) & Counter(wanted)).total()
    if not common:
        return 0.0
    precision, recall = common / len(said), common / len(wanted)
    return 2 * precision * recall / (precision + recall)
