"""Train the nano model: ``python -m headprobe.nano.train --out DIR``.

Seeded; checkpoints after every stage and every few minutes; the same command goes on from there.
At the end DIR/model holds what transformers saves. docs/nano.md tells how long it takes.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from headprobe.files import atomic_write
from headprobe.nano.batches import Batch, Teacher
from headprobe.nano.curriculum import STAGES, Stage
from headprobe.nano.packed import looked, use_packed_questions
from headprobe.nano.tokenizer import build_tokenizer

WIDTH, HEAD_DIM, MAX_CONTEXT = 192, 32, 2112
WARM_UP, REPORT, CHECKPOINT = 50, 20, 200
MEMORY = 0.95
HINT_WEIGHT, LOOK_WEIGHT = 0.5, 0.5
PADDED_TO = 256


def configuration(words: int) -> LlamaConfig:
    """Make a configuration of 6 layers, 8 query and 4 KV heads, 2.4 million parameters."""
    return LlamaConfig(
        vocab_size=words,
        hidden_size=WIDTH,
        intermediate_size=384,
        num_hidden_layers=6,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=HEAD_DIM,
        max_position_embeddings=MAX_CONTEXT,
        rope_parameters={"rope_type": "default", "rope_theta": 1e5},
        rms_norm_eps=1e-5,
        initializer_range=0.05,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )


class Pupil(nn.Module):
    """The model in training, with a small network that reads its middle layers.

    The network guesses from the residual stream a token's subject (after two layers), the subject
    that a question's cue word means (after three) and the subject at its end (after four).
    Without these hints the model takes thousands of steps to get past naming one of the people at
    random. One network reads all depths, so that a name looks the same wherever it is looked up.
    The network is not part of the model that is shipped.
    """

    def __init__(self, words: int) -> None:
        super().__init__()
        self.model = LlamaForCausalLM(configuration(words))
        nn.init.normal_(self.model.model.embed_tokens.weight, std=0.3)
        self.hint = nn.Sequential(nn.RMSNorm(WIDTH), nn.Linear(WIDTH, WIDTH, bias=False))
        use_packed_questions(self.model)

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """Compute a batch's loss, and the fraction of right answers of every kind."""
        words = self.words(batch)
        with torch.autocast("cpu", torch.bfloat16):
            output = self.model.model(
                inputs_embeds=F.embedding(batch.ids, words),
                position_ids=batch.positions,
                use_cache=False,
                output_hidden_states=True,
                packing=batch.packing,
            )
            at = _places(batch.weights > 0)
            logits = F.linear(output.last_hidden_state.flatten(0, 1)[at], words).float()
        targets, weights = batch.targets.flatten()[at], batch.weights.flatten()[at]
        losses = F.cross_entropy(logits, targets, reduction="none")
        loss = (losses * weights).sum() / weights.sum()
        right = torch.zeros_like(batch.weights, dtype=torch.bool)
        right.view(-1)[at] = logits.argmax(-1) == targets
        rates = _rates(batch, right)
        for depth, hints in batch.hints.items():
            guess, word = self._guess(output.hidden_states[depth], hints, words)
            loss = loss + HINT_WEIGHT * F.cross_entropy(guess, word, ignore_index=-1)
            hit = (guess.argmax(-1) == word).sum() / (word >= 0).sum()
            rates[f"hint {depth}"] = hit.item()
        for layer, looks in batch.looks.items():
            assert batch.packing is not None, "looks are in packed questions"
            seen = looked(batch.packing, layer, looks)
            loss = loss - LOOK_WEIGHT * seen.sum(-1).clamp(1e-6, 1.0).log().mean()
            rates[f"look {layer}"] = seen.amax(-1).mean().item()
        return loss, rates

    def words(self, batch: Batch) -> Float[Tensor, "word width"]:
        """Return the embedding, with random vectors of usual size for the batch's strange words."""
        words: Tensor = self.model.lm_head.weight
        if batch.strange is None:
            return words
        generator = torch.Generator().manual_seed(batch.seed)
        drawn = torch.randn(len(batch.strange), WIDTH, generator=generator)
        return words.index_copy(0, batch.strange, drawn * words.detach().std())

    def _guess(
        self,
        hidden: Float[Tensor, "row token width"],
        hints: Int[Tensor, "row token"],
        words: Float[Tensor, "word width"],
    ) -> tuple[Float[Tensor, "place word"], Int[Tensor, " place"]]:
        at = _places(hints >= 0)
        with torch.autocast("cpu", torch.bfloat16):
            read = self.hint(hidden.flatten(0, 1)[at])
            guess = F.linear(read, words)
        return guess.float(), hints.flatten()[at]


def _places(chosen: Tensor) -> Int[Tensor, " place"]:
    """List the places where ``chosen`` holds, padded to few sizes (see ``batches.SHAPES``)."""
    flat = chosen.flatten()
    inside = flat.nonzero().flatten()
    outside = (~flat).nonzero().flatten()
    return torch.cat([inside, outside[: -len(inside) % PADDED_TO]])


def _rates(batch: Batch, right: Tensor) -> dict[str, float]:
    if not batch.answers:
        return {"repeats": right[batch.weights > 0].float().mean().item()}
    return {
        kind: sum(bool(right[a.row, a.first : a.first + a.size].all()) for a in answers)
        / len(answers)
        for kind, answers in batch.answers.items()
    }


def _optimizer(pupil: Pupil, stage: Stage) -> torch.optim.AdamW:
    words = pupil.model.model.embed_tokens.weight
    rest = [parameter for parameter in pupil.parameters() if parameter is not words]
    return torch.optim.AdamW(
        [
            {"params": [words], "weight_decay": 0.0, "scale": stage.word_rate},
            {"params": [p for p in rest if p.ndim > 1], "weight_decay": 0.02, "scale": 1.0},
            {"params": [p for p in rest if p.ndim == 1], "weight_decay": 0.0, "scale": 1.0},
        ],
        lr=stage.rate,
        betas=(0.9, 0.98),
    )


class Training:
    """Runs the curriculum, and saves and restores its state in a checkpoint."""

    def __init__(self, out: Path, seed: int) -> None:
        self._out = out
        self._seed = seed
        self.tokenizer = build_tokenizer()
        self._teacher = Teacher(self.tokenizer, MAX_CONTEXT)
        torch.manual_seed(seed)
        self.pupil = Pupil(len(self.tokenizer))
        self._stage = 0
        self._begin()

    def _begin(self) -> None:
        """Reset the state to the start of a stage."""
        self._step = 0
        self._seen: dict[str, float] = {}
        if self._stage < len(STAGES):
            stage = STAGES[self._stage]
            self._rng = random.Random(f"{self._seed}/{self._stage}/{stage.name}")
            self._optimizer = _optimizer(self.pupil, stage)

    @property
    def checkpoint(self) -> Path:
        """The file that holds the state."""
        return self._out / "checkpoint.pt"

    def resume(self) -> None:
        """Restore the state from the checkpoint, if there is one."""
        if not self.checkpoint.is_file():
            return
        state: dict[str, Any] = torch.load(self.checkpoint, weights_only=True)
        self._stage = state["stage"]
        self.pupil.load_state_dict(state["pupil"])
        self._begin()
        self._step, self._seen = state["step"], state["seen"]
        if self._stage < len(STAGES) and self._step:
            self._optimizer.load_state_dict(state["optimizer"])
            version, numbers, gauss = json.loads(state["random"])
            self._rng.setstate((version, tuple(numbers), gauss))

    def _save(self) -> None:
        state = {
            "stage": self._stage,
            "step": self._step,
            "seen": self._seen,
            "pupil": self.pupil.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "random": json.dumps(self._rng.getstate()),
        }
        with atomic_write(self.checkpoint) as whole:
            torch.save(state, whole)

    def run(self) -> None:
        """Train through the remaining stages."""
        while self._stage < len(STAGES):
            stage = STAGES[self._stage]
            began = time.monotonic()
            while not self._finished(stage):
                loss = self._advance(stage)
                if self._step % REPORT == 0:
                    seen = ", ".join(f"{kind} {s:.3f}" for kind, s in sorted(self._seen.items()))
                    spent = time.monotonic() - began
                    _say(f"{stage.name} {self._step}: {spent:.0f} s, loss {loss:.3f}, {seen}")
                if self._step % CHECKPOINT == 0:
                    self._save()
            self._stage += 1
            self._begin()
            self._save()

    def _finished(self, stage: Stage) -> bool:
        passed = all(self._seen.get(kind, 0) >= least for kind, least in stage.gate.items())
        return self._step >= stage.max_steps or (passed and self._step > stage.min_steps)

    def _advance(self, stage: Stage) -> float:
        warmth = min(1.0, (self._step + 1) / WARM_UP)
        if stage.decay:
            warmth *= 1 - self._step / stage.max_steps
        for group in self._optimizer.param_groups:
            group["lr"] = stage.rate * group["scale"] * warmth
        repeat = not stage.questions or self._rng.random() < stage.repeats
        batch = (
            self._teacher.repeats(self._rng) if repeat else self._teacher.scenes(stage, self._rng)
        )
        loss, rates = self.pupil(batch)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.pupil.parameters(), 1.0)
        self._optimizer.step()
        for kind, rate in rates.items():
            before = self._seen.get(kind, rate)
            self._seen[kind] = MEMORY * before + (1 - MEMORY) * rate
        self._step += 1
        return float(loss.detach())


def export(training: Training, out: Path) -> None:
    """Write the model and its tokenizer as transformers saves them, ready for ``AutoModel``."""
    model = training.pupil.model
    model.set_attn_implementation("sdpa")
    model.generation_config.eos_token_id = [
        training.tokenizer.eos_token_id,
        training.tokenizer.convert_tokens_to_ids("\n"),
    ]
    model.generation_config.pad_token_id = training.tokenizer.pad_token_id
    model.save_pretrained(out)
    training.tokenizer.model_max_length = MAX_CONTEXT
    training.tokenizer.save_pretrained(out)


def _say(line: str) -> None:
    print(line, flush=True)


def main() -> None:
    """Train the model, from its checkpoint if there is one, and write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    training = Training(options.out, options.seed)
    training.resume()
    training.run()
    export(training, options.out / "model")


if __name__ == "__main__":
    main()
