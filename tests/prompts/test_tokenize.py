from __future__ import annotations

import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from headprobe.errors import HeadprobeError
from headprobe.prompts.tokenize import PieceTokenizer


def test_a_text_that_a_tokenizer_cannot_spell_is_one_line() -> None:
    words = Tokenizer(models.WordLevel({"w": 0}))
    pieces = PieceTokenizer(PreTrainedTokenizerFast(tokenizer_object=words))
    expected = "cannot read a text with the tokenizer"
    with pytest.raises(HeadprobeError, match=expected):
        pieces.encode("kites")
