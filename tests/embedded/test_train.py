from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from headprobe.embedded import train
from headprobe.embedded.batches import Teacher
from headprobe.embedded.curriculum import STAGES, Stage
from headprobe.embedded.packed import _seen, use_packed_questions
from headprobe.embedded.tokenizer import build_tokenizer
from headprobe.embedded.train import Training, configuration, export

SHORT = (
    Stage(name="repeats", questions={}, gate={"repeats": 2.0}, most_steps=3),
    Stage(
        name="facts",
        questions={"bare": 1.0, "link": 1.0},
        gate={"bare": 2.0},
        most_steps=4,
        context=(64, 96),
        others=(0, 1),
        tokens=600,
        repeats=0.3,
        stretch=0.5,
    ),
)


def weights(training: Training) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in training.pupil.state_dict().items()}


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
            context=11,
            hidden=torch.zeros(1, 3, 3, dtype=torch.long),
        ).logits[0, 11:]
    torch.testing.assert_close(packed, torch.cat(alone), rtol=1e-4, atol=1e-4)


def test_the_question_sees_its_answer_at_its_end_in_the_last_layer_alone() -> None:
    hidden = torch.tensor([[[3, 6, 4], [0, 0, 0]]])
    early, last = (_seen(11, 10, hidden, last=last)[0, 0] for last in (False, True))
    context = torch.arange(11)
    answer = (context >= 3) & (context < 6)
    assert (early[:4, :11] == ~answer).all()
    assert (last[:3, :11] == ~answer).all()
    assert early[4:, :11].all()
    assert last[3:, :11].all()
    own = torch.tril(torch.ones(5, 5, dtype=torch.bool))
    assert torch.equal(early[:5, 11:16], own)
    assert not early[5:, 11:16].any()


def test_scenes_ask_and_answer_from_their_context() -> None:
    tokenizer = build_tokenizer()
    teacher = Teacher(tokenizer, 2112)
    stage = STAGES[-1]
    batch = teacher.scenes(stage, random.Random(2))
    assert batch.context is not None
    assert set(batch.answers) <= set(stage.questions)
    for kind, answers in batch.answers.items():
        for answer in answers:
            context = tokenizer.decode(batch.ids[answer.row, : batch.context])
            target = batch.targets[answer.row, answer.first : answer.first + answer.size]
            assert tokenizer.decode(target).strip() in context, kind


def test_the_same_generator_state_gives_the_same_batch() -> None:
    teacher = Teacher(build_tokenizer(), 2112)
    one, two = (teacher.scenes(STAGES[-1], random.Random(5)) for _ in range(2))
    assert torch.equal(one.ids, two.ids)
    assert torch.equal(one.weights, two.weights)


def test_repeats_are_weighted_where_they_can_be_predicted() -> None:
    batch = Teacher(build_tokenizer(), 2112).repeats(random.Random(0))
    for ids, target, weight in zip(batch.ids, batch.targets, batch.weights, strict=True):
        for at in weight.nonzero().flatten().tolist():
            earlier = [i for i in range(at) if ids[i] == ids[at]]
            assert target[at] in [ids[i + 1] for i in earlier]
