"""LongBench's protocol (Bai et al., arXiv 2308.14508): its prompts, lengths and metrics.

The question begins where kvpress has it begin: what stands between the context and the question
belongs to the context. Prompts too long lose their middle. Few-shot and code sets are asked without
a chat template, all others in the user's turn.
"""

from __future__ import annotations

from dataclasses import dataclass

from headprobe.evaluation.benchmarks.protocol import Protocol


@dataclass(frozen=True, kw_only=True)
class _Set:
    """A set's prompt, in parts; its metric and the most tokens of an answer."""

    context: str
    question: str
    prefix: str
    metric: str
    tokens: int


_BRIEF = (
    "Only give me the answer and do not output any other words.\n\n"
    "The following are given passages.\n{context}\n\nAnswer the question based on the given "
    "passages. Only give me the answer and do not output any other words.\n\n"
)
_PASSAGES = _Set(
    context="Answer the question based on the given passages. " + _BRIEF,
    question="Question: {question}\n",
    prefix="Answer:",
    metric="qa_f1",
    tokens=32,
)
_STORY = (
    "as concisely as you can, using a single phrase if possible. Do not provide any "
    "explanation.\n\n"
)
_ARTICLE = (
    "as concisely as you can, using a single phrase or sentence if possible. If the question "
    'cannot be answered based on the information in the article, write "unanswerable". If the '
    'question is a yes/no question, answer "yes", "no", or "unanswerable". Do not provide any '
    "explanation.\n\n"
)
_SETS = {
    "narrativeqa": _Set(
        context="You are given a story, which can be either a novel or a movie script, and a "
        f"question. Answer the question {_STORY}Story: {{context}}\n\nNow, answer the question "
        f"based on the story {_STORY}",
        question="Question: {question}\n\n",
        prefix="Answer:",
        metric="qa_f1",
        tokens=128,
    ),
    "qasper": _Set(
        context="You are given a scientific article and a question. Answer the question "
        f"{_ARTICLE}Article: {{context}}\n\n Answer the question based on the above article "
        f"{_ARTICLE}",
        question="Question: {question}\n\n",
        prefix="Answer:",
        metric="qa_f1",
        tokens=128,
    ),
    "multifieldqa_en": _Set(
        context="Read the following text and answer briefly.\n\n{context}\n\nNow, answer the "
        "following question based on the above text, only give me the answer and do not output "
        "any other words.\n\n",
        question="Question: {question}\n",
        prefix="Answer:",
        metric="qa_f1",
        tokens=64,
    ),
    "multifieldqa_zh": _Set(
        context="阅读以下文字并用中文简短回答：\n\n{context}\n\n现在请基于上面的文章回答下面的问题，"  # noqa: RUF001
        "只告诉我答案，不要输出任何其他字词。\n\n",  # noqa: RUF001
        question="问题：{question}\n",  # noqa: RUF001
        prefix="回答：",  # noqa: RUF001
        metric="qa_f1_zh",
        tokens=64,
    ),
    "hotpotqa": _PASSAGES,
    "2wikimqa": _PASSAGES,
    "musique": _PASSAGES,
    "dureader": _Set(
        context="请基于给定的文章回答下述问题。\n\n文章：{context}\n\n"  # noqa: RUF001
        "请基于上述文章回答下面的问题。\n\n",
        question="问题：{question}\n",  # noqa: RUF001
        prefix="回答：",  # noqa: RUF001
        metric="rouge_l_zh",
        tokens=128,
    ),
    "gov_report": _Set(
        context="You are given a report by a government agency. Write a one-page summary of the "
        "report.\n\nReport:\n{context}\n\n",
        question="Now, write a one-page summary of the report.\n\n",
        prefix="Summary:",
        metric="rouge_l",
        tokens=512,
    ),
    "qmsum": _Set(
        context="You are given a meeting transcript and a query containing a question or "
        "instruction. Answer the query in one or more sentences.\n\nTranscript:\n{context}\n\n"
        "Now, answer the query based on the above meeting transcript in one or more sentences.\n\n",
        question="Query: {question}\n",
        prefix="Answer:",
        metric="rouge_l",
        tokens=512,
    ),
    "multi_news": _Set(
        context="You are given several news passages. Write a one-page summary of all news. \n\n"
        "News:\n{context}\n\n",
        question="Now, write a one-page summary of all the news.\n\n",
        prefix="Summary:",
        metric="rouge_l",
        tokens=512,
    ),
    "vcsum": _Set(
        context="下面有一段会议记录，请你阅读后，写一段总结，总结会议的内容。\n"  # noqa: RUF001
        "会议记录：\n{context}\n\n",  # noqa: RUF001
        question="",
        prefix="会议总结：",  # noqa: RUF001
        metric="rouge_l_zh",
        tokens=512,
    ),
    "trec": _Set(
        context="Please determine the type of the question below. Here are some examples of "
        "questions.\n\n{context}\n",
        question="{question}",
        prefix="",
        metric="classification",
        tokens=64,
    ),
    "triviaqa": _Set(
        context="Answer the question based on the given passage. Only give me the answer and do "
        "not output any other words. The following are some examples.\n\n{context}\n\n",
        question="{question}",
        prefix="",
        metric="qa_f1",
        tokens=32,
    ),
    "samsum": _Set(
        context="Summarize the dialogue into a few short sentences. The following are some "
        "examples.\n\n{context}\n\n",
        question="{question}",
        prefix="",
        metric="rouge_l",
        tokens=128,
    ),
    "lsht": _Set(
        context="请判断给定新闻的类别，下面是一些例子。\n\n{context}\n",  # noqa: RUF001
        question="{question}",
        prefix="",
        metric="classification",
        tokens=64,
    ),
    "passage_count": _Set(
        context="There are some paragraphs below sourced from Wikipedia. Some of them may be "
        "duplicates. Please carefully read these paragraphs and determine how many unique "
        "paragraphs there are after removing duplicates. In other words, how many non-repeating "
        "paragraphs are there in total?\n\n{context}\n\n",
        question="Please enter the final count of unique paragraphs after removing duplicates. "
        "The output format should only contain the number, such as 1, 2, 3, and so on.\n\n",
        prefix="The final answer is: ",
        metric="count",
        tokens=32,
    ),
    "passage_retrieval_en": _Set(
        context="Here are 30 paragraphs from Wikipedia, along with an abstract. Please determine "
        "which paragraph the abstract is from.\n\n{context}\n\nThe following is an abstract.\n\n",
        question="{question}\n\nPlease enter the number of the paragraph that the abstract is "
        'from. The answer format must be like "Paragraph 1", "Paragraph 2", etc.\n\n',
        prefix="The answer is: ",
        metric="retrieval",
        tokens=32,
    ),
    "passage_retrieval_zh": _Set(
        context="以下是若干段落文字，以及其中一个段落的摘要。请确定给定的摘要出自哪一段。\n\n"  # noqa: RUF001
        "{context}\n\n下面是一个摘要\n\n",
        question='{question}\n\n请输入摘要所属段落的编号。答案格式必须是"段落1"，"段落2"等格式\n\n',  # noqa: RUF001
        prefix="答案是：",  # noqa: RUF001
        metric="retrieval",
        tokens=32,
    ),
    "lcc": _Set(
        context="Please complete the code given below. \n{context}",
        question="{question}",
        prefix="Next line of code:\n",
        metric="code_similarity",
        tokens=64,
    ),
    "repobench-p": _Set(
        context="Please complete the code given below. \n{context}",
        question="{question}",
        prefix="Next line of code:\n",
        metric="code_similarity",
        tokens=64,
    ),
}
_FEW_SHOT = ("trec", "triviaqa", "samsum", "lsht")
_WITHOUT_CHAT = (*_FEW_SHOT, "lcc", "repobench-p")

PROTOCOLS = {
    name: Protocol(
        name=f"longbench:{name}",
        context=one.context,
        question=one.question,
        answer_prefix=one.prefix,
        style="raw" if name in _WITHOUT_CHAT else "chat",
        max_new_tokens=one.tokens,
        stops="line" if name == "samsum" else "end",
        truncation="middle",
        metrics=(one.metric,),
        first_line=name in _FEW_SHOT,
    )
    for name, one in _SETS.items()
}
