"""Short names of models: what ``--model`` takes beside a directory or a hub id."""

from __future__ import annotations

NANO = "nano"

ALIASES = {
    NANO: "bundled with headprobe",
    "llama3-8b": "meta-llama/Meta-Llama-3-8B-Instruct",
    "llama3.1-8b": "meta-llama/Llama-3.1-8B-Instruct",
    "llama3.2-1b": "meta-llama/Llama-3.2-1B-Instruct",
    "llama2-7b-80k": "yaofu/llama-2-7b-80k",
    "mistral-7b": "mistralai/Mistral-7B-Instruct-v0.2",
    "qwen2.5-7b": "Qwen/Qwen2.5-7B-Instruct",
    "qwen3-0.6b": "Qwen/Qwen3-0.6B",
    "qwen3-8b": "Qwen/Qwen3-8B",
    "gemma3-4b": "google/gemma-3-4b-it",
    "phi3-mini": "microsoft/Phi-3-mini-128k-instruct",
    "smollm2-135m": "HuggingFaceTB/SmolLM2-135M-Instruct",
}
