from __future__ import annotations

from itertools import combinations, pairwise, takewhile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headprobe.runs.prefix_tree import BLOCK, LONGEST_TAIL, Path, PrefixTree

# Prompts of few different blocks, so that they share beginnings; the last token is of its own. Some
# end in a part too long for a tail.
BLOCKS = st.lists(st.sampled_from([(n,) * BLOCK for n in range(3)]), min_size=1, max_size=6)
PROMPTS = st.lists(
    st.builds(
        lambda blocks, far, rest: [t for b in blocks for t in b] + far * [3] + rest,
        BLOCKS,
        st.sampled_from([0, 0, LONGEST_TAIL + BLOCK]),
        st.lists(st.integers(0, 3), min_size=1, max_size=3),
    ),
    min_size=1,
    max_size=12,
)
PACKED = pytest.mark.parametrize("packed", [True, False], ids=["packed", "one by one"])


def common(one: list[int], other: list[int]) -> int:
    """Whole blocks that both begin with, short of the last token of either."""
    pairs = zip(one[:-1], other[:-1], strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs)) // BLOCK * BLOCK


def prompts_of(path: Path) -> list[int]:
    return [tail.prompt for tail in path.tails]


@PACKED
@given(prompts=PROMPTS)
def test_a_path_finds_what_it_shares_in_the_cache(packed: bool, prompts: list[list[int]]) -> None:
    cache: list[int] = []
    run = 0
    tree = PrefixTree.of(prompts)
    visited = []
    for path in tree.paths(range(len(prompts)), packed=packed):
        own = prompts[path.prompt][: path.length]
        assert cache[: path.shared] == own[: path.shared]
        run += path.length - path.shared
        cache = own
        for tail in path.tails:
            prompt = prompts[tail.prompt]
            assert tail.start < len(prompt)
            assert prompt[: tail.start] == own[: tail.start]
            run += len(prompt) - tail.start
        visited += prompts_of(path)
    assert run == tree.unique_tokens
    assert visited == tree.order.tolist()


@given(prompts=PROMPTS)
def test_every_block_is_run_once(prompts: list[list[int]]) -> None:
    blocks = {
        tuple(prompt[:stop]) for prompt in prompts for stop in range(BLOCK, len(prompt), BLOCK)
    }
    ends = sum(len(prompt) - (len(prompt) - 1) // BLOCK * BLOCK for prompt in prompts)
    assert PrefixTree.of(prompts).unique_tokens == BLOCK * len(blocks) + ends


@PACKED
@given(prompts=PROMPTS, data=st.data())
def test_paths_are_the_same_whatever_is_wanted(
    packed: bool, prompts: list[list[int]], data: st.DataObject
) -> None:
    wanted = data.draw(st.sets(st.sampled_from(range(len(prompts))), min_size=1))
    tree = PrefixTree.of(prompts)
    every = list(tree.paths(range(len(prompts)), packed=packed))
    some = list(tree.paths(wanted, packed=packed))
    assert [path.tails for path in some] == [
        path.tails for path in every if not wanted.isdisjoint(prompts_of(path))
    ]
    for path in every:
        others = [prompts[other.prompt] for other in every if other is not path]
        shared = {common(prompts[path.prompt], other) for other in others}
        assert list(path.branch_points) == sorted(shared - {0})
    for before, path in pairwise(some):
        assert path.shared == common(prompts[before.prompt], prompts[path.prompt])
        assert path.shared in (0, *path.branch_points)


@given(prompts=PROMPTS)
def test_only_the_paths_own_tail_may_be_long(prompts: list[list[int]]) -> None:
    for path in PrefixTree.of(prompts).paths(range(len(prompts))):
        for tail in path.tails:
            if tail.prompt != path.prompt:
                assert len(prompts[tail.prompt]) - tail.start <= LONGEST_TAIL


def test_prompts_of_several_lengths_are_the_tails_of_one_path() -> None:
    haystack = [token % 97 for token in range(1000)]
    prompts = [[*haystack[:length], 98, 99] for length in (160, 320, 640, 960)]
    prompts += [[*haystack[:128], 97, *haystack[128:length], 98, 99] for length in (320, 640)]
    paths = list(PrefixTree.of(prompts).paths(range(len(prompts))))
    assert sorted(sorted(prompts_of(path)) for path in paths) == [[0, 1, 2, 3], [4, 5]]
    (path,) = (path for path in paths if len(path.tails) == 4)
    assert path.prompt == 3
    assert path.length == 960
    assert {tail.prompt: tail.start for tail in path.tails} == {0: 160, 1: 320, 2: 640, 3: 960}


@given(prompts=PROMPTS, count=st.integers(1, 5))
def test_parts_are_neighbours_and_hold_every_prompt(prompts: list[list[int]], count: int) -> None:
    tree = PrefixTree.of(prompts)
    shards = tree.shards(count)
    assert len(shards) == count
    assert [prompt for shard in shards for prompt in shard] == tree.order.tolist()


def test_parts_hold_whole_subtrees_and_about_as_many_tokens_each() -> None:
    trees = [[[top] * 320 + [top, leaf] * 40 for leaf in range(6)] for top in range(8)]
    prompts = [prompt for tree in trees for prompt in tree]
    tree = PrefixTree.of(prompts)
    shards = tree.shards(4)
    tops = [{prompts[prompt][0] for prompt in shard} for shard in shards]
    assert not any(one & other for one, other in combinations(tops, 2))
    assert [len(shard) for shard in shards] == [12] * 4


@pytest.mark.parametrize("count", [1, 3])
def test_one_prompt_is_one_part(count: int) -> None:
    assert sorted(map(len, PrefixTree.of([[1, 2, 3]]).shards(count))) == [0] * (count - 1) + [1]
