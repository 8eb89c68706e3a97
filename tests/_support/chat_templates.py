"""Tokenizers with the chat templates of real models, from their documented form."""

from __future__ import annotations

import itertools
from functools import cache
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from headprobe.prompts.build import hide_needles
from headprobe.prompts.case import Case
from headprobe.prompts.needles import Needle, parse_needle
from headprobe.prompts.style import PromptStyle, PromptWriter

TEMPLATES = Path(__file__).parent / "templates"
SPECIAL = [
    *("<bos>", "<eos>", "<|im_start|>", "<|im_end|>", "<|im_sep|>", "<|start_header_id|>"),
    *("<|end_header_id|>", "<|eot_id|>", "<start_of_turn>", "<end_of_turn>", "[INST]", "[/INST]"),
    *("<|start|>", "<|end|>", "<|channel|>", "<|message|>", "<|return|>", "[gMASK]", "<sop>"),
    *("<|user|>", "<|assistant|>", "<|system|>"),
]
NEEDLE = parse_needle(
    {
        "needle": "Ada keeps geese. Ben keeps newts.",
        "question": "What does Ben keep?",
        "answer": "newts",
        "real_needle": "Ben keeps newts.",
    }
)
EXAMPLES = [
    Needle(
        text=f"{name} sells {goods}.",
        question=f"What does {name} sell?",
        answer=goods,
        start=0,
        stop=4,
    )
    for name, goods in (("Cleo", "ropes"), ("Dov", "lamps"))
]


def tokenizer_with(template: Any) -> PreTrainedTokenizerFast:
    """Byte by byte, the special tokens of many families beside."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({letter: n for n, letter in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(text, special=True) for text in SPECIAL])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<bos>", eos_token="<eos>", chat_template=template
    )


@cache
def real(name: str) -> PreTrainedTokenizerFast:
    return tokenizer_with((TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8"))


def ask(
    tokenizer: PreTrainedTokenizerFast, style: PromptStyle, *, answer_prefix: str | None = None
) -> tuple[Case, str]:
    (case,) = hide_needles(
        [NEEDLE],
        sentences=itertools.repeat("Rain fell."),
        writer=PromptWriter(tokenizer, style=style, answer_prefix=answer_prefix, examples=EXAMPLES),
        lengths=[1200],
        depths=[50.0],
    )
    return case, str(tokenizer.decode(list(case.input_ids)))
