"""Short names of models, which ``model`` may name besides a directory or a hub id."""

from __future__ import annotations

from dataclasses import dataclass

NANO = "nano"


@dataclass(frozen=True, kw_only=True)
class Alias:
    """The model that a short name stands for.

    ``num_heads`` and ``num_kv_heads`` count the query and KV heads of a layer. ``max_context`` is
    the number of positions that its configuration allows, ``max_position_embeddings`` (a model may
    be advertised for more); ``None`` leaves the number to the configuration.
    """

    repository: str
    layers: int
    num_heads: int
    num_kv_heads: int
    max_context: int | None


def _alias(
    repository: str, layers: int, num_heads: int, num_kv_heads: int, max_context: int | None
) -> Alias:
    return Alias(
        repository=repository,
        layers=layers,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        max_context=max_context,
    )


ALIASES = {
    NANO: _alias("bundled with headprobe", 6, 8, 4, 2112),
    "llama2-7b": _alias("meta-llama/Llama-2-7b-chat-hf", 32, 32, 32, 4096),
    "llama2-7b-80k": _alias("yaofu/llama-2-7b-80k", 32, 32, 32, None),
    "llama2-13b": _alias("meta-llama/Llama-2-13b-chat-hf", 40, 40, 40, 4096),
    "llama2-70b": _alias("meta-llama/Llama-2-70b-chat-hf", 80, 64, 8, 4096),
    "llama3-8b": _alias("meta-llama/Meta-Llama-3-8B-Instruct", 32, 32, 8, 8192),
    "llama3-70b": _alias("meta-llama/Meta-Llama-3-70B-Instruct", 80, 64, 8, 8192),
    "llama3.1-8b": _alias("meta-llama/Llama-3.1-8B-Instruct", 32, 32, 8, 131_072),
    "llama3.1-70b": _alias("meta-llama/Llama-3.1-70B-Instruct", 80, 64, 8, 131_072),
    "llama3.2-1b": _alias("meta-llama/Llama-3.2-1B-Instruct", 16, 32, 8, 131_072),
    "llama3.2-3b": _alias("meta-llama/Llama-3.2-3B-Instruct", 28, 24, 8, 131_072),
    "llama3.3-70b": _alias("meta-llama/Llama-3.3-70B-Instruct", 80, 64, 8, 131_072),
    "llama4-scout": _alias("meta-llama/Llama-4-Scout-17B-16E-Instruct", 48, 40, 8, 10_485_760),
    "llama4-maverick": _alias(
        "meta-llama/Llama-4-Maverick-17B-128E-Instruct", 48, 40, 8, 1_048_576
    ),
    "mistral-7b": _alias("mistralai/Mistral-7B-Instruct-v0.2", 32, 32, 8, 32_768),
    "mistral-7b-v0.3": _alias("mistralai/Mistral-7B-Instruct-v0.3", 32, 32, 8, 32_768),
    "mixtral-8x7b": _alias("mistralai/Mixtral-8x7B-Instruct-v0.1", 32, 32, 8, 32_768),
    "mixtral-8x22b": _alias("mistralai/Mixtral-8x22B-Instruct-v0.1", 56, 48, 8, 65_536),
    "qwen2.5-0.5b": _alias("Qwen/Qwen2.5-0.5B-Instruct", 24, 14, 2, 32_768),
    "qwen2.5-7b": _alias("Qwen/Qwen2.5-7B-Instruct", 28, 28, 4, 32_768),
    "qwen2.5-14b": _alias("Qwen/Qwen2.5-14B-Instruct", 48, 40, 8, 32_768),
    "qwen2.5-32b": _alias("Qwen/Qwen2.5-32B-Instruct", 64, 40, 8, 32_768),
    "qwen2.5-72b": _alias("Qwen/Qwen2.5-72B-Instruct", 80, 64, 8, 32_768),
    "qwen3-0.6b": _alias("Qwen/Qwen3-0.6B", 28, 16, 8, 40_960),
    "qwen3-1.7b": _alias("Qwen/Qwen3-1.7B", 28, 16, 8, 40_960),
    "qwen3-4b": _alias("Qwen/Qwen3-4B", 36, 32, 8, 40_960),
    "qwen3-8b": _alias("Qwen/Qwen3-8B", 36, 32, 8, 40_960),
    "qwen3-14b": _alias("Qwen/Qwen3-14B", 40, 40, 8, 40_960),
    "qwen3-32b": _alias("Qwen/Qwen3-32B", 64, 64, 8, 40_960),
    "qwen3-30b-a3b": _alias("Qwen/Qwen3-30B-A3B", 48, 32, 4, 40_960),
    "qwen3-235b-a22b": _alias("Qwen/Qwen3-235B-A22B", 94, 64, 4, 40_960),
    "gemma2-2b": _alias("google/gemma-2-2b-it", 26, 8, 4, 8192),
    "gemma2-9b": _alias("google/gemma-2-9b-it", 42, 16, 8, 8192),
    "gemma2-27b": _alias("google/gemma-2-27b-it", 46, 32, 16, 8192),
    "gemma3-1b": _alias("google/gemma-3-1b-it", 26, 4, 1, 32_768),
    "gemma3-4b": _alias("google/gemma-3-4b-it", 34, 8, 4, 131_072),
    "gemma3-12b": _alias("google/gemma-3-12b-it", 48, 16, 8, 131_072),
    "gemma3-27b": _alias("google/gemma-3-27b-it", 62, 32, 16, 131_072),
    "phi3-mini": _alias("microsoft/Phi-3-mini-128k-instruct", 32, 32, 32, 131_072),
    "phi3.5-mini": _alias("microsoft/Phi-3.5-mini-instruct", 32, 32, 32, 131_072),
    "phi4": _alias("microsoft/phi-4", 40, 40, 10, 16_384),
    "phi4-mini": _alias("microsoft/Phi-4-mini-instruct", 32, 24, 8, 131_072),
    "glm4-9b": _alias("zai-org/GLM-4-9B-0414", 40, 32, 2, 32_768),
    "glm4-32b": _alias("zai-org/GLM-4-32B-0414", 61, 48, 2, 32_768),
    "glm4.5-air": _alias("zai-org/GLM-4.5-Air", 46, 96, 8, 131_072),
    "gpt-oss-20b": _alias("openai/gpt-oss-20b", 24, 64, 8, 131_072),
    "gpt-oss-120b": _alias("openai/gpt-oss-120b", 36, 64, 8, 131_072),
    "r1-distill-qwen-7b": _alias("deepseek-ai/DeepSeek-R1-Distill-Qwen-7B", 28, 28, 4, 131_072),
    "r1-distill-llama-8b": _alias("deepseek-ai/DeepSeek-R1-Distill-Llama-8B", 32, 32, 8, 131_072),
    "r1-distill-llama-70b": _alias("deepseek-ai/DeepSeek-R1-Distill-Llama-70B", 80, 64, 8, 131_072),
    "smollm2-135m": _alias("HuggingFaceTB/SmolLM2-135M-Instruct", 30, 9, 3, 8192),
    "smollm2-1.7b": _alias("HuggingFaceTB/SmolLM2-1.7B-Instruct", 24, 32, 32, 8192),
    "smollm3-3b": _alias("HuggingFaceTB/SmolLM3-3B", 36, 16, 4, 65_536),
    "olmo2-7b": _alias("allenai/OLMo-2-1124-7B-Instruct", 32, 32, 32, 4096),
    "olmo2-13b": _alias("allenai/OLMo-2-1124-13B-Instruct", 40, 40, 40, 4096),
    "granite3.3-2b": _alias("ibm-granite/granite-3.3-2b-instruct", 40, 32, 8, 131_072),
    "granite3.3-8b": _alias("ibm-granite/granite-3.3-8b-instruct", 40, 32, 8, 131_072),
    "command-r": _alias("CohereLabs/c4ai-command-r-v01", 40, 64, 64, 8192),
    "command-r-plus": _alias("CohereLabs/c4ai-command-r-plus", 64, 96, 8, 8192),
    "command-r7b": _alias("CohereLabs/c4ai-command-r7b-12-2024", 32, 32, 8, 132_096),
}


def find_alias(name: str) -> Alias | None:
    """Find the known model of a repository, or a directory, that is called as its repository.

    Owners are left aside, and so is the "Meta-" that some of Llama's names have.
    """
    wanted = _bare(name)
    return next((alias for alias in ALIASES.values() if _bare(alias.repository) == wanted), None)


def sizes_of(alias: Alias) -> dict[str, int]:
    """Return a known model's ``layers``, ``heads`` and ``kv_heads``."""
    return {
        "layers": alias.layers,
        "heads": alias.num_heads,
        "kv_heads": alias.num_kv_heads,
    }


def _bare(name: str) -> str:
    return name.rstrip("/").rpartition("/")[2].casefold().removeprefix("meta-")
