"""Pieces that a call takes, and how much of a list a state can hold."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.core.paging import Room, batches


@pytest.mark.parametrize(
    ("count", "sizes"), [(0, []), (1, [1]), (20, [20]), (21, [20, 1]), (60, [20, 20, 20])]
)
def test_a_batch_is_as_large_as_a_call_takes(count: int, sizes: list[int]) -> None:
    items = list(range(count))
    found = list(batches(items, 20))
    assert [len(batch) for batch in found] == sizes
    assert [item for batch in found for item in batch] == items


@pytest.mark.parametrize(
    ("room", "items", "fitting"),
    [
        pytest.param(Room(3, 100), [], [], id="nothing"),
        pytest.param(Room(3, 100), ["a", "b"], ["a", "b"], id="enough room"),
        pytest.param(Room(2, 100), ["a", "b", "c"], ["a", "b"], id="too many"),
        pytest.param(Room(9, 8), ["a", "b", "c"], ["a", "b"], id="just large enough"),
        pytest.param(Room(9, 7), ["a", "b", "c"], ["a"], id="one byte too few"),
        pytest.param(Room(0, 100), ["a"], [], id="no room for any"),
        pytest.param(Room(9, 9), ["a" * 20, "b"], [], id="none is passed over"),
        pytest.param(Room(9, 9), ["é", "b"], ["é"], id="as it is escaped"),
    ],
)
def test_the_first_items_that_fit_are_taken(room: Room, items: list[str], fitting: Any) -> None:
    taken, left = room.take(items)
    assert taken == fitting
    # The rest would not have fitted either: nobody fills the gap with a later one.
    assert left.most == room.most - len(fitting)


@given(
    st.lists(st.text(max_size=20) | st.dictionaries(st.text(max_size=5), st.integers())),
    st.integers(0, 5),
    st.integers(0, 200),
)
def test_what_is_taken_fits_and_what_is_left_is_told(
    items: list[Any], most: int, most_bytes: int
) -> None:
    taken, left = Room(most, most_bytes).take(items)
    assert items[: len(taken)] == taken
    assert len(taken) <= most
    assert sum(len(json.dumps(item)) + 1 for item in taken) + left.most_bytes == most_bytes
    assert left.most_bytes >= 0
    if len(taken) < len(items):
        assert left.take(items[len(taken) :])[0] == []
