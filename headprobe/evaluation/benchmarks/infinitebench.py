"""InfiniteBench's protocol (Zhang et al., arXiv 2402.13718), in the words of kvpress' data sets.

Answers have 20 tokens more than in InfiniteBench's code, as there; of the numbers to find the
question stands behind the list alone. Prompts too long lose their middle. What a prompt says of the
question ahead of the context (the function to call, the number to find) is read from the question.
"""

from __future__ import annotations

from dataclasses import replace

from headprobe.evaluation.benchmarks.protocol import Protocol

_MORE = 20
_BOOK = Protocol(
    name="infinitebench:longbook_qa_eng",
    context="Read the book below and answer a question. Be very concise in your answer.\n\n"
    "{context}\n\n",
    question="{question}\n",
    answer_prefix="Answer:",
    style="prefix",
    max_new_tokens=40 + _MORE,
    truncation="middle",
    metrics=("qa_f1",),
)
_HIDDEN = (
    "There is an important info hidden inside a lot of irrelevant text. Find it{}. I will quiz you "
    "about the important information there.\n\n{{context}}\n\n"
)
PROTOCOLS = {
    "passkey": replace(
        _BOOK,
        name="infinitebench:passkey",
        context=_HIDDEN.format(" and memorize them"),
        answer_prefix="The pass key is:",
        max_new_tokens=6 + _MORE,
        metrics=("first_integer",),
    ),
    "number_string": replace(
        _BOOK,
        name="infinitebench:number_string",
        context=_HIDDEN.format(""),
        answer_prefix="The sequence of digits is",
        max_new_tokens=12 + _MORE,
        metrics=("first_integer",),
    ),
    "kv_retrieval": replace(
        _BOOK,
        name="infinitebench:kv_retrieval",
        context="Extract the value corresponding to the specified key in the JSON object below."
        "\n\n{context}\n\n",
        answer_prefix="The value associated with the specified key is",
        max_new_tokens=50 + _MORE,
        metrics=("word",),
    ),
    "longdialogue_qa_eng": replace(
        _BOOK,
        name="infinitebench:longdialogue_qa_eng",
        context="Below is a dialogue script where one random occurrence of a character name is "
        'replaced with "$$MASK$$", and you should try to guess who that character is.\n\n'
        "{context}\n\n",
        answer_prefix="The name that has been replaced with $$MASK$$ is likely",
        metrics=("substring",),
    ),
    "longbook_qa_eng": _BOOK,
    "longbook_qa_chn": replace(
        _BOOK,
        name="infinitebench:longbook_qa_chn",
        context="请根据以下书籍回答我的问题。\n\n{context}\n\n",
        answer_prefix="答案：",  # noqa: RUF001
        metrics=("qa_f1_characters",),
    ),
    "longbook_choice_eng": replace(
        _BOOK,
        name="infinitebench:longbook_choice_eng",
        context="Read the book and answer the question.\n\n{context}\n\n",
        question="{question}\n\nOnly one of the following options is correct, tell me the answer "
        "using one single letter (A, B, C, or D). Don't say anything else.{choices}\n",
        answer_prefix="The letter of the correct answer is",
        metrics=("book_choice",),
    ),
    "code_debug": replace(
        _BOOK,
        name="infinitebench:code_debug",
        context="Following is a Python code where exactly one of the functions/methods has a "
        "deliberate error that makes it crash.\n\n{context}\n\n",
        question="{question}\n\nOptions:{choices}\n",
        answer_prefix="The correct option is:",
        max_new_tokens=5 + _MORE,
        metrics=("code_choice",),
    ),
    "code_run": replace(
        _BOOK,
        name="infinitebench:code_run",
        context="There is a function called {function} in the following Python code.\n\n"
        "{context}\n\n",
        answer_prefix="The return value is:",
        max_new_tokens=5 + _MORE,
        metrics=("last_integer",),
        asked_for=(("function", r"(func_[0-9]+)\(-?[0-9]+\)"),),
    ),
    "math_find": replace(
        _BOOK,
        name="infinitebench:math_find",
        context="What is {number} in the following list?\n\n{context}\n\n",
        answer_prefix="",
        max_new_tokens=3 + _MORE,
        metrics=("first_number",),
        asked_for=(("number", r"(The .+) of"),),
    ),
    "math_calc": replace(
        _BOOK,
        name="infinitebench:math_calc",
        context="Let us calculate the intermediate values of an expression.\n\n"
        "Expression: 1 + 3 + 4\nValues: [1, 4, 8]\n\n"
        "Expression: 8 - 3 + 2 - 4\nValues: [8, 5, 7, 3]\n\nExpression: {context}\n",
        question="{question}",
        answer_prefix="Values:",
        max_new_tokens=30_000 + _MORE,
        metrics=("leading_integers",),
    ),
}
