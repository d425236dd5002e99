"""Blocking functions under a mock clock."""

from collections.abc import Callable
from typing import Any, TypeVar

import trio

T = TypeVar("T")


async def inline(fn: Callable[..., T], *args: Any) -> T:
    """Run on the spot what a program runs in a thread, for which a mock clock would not wait."""
    await trio.lowlevel.checkpoint()
    return fn(*args)
