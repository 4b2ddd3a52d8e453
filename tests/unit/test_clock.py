"""Moments as states have them: in UTC, to the second, always with their offset."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.core import clock

EVENING = datetime(2026, 1, 5, 20, 10, 1, tzinfo=UTC)
IN_INDIA = timezone(timedelta(hours=5, minutes=30))


def test_now_is_in_utc() -> None:
    assert clock.now().tzinfo is UTC
    assert abs(clock.now() - datetime.now(UTC)) < timedelta(minutes=1)


@pytest.mark.parametrize(
    ("moment", "text"),
    [
        pytest.param(EVENING, "2026-01-05T20:10:01Z", id="UTC"),
        pytest.param(EVENING.astimezone(IN_INDIA), "2026-01-05T20:10:01Z", id="another offset"),
        pytest.param(EVENING.replace(microsecond=999_999), "2026-01-05T20:10:01Z",
                     id="parts of a second are cut off"),
    ],
)  # fmt: skip
def test_a_moment_is_written_as_step_functions_takes_timestamps(
    moment: datetime, text: str
) -> None:
    assert clock.to_text(moment) == text


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("2026-01-05T20:10:01Z", id="as we write it, and EventBridge"),
        pytest.param("2026-01-05T20:10:01+00:00", id="an offset of nothing"),
        pytest.param("2026-01-06T01:40:01+05:30", id="another offset"),
        pytest.param("2026-01-05T20:10:01.000Z", id="parts of a second"),
    ],
)
def test_a_moment_is_read_with_its_offset(text: str) -> None:
    assert clock.from_text(text) == EVENING


@pytest.mark.parametrize(
    "text",
    [
        *("", "now", "2026-01-05T20:10:01Z ", "2026-13-05T20:10:01Z", "1767643801"),
        pytest.param("2026-01-05T20:10:01", id="no offset"),
        pytest.param("2026-01-05", id="a day"),
    ],
)
def test_a_text_that_is_no_moment_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        clock.from_text(text)


CENTURY = {"min_value": datetime(2000, 1, 1), "max_value": datetime(2100, 1, 1)}  # noqa: DTZ001


@given(st.datetimes(**CENTURY, timezones=st.sampled_from([UTC, IN_INDIA])))
def test_what_was_written_is_read_as_the_same_second(moment: datetime) -> None:
    assert clock.from_text(clock.to_text(moment)) == moment.replace(microsecond=0)
