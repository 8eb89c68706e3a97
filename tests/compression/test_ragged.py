from __future__ import annotations

import pytest
import torch

from headprobe.compression.entries import COMPENSATION, HeadEntries
from headprobe.compression.ragged import Ragged

LENGTHS = [5, 0, 3, 5, 9, 3, 3]


def some_entries(lengths: list[int], *, compensated: tuple[int, ...] = ()) -> list[HeadEntries]:
    generator = torch.Generator().manual_seed(0)
    made = []
    for number, length in enumerate(lengths):
        positions = torch.arange(length, dtype=torch.int32)
        if number in compensated:
            positions[0] = COMPENSATION
        made.append(
            HeadEntries(
                keys=torch.randn(length, 4, generator=generator),
                values=torch.randn(length, 2, generator=generator),
                positions=positions,
                weight=number + 2 if number in compensated else 0,
            )
        )
    return made


@pytest.mark.parametrize("steps", [[], [1], [1] * 30, [6, 1, 1, 11]])
def test_heads_come_back_with_what_was_added(steps: list[int]) -> None:
    given = some_entries(LENGTHS, compensated=(0, 5))
    ragged = Ragged.of(given)
    expected = [(one.keys, one.values, one.positions) for one in given]
    position = 40
    for tokens in steps:
        keys, values = torch.randn(len(given), tokens, 4), torch.randn(len(given), tokens, 2)
        ragged.append(keys, values, position)
        new = torch.arange(position, position + tokens, dtype=torch.int32)
        expected = [
            (torch.cat([k, keys[i]]), torch.cat([v, values[i]]), torch.cat([p, new]))
            for i, (k, v, p) in enumerate(expected)
        ]
        position += tokens
    for stream, (keys, values, positions) in zip(ragged.held(), expected, strict=True):
        assert torch.equal(stream.keys, keys)
        assert torch.equal(stream.values, values)
        assert torch.equal(stream.positions, positions)
    assert ragged.lengths == [length + sum(steps) for length in LENGTHS]
    assert [stream.weight for stream in ragged.held()] == [2, 0, 0, 0, 0, 7, 0]


def test_heads_of_equal_length_make_one_block() -> None:
    ragged = Ragged.of(some_entries(LENGTHS, compensated=(0, 5)))
    ragged.append(torch.zeros(7, 1, 4), torch.zeros(7, 1, 2), 40)
    blocks = list(ragged.blocks(positions=True))
    assert [ragged.numbers(block).tolist() for block in blocks] == [[1], [2, 6], [3], [4], [5], [0]]
    assert [block.keys.shape[1] for block in blocks] == [1, 4, 6, 10, 4, 6]
    assert [block.log_weights is not None for block in blocks] == [False] * 4 + [True] * 2
    assert torch.equal(blocks[-1].log_weights, torch.tensor([2.0]).log())


def test_bounds_and_use_describe_the_buffer_to_a_varlen_kernel() -> None:
    ragged = Ragged.of(some_entries(LENGTHS))
    ragged.append(torch.randn(7, 2, 4), torch.randn(7, 2, 2), 40)
    assert ragged.slots.order is not None
    for at, number in enumerate(ragged.slots.order.tolist()):
        start = int(ragged.slots.bounds[at])
        stop = start + int(ragged.slots.used[at])
        assert stop <= int(ragged.slots.bounds[at + 1])
        assert torch.equal(ragged.keys[start:stop], ragged.held()[number].keys)
    assert int(ragged.slots.bounds[-1]) == len(ragged.keys)
    assert ragged.slots.longest >= int(ragged.slots.used.max()) == 11


def test_a_fresh_buffer_holds_nothing_but_the_entries() -> None:
    ragged = Ragged.of(some_entries(LENGTHS))
    buffers = (ragged.keys, ragged.values, ragged.positions)
    held = sum(buffer.untyped_storage().nbytes() for buffer in buffers)
    assert held == sum(LENGTHS) * (4 + 2 + 1) * 4


@pytest.mark.parametrize("added", [0, 3])
def test_heads_are_taken_and_joined_as_they_stand(added: int) -> None:
    def grown(lengths: list[int], compensated: tuple[int, ...]) -> Ragged:
        ragged = Ragged.of(some_entries(lengths, compensated=compensated))
        if added:
            ragged.append(
                torch.randn(len(lengths), added, 4), torch.randn(len(lengths), added, 2), 40
            )
        return ragged

    parts = [grown(LENGTHS, (0, 5)), grown([2, 8, 1], (1,))]
    everything = [one for part in parts for one in part.held()]
    joined = Ragged.join(parts)
    taken = joined.take([7, 0, 0, 8])
    for found, expected in [
        (joined.held(), everything),
        (taken.held(), [everything[head] for head in (7, 0, 0, 8)]),
    ]:
        for one, other in zip(found, expected, strict=True):
            assert torch.equal(one.keys, other.keys)
            assert torch.equal(one.values, other.values)
            assert torch.equal(one.positions, other.positions)
            assert one.weight == other.weight


def test_nothing_moves_while_tokens_come_that_room_was_set_aside_for() -> None:
    ragged = Ragged.of(some_entries(LENGTHS))
    ragged.set_aside(20)
    buffer = ragged.keys.data_ptr()
    for step in range(20):
        ragged.append(torch.randn(7, 1, 4), torch.randn(7, 1, 2), 40 + step)
        assert ragged.keys.data_ptr() == buffer
    assert ragged.held()[2].positions.tolist() == [0, 1, 2, *range(40, 60)]
