from __future__ import annotations

from itertools import combinations, pairwise, takewhile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headprobe.runs.prefix_tree import BLOCK, PrefixTree

# Prompts of few different blocks, so that they share beginnings; the last token is of its own.
BLOCKS = st.lists(st.sampled_from([(n,) * BLOCK for n in range(3)]), min_size=1, max_size=6)
PROMPTS = st.lists(
    st.builds(
        lambda blocks, rest: [t for b in blocks for t in b] + rest,
        BLOCKS,
        st.lists(st.integers(0, 3), min_size=1, max_size=3),
    ),
    min_size=1,
    max_size=12,
)


def common(one: list[int], other: list[int]) -> int:
    """Whole blocks that both begin with, short of the last token of either."""
    pairs = zip(one[:-1], other[:-1], strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs)) // BLOCK * BLOCK


@given(prompts=PROMPTS)
def test_a_visit_finds_what_it_shares_in_the_cache(prompts: list[list[int]]) -> None:
    cache: list[int] = []
    run = 0
    tree = PrefixTree.of(prompts)
    for visit in tree.visits(range(len(prompts))):
        prompt = prompts[visit.prompt]
        assert cache[: visit.shared] == prompt[: visit.shared]
        run += len(prompt) - visit.shared
        cache = prompt
    assert run == tree.unique_tokens
    assert sorted(tree.order.tolist()) == list(range(len(prompts)))


@given(prompts=PROMPTS)
def test_every_block_is_run_once(prompts: list[list[int]]) -> None:
    blocks = {
        tuple(prompt[:stop]) for prompt in prompts for stop in range(BLOCK, len(prompt), BLOCK)
    }
    ends = sum(len(prompt) - (len(prompt) - 1) // BLOCK * BLOCK for prompt in prompts)
    assert PrefixTree.of(prompts).unique_tokens == BLOCK * len(blocks) + ends


@given(prompts=PROMPTS, data=st.data())
def test_a_prompt_is_cut_where_any_other_leaves_it(
    prompts: list[list[int]], data: st.DataObject
) -> None:
    places = range(len(prompts))
    wanted = data.draw(st.sets(st.sampled_from(places), min_size=1))
    visits = list(PrefixTree.of(prompts).visits(wanted))
    assert {visit.prompt for visit in visits} == wanted
    for visit in visits:
        shared = {common(prompts[visit.prompt], prompts[j]) for j in places if j != visit.prompt}
        assert list(visit.branch_points) == sorted(shared - {0})
    for before, visit in pairwise(visits):
        assert visit.shared == common(prompts[before.prompt], prompts[visit.prompt])


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
