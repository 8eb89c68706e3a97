from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from headprobe.nano import train
from headprobe.nano.batches import ANSWER_LAYER, CUE_DEPTH, CUE_LAYER, Teacher
from headprobe.nano.curriculum import STAGES, Stage
from headprobe.nano.packed import Packing, looked, use_packed_questions
from headprobe.nano.tokenizer import build_tokenizer
from headprobe.nano.train import Pupil, Training, configuration, export

SHORT = (
    Stage(name="repeats", questions={}, gate={"repeats": 2.0}, max_steps=3, tokens=600),
    Stage(
        name="facts",
        questions={"bare": 1.0, "link": 1.0},
        gate={"bare": 2.0},
        max_steps=4,
        context=(64, 96),
        others=(0, 1),
        tokens=600,
        repeats=0.3,
        stretch=0.5,
    ),
)


def weights(training: Training) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in training.pupil.state_dict().items()}


@pytest.mark.slow
def test_training_resumed_after_a_kill_equals_training_in_one_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "STAGES", SHORT)
    monkeypatch.setattr(train, "CHECKPOINT", 2)
    whole = Training(tmp_path / "whole", seed=1)
    (tmp_path / "whole").mkdir()
    whole.run()

    (tmp_path / "cut").mkdir()
    cut = Training(tmp_path / "cut", seed=1)
    advance = cut._advance
    steps = iter(range(6))

    def advance_until_killed(stage: Stage) -> float:
        if next(steps, None) == 5:  # past the second stage's first checkpoint
            raise KeyboardInterrupt
        return advance(stage)

    monkeypatch.setattr(cut, "_advance", advance_until_killed)
    with pytest.raises(KeyboardInterrupt):
        cut.run()
    again = Training(tmp_path / "cut", seed=1)
    again.resume()
    again.run()
    for name, value in weights(whole).items():
        torch.testing.assert_close(value, weights(again)[name], rtol=0, atol=0)


@pytest.mark.slow
def test_what_is_exported_opens_with_the_auto_classes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "STAGES", ())
    training = Training(tmp_path, seed=0)
    export(training, tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    assert type(model) is LlamaForCausalLM
    text = " Mary is 23 years old.\nAnswer:"
    assert tokenizer(text)["input_ids"] == training.tokenizer(text)["input_ids"]
    assert model.config._attn_implementation == "sdpa"


def test_packed_questions_equal_each_question_asked_alone() -> None:
    torch.manual_seed(0)
    model = LlamaForCausalLM(configuration(64)).eval()
    context = torch.randint(64, (1, 11))
    questions = torch.randint(64, (3, 5))
    with torch.no_grad():
        alone = [
            model(torch.cat([context, question[None]], 1)).logits[0, 11:] for question in questions
        ]
        use_packed_questions(model)
        positions = torch.cat([torch.arange(11), *[torch.arange(11, 16)] * 3])[None]
        packed = model(
            torch.cat([context, questions.reshape(1, -1)], 1),
            position_ids=positions,
            use_cache=False,
            packing=packing(),
        ).logits[0, 11:]
    torch.testing.assert_close(packed, torch.cat(alone), rtol=1e-4, atol=1e-4)


def packing(**changes: Any) -> Packing:
    """Eleven tokens of context, three slots of five, nothing hidden."""
    fields: dict[str, Any] = {
        "context": 11,
        "slot": 5,
        "hidden": torch.zeros(1, 3, 3, dtype=torch.long),
    }
    return Packing(**fields | changes)


def test_what_is_hidden_is_seen_from_a_questions_end_on() -> None:
    mask = packing(hidden=torch.tensor([[[3, 6, 4], [0, 0, 0], [0, 0, 0]]])).slot_mask[0, 0]
    context = torch.arange(11)
    assert (mask[:4, :11] == ~((context >= 3) & (context < 6))).all()
    assert mask[4:, :11].all()
    own = torch.tril(torch.ones(5, 5, dtype=torch.bool))
    assert torch.equal(mask[:5, 11:16], own)
    assert not mask[5:, 11:16].any()


def test_a_sentence_by_itself_sees_itself_and_the_first_token() -> None:
    sentence = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]])
    mask = packing(sentence=sentence).context_mask
    assert mask is not None
    for query, seen in enumerate(mask[0, 0].tolist()):
        start = sentence[0].tolist().index(int(sentence[0, query]))
        assert [i for i, one in enumerate(seen) if one] == sorted({0, *range(start, query + 1)})
    assert packing().context_mask is None


def test_looks_are_measured_as_eager_attention_has_them() -> None:
    torch.manual_seed(0)
    model = LlamaForCausalLM(configuration(64)).eval()
    ids = torch.randint(64, (1, 16))
    with torch.no_grad():
        model.set_attn_implementation("eager")
        rows = model(ids, output_attentions=True).attentions[2][0]
        use_packed_questions(model)
        alone = packing(hidden=torch.zeros(1, 1, 3, dtype=torch.long), kept={2: None})
        model(ids, packing=alone, use_cache=False)
    looks = torch.tensor([[0, 12, 3], [0, 15, 13], [0, 15, 7]])
    expected = torch.stack([rows[:, query, key] for _, query, key in looks.tolist()])
    torch.testing.assert_close(looked(alone, 2, looks), expected, rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match="queries and keys of layer 1, got none"):
        looked(alone, 1, looks)


@pytest.mark.slow
def test_hints_and_looks_point_at_what_a_question_is_about() -> None:
    tokenizer = build_tokenizer()
    batch = Teacher(tokenizer, 2112).scenes(STAGES[3], random.Random(4))
    told_of = {layer: looks.tolist() for layer, looks in batch.looks.items()}
    for row, asking, told in told_of[ANSWER_LAYER]:
        assert batch.ids[row, told] == batch.targets[row, asking]
    for row, asking, told in told_of[CUE_LAYER]:
        cue = tokenizer.decode(batch.ids[row, asking])
        meant = batch.hints[CUE_DEPTH][row, asking]
        if cue not in {"older", "younger"}:
            assert batch.ids[row, told] == batch.ids[row, asking]
        assert meant in batch.ids[row, max(0, told - 5) : told]


def test_strange_words_have_other_vectors_and_no_others_have() -> None:
    torch.manual_seed(0)
    teacher = Teacher(build_tokenizer(), 2112)
    pupil = Pupil(len(build_tokenizer()))
    batch = teacher.scenes(replace(STAGES[-1], strange=0.5), random.Random(0))
    assert batch.strange is not None
    kept, words = pupil.model.lm_head.weight, pupil.words(batch)
    changed = (words != kept).any(dim=1).nonzero().flatten()
    assert changed.tolist() == sorted(batch.strange.tolist())
    assert torch.equal(words, pupil.words(batch))
    assert words[batch.strange].std().item() == pytest.approx(kept.std().item(), rel=0.05)
    assert 0.4 < len(batch.strange) / len(teacher.content) < 0.6


def test_scenes_ask_and_answer_from_their_context() -> None:
    tokenizer = build_tokenizer()
    teacher = Teacher(tokenizer, 2112)
    stage = STAGES[-1]
    batch = teacher.scenes(stage, random.Random(2))
    assert batch.packing is not None
    assert set(batch.answers) <= set(stage.questions)
    for kind, answers in batch.answers.items():
        for answer in answers:
            context = tokenizer.decode(batch.ids[answer.row, : batch.packing.context])
            target = batch.targets[answer.row, answer.first : answer.first + answer.size]
            assert tokenizer.decode(target).strip() in context, kind


def test_the_same_generator_state_gives_the_same_batch() -> None:
    teacher = Teacher(build_tokenizer(), 2112)
    one, two = (teacher.scenes(STAGES[-1], random.Random(5)) for _ in range(2))
    assert torch.equal(one.ids, two.ids)
    assert torch.equal(one.weights, two.weights)


@pytest.mark.slow
def test_repeats_are_weighted_where_they_can_be_predicted() -> None:
    batch = Teacher(build_tokenizer(), 2112).repeats(random.Random(0))
    for ids, target, weight in zip(batch.ids, batch.targets, batch.weights, strict=True):
        for at in weight.nonzero().flatten().tolist():
            earlier = [i for i in range(at) if ids[i] == ids[at]]
            assert target[at] in [ids[i + 1] for i in earlier]
