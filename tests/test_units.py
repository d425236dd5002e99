"""Sizes, times and rates as people write and read them."""

import pytest

from rebalancer.units import duration, read_rate


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("800000", 800_000),
        ("20M", 20_000_000),
        ("20m", 20_000_000),
        ("20MB", 20_000_000),
        ("20MB/s", 20_000_000),
        ("1G", 1_000_000_000),
        ("20MiB", 20 << 20),
        ("1.5Ki", 1536),
        ("1GiB/s", 1 << 30),
        ("1.5k", 1500),
        ("0.29M", 290_000),
        ("none", None),
        ("None", None),
    ],
)
def test_a_rate_is_read_as_it_is_meant(text: str, expected: int | None) -> None:
    assert read_rate(text) == expected


@pytest.mark.parametrize(
    "text", ["", "M", "-1", "20Mb", "20Mbit", "20Mib", "20i", "1e6", "many", "2 0"]
)
def test_what_may_mean_something_else_is_refused(text: str) -> None:
    """Bits above all."""
    with pytest.raises(ValueError, match="expected bytes a second"):
        read_rate(text)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0, "0 s"),
        (89.4, "89 s"),
        (90, "2 min"),
        (3569, "59 min"),
        (3600, "1 h 00 min"),
        (11_100, "3 h 05 min"),
        (187_200, "2 d 4 h"),
    ],
)
def test_a_time_is_as_exact_as_matters(seconds: float, expected: str) -> None:
    assert duration(seconds) == expected
