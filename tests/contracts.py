"""What the tests of both APIs by their descriptions share."""

from collections.abc import Collection
from typing import Any

from hypothesis import HealthCheck, settings


def few(examples: int) -> settings:
    """So many examples of each call, the same ones in every run, however slow the machine is."""
    return settings(
        max_examples=examples,
        derandomize=True,
        deadline=None,
        database=None,
        # It looks at the clock.
        suppress_health_check=[HealthCheck.too_slow],
    )


def make_whole(values: dict[str, Any], but: Collection[str] = ()) -> None:
    """Write whole numbers as such: for a schema 22.0 is an integer, for these APIs it is none."""
    for name, value in values.items():
        if isinstance(value, float) and value.is_integer() and name not in but:
            values[name] = int(value)
