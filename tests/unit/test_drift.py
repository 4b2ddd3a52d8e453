"""What is wrong with the tokens of a subject, and which of them may go: the rules alone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.core.drift import Seen, SeenToken, Verdict, judge, may_go
from handlers.core.token_secret import TokenIds

NOW = datetime(2026, 1, 5, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
BEFORE, AFTER = NOW - HOUR, NOW + HOUR
CURRENT = TokenIds("11111111-1111-4111-8111-111111111111", "secret-of-the-current-one")
OTHER = "22222222-2222-4222-8222-222222222222"
THIRD = "33333333-3333-4333-8333-333333333333"
CANNOT_READ = "The secret acme-web is binary; a string is needed."


def current(
    *,
    secret_id: str = CURRENT.secret_id,
    as_wanted: bool = True,
    mark: datetime | None = None,
    accessor_id: str = CURRENT.accessor_id,
) -> SeenToken:
    """The token that tasks pull."""
    return SeenToken(accessor_id, secret_id, as_wanted, not_pulled_since=mark)


def other(accessor_id: str = OTHER, mark: datetime | None = None) -> SeenToken:
    """A token that is not in the secret."""
    return SeenToken(accessor_id, "hunter2-hunter2", as_wanted=True, not_pulled_since=mark)


def seen(
    *tokens: SeenToken,
    ids: TokenIds | None = CURRENT,
    oldest_task: datetime | None = BEFORE,
    unreadable: str = "",
    is_shared: bool = False,
    policy_as_wanted: bool = True,
) -> Seen:
    """A service with tasks, unless something else is said."""
    return Seen(
        tokens=tokens,
        ids=ids,
        oldest_task=oldest_task,
        unreadable=unreadable,
        is_shared=is_shared,
        policy_as_wanted=policy_as_wanted,
    )


# --- nothing to do -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fine",
    [
        pytest.param(seen(current()), id="a service with tasks and its token"),
        pytest.param(seen(current(accessor_id=CURRENT.accessor_id.upper())), id="in capitals"),
        pytest.param(seen(current(), is_shared=True), id="a shared token"),
        pytest.param(seen(current(), is_shared=True, oldest_task=None),
                     id="a shared token without any task"),
        pytest.param(seen(ids=None, oldest_task=None), id="nothing at all"),
        pytest.param(seen(oldest_task=None), id="a secret alone, without tasks"),
        pytest.param(seen(oldest_task=None, unreadable=CANNOT_READ),
                     id="a secret that nobody can read, without tasks"),
        pytest.param(seen(oldest_task=None, policy_as_wanted=False),
                     id="a policy of a service without tasks"),
        pytest.param(seen(current(), other(mark=BEFORE + HOUR / 2)),
                     id="a superseded token that a task may hold"),
        pytest.param(seen(current(), other(mark=AFTER)), id="a superseded token, a moment ago"),
    ],
)  # fmt: skip
def test_nothing_is_wrong(fine: Seen) -> None:
    assert judge(fine, NOW) == Verdict()
    assert not judge(fine, NOW).is_drift


# --- what is wrong -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "verdict"),
    [
        pytest.param(seen(), Verdict(provision=True), id="no token"),
        pytest.param(seen(ids=None), Verdict(provision=True), id="nothing in the secret"),
        pytest.param(seen(is_shared=True, oldest_task=None), Verdict(provision=True),
                     id="no shared token"),
        pytest.param(seen(current(secret_id="another")), Verdict(provision=True),
                     id="another secret ID than in the secret"),
        pytest.param(seen(current(as_wanted=False)), Verdict(provision=True),
                     id="another content"),
        pytest.param(seen(current(), policy_as_wanted=False), Verdict(provision=True),
                     id="another policy"),
        pytest.param(seen(current(), other()), Verdict(retire=(OTHER,)), id="a superseded token"),
        pytest.param(seen(other(), other(THIRD)), Verdict(provision=True, retire=(OTHER, THIRD)),
                     id="superseded tokens, and none to pull"),
        pytest.param(seen(other(), ids=None), Verdict(provision=True, retire=(OTHER,)),
                     id="a token, and a secret that somebody has emptied"),
        pytest.param(seen(current(as_wanted=False, mark=BEFORE)), Verdict(provision=True),
                     id="a marked token that somebody has made current again"),
        pytest.param(seen(current(), other(mark=BEFORE)), Verdict(suspects=(OTHER,)),
                     id="a superseded token that no task can hold"),
        pytest.param(seen(current(), other(mark=BEFORE), other(THIRD)),
                     Verdict(retire=(THIRD,), suspects=(OTHER,)), id="one of both kinds"),
        pytest.param(seen(current(), other(mark=BEFORE), is_shared=True, oldest_task=None),
                     Verdict(suspects=(OTHER,)), id="the controller's old token"),
        pytest.param(seen(current(), oldest_task=None), Verdict(suspects=(CURRENT.accessor_id,)),
                     id="a token without tasks"),
        pytest.param(seen(current(as_wanted=False), other(), other(THIRD, mark=AFTER),
                          oldest_task=None, policy_as_wanted=False),
                     Verdict(suspects=(CURRENT.accessor_id, OTHER, THIRD)),
                     id="all tokens of a service without tasks, whatever else"),
        pytest.param(seen(other(), ids=None, oldest_task=None, unreadable=CANNOT_READ),
                     Verdict(suspects=(OTHER,)),
                     id="a token without tasks, whatever is in the secret"),
        pytest.param(seen(current(), ids=None, unreadable=CANNOT_READ), Verdict(left=CANNOT_READ),
                     id="a secret that nobody can read"),
        pytest.param(seen(other(mark=BEFORE), other(THIRD), ids=None, unreadable=CANNOT_READ),
                     Verdict(left=CANNOT_READ),
                     id="a secret that nobody can read may hold any of the tokens"),
    ],
)  # fmt: skip
def test_what_is_wrong_says_what_is_to_be_done(wrong: Seen, verdict: Verdict) -> None:
    assert judge(wrong, NOW) == verdict
    assert verdict.is_drift


# --- deleting ------------------------------------------------------------------------------------

LAST_YEAR, LAST_MONTH = NOW - 365 * 24 * HOUR, NOW - 30 * 24 * HOUR


@pytest.mark.parametrize(
    ("mark", "oldest_task", "may"),
    [
        pytest.param(NOW, NOW, True, id="marked just now, and the oldest task made just then"),
        pytest.param(NOW + timedelta(seconds=1), None, False, id="not yet"),
        pytest.param(BEFORE, BEFORE, True, id="a task made at the very moment of the mark"),
        pytest.param(BEFORE, BEFORE - timedelta(microseconds=1), False, id="a task a bit older"),
        pytest.param(LAST_MONTH, LAST_YEAR, False, id="a task that lives for long"),
        pytest.param(LAST_YEAR, LAST_MONTH, True, id="all tasks are younger"),
        pytest.param(BEFORE, None, True, id="no task"),
        pytest.param(BEFORE, datetime.min.replace(tzinfo=UTC), False, id="a task of unknown age"),
        pytest.param(None, NOW, False, id="not marked, with tasks, however young"),
    ],
)
@pytest.mark.parametrize("is_shared", [True, False], ids=["shared", "a service's"])
def test_a_superseded_token_may_go_if_every_task_was_made_after_its_mark(
    mark: datetime | None, oldest_task: datetime | None, *, may: bool, is_shared: bool
) -> None:
    token = other(mark=mark)
    look = seen(current(), token, oldest_task=oldest_task, is_shared=is_shared)
    unneeded = not is_shared and oldest_task is None
    assert may_go(token, look, NOW) is (may or unneeded)


@pytest.mark.parametrize("mark", [None, BEFORE])
@pytest.mark.parametrize(
    ("look", "may"),
    [
        pytest.param(seen(), False, id="a service with tasks"),
        pytest.param(seen(oldest_task=None), True, id="a service without tasks"),
        pytest.param(seen(is_shared=True, oldest_task=None), False, id="shared, without tasks"),
        pytest.param(seen(is_shared=True), False, id="shared, with tasks"),
    ],
)
def test_what_tasks_pull_may_go_only_with_the_last_task_and_never_if_it_is_shared(
    look: Seen, mark: datetime | None, *, may: bool
) -> None:
    assert may_go(current(mark=mark), look, NOW) is may


def test_while_nobody_can_read_the_secret_nothing_of_a_service_with_tasks_may_go() -> None:
    look = seen(ids=None, unreadable=CANNOT_READ)
    assert not may_go(other(mark=LAST_YEAR), look, NOW)
    assert not may_go(other(mark=LAST_YEAR), seen(ids=None, unreadable="x", is_shared=True), NOW)


moments = st.sampled_from([LAST_YEAR, LAST_MONTH, BEFORE, NOW, AFTER])
tokens = st.builds(
    SeenToken,
    st.sampled_from([CURRENT.accessor_id, OTHER, THIRD]),
    st.sampled_from([CURRENT.secret_id, "another"]),
    st.booleans(),
    st.none() | moments,
)
looks = st.builds(
    Seen,
    st.lists(tokens, max_size=3, unique_by=lambda token: token.accessor_id),
    st.none() | st.just(CURRENT),
    st.none() | moments,
    st.sampled_from(["", CANNOT_READ]),
    st.booleans(),
    st.booleans(),
)


@given(looks)
def test_nothing_that_a_task_may_hold_is_ever_suspected(look: Seen) -> None:
    verdict = judge(look, NOW)
    by_id = {token.accessor_id: token for token in look.tokens}
    for accessor_id in verdict.suspects:
        if look.is_needed:
            assert look.ids is None or accessor_id != look.ids.accessor_id
            mark = by_id[accessor_id].not_pulled_since
            assert mark is not None
            assert mark <= NOW
            assert look.oldest_task is None or look.oldest_task >= mark


@given(looks)
def test_a_verdict_does_one_thing_with_a_token(look: Seen) -> None:
    verdict = judge(look, NOW)
    assert set(verdict.retire) & set(verdict.suspects) == set()
    assert {*verdict.retire, *verdict.suspects} <= {token.accessor_id for token in look.tokens}
    # What nobody needs is not repaired, and what nobody can read is left alone.
    assert not ((verdict.provision or verdict.retire) and (verdict.left or not look.is_needed))


def test_what_is_seen_of_a_token_does_not_show_its_secret_by_accident() -> None:
    assert "hunter2" not in repr(seen(other()))
