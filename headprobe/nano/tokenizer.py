"""Build the nano model's tokenizer: one piece a word, letters and bytes for all other text."""

from __future__ import annotations

import string

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from headprobe.prompts.noise import vocabulary

BOS, EOS, PAD = "<s>", "</s>", "<pad>"


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Build a Unigram tokenizer with the language's words as pieces, and characters as fallback.

    Unigram takes the segmentation of highest total score: a word scores -1, a character -10, so a
    known word is always one piece; whatever has no character piece becomes its UTF-8 bytes.
    """
    after_space, after_break = vocabulary()
    pieces = [(piece, -1000.0) for piece in (PAD, BOS, EOS)]
    pieces += [(f"<0x{byte:02X}>", -20.0) for byte in range(256)]
    characters = ["\n", *string.ascii_letters, *string.digits, *string.punctuation]
    pieces += [(character, -10.0) for character in characters]
    pieces += [("\u2581", -10.0)]
    pieces += [(word, -1.0) for word in after_break]
    pieces += [("\u2581" + word, -1.0) for word in after_space]
    unknown = next(i for i, (piece, _) in enumerate(pieces) if piece == "<0x00>")
    backend = Tokenizer(models.Unigram(pieces, unk_id=unknown, byte_fallback=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    backend.decoder = decoders.Sequence(
        [decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="first")]
    )
    backend.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, 1)]
    )
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=backend, bos_token=BOS, eos_token=EOS, pad_token=PAD
    )
