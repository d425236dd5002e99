"""Decisions about copies: which are read, and what an answer about one proves."""

import base64
import hashlib
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rebalancer.domain.objects import MantaObject, Shark
from rebalancer.manager.actions.verify.copies import (
    GRAVITY,
    Copy,
    Fault,
    FaultKind,
    copies_of,
    gravest,
    is_sampled,
    judge_head,
    judge_md5,
)
from rebalancer.manager.actions.verify.rate import BURST_S, ByteRate

CONTENT = b"what the user has stored"
MD5 = base64.b64encode(hashlib.md5(CONTENT).digest()).decode()
COPY = Copy("2.stor.lab", "/account/id", len(CONTENT), MD5)
SHARES = st.floats(0, 1)


def kind(status: int, **headers: str) -> FaultKind | None:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    fault = judge_head(COPY, status, named)
    return None if fault is None else fault.kind


def test_an_object_has_a_copy_on_each_node_that_its_record_names() -> None:
    """The path is that of the account under which the copies lie."""
    sharks = (Shark("dc1", "2.stor.lab"), Shark("dc2", "3.stor.lab"))
    obj = MantaObject("the-id", "the-account", MD5, 24, sharks)

    expected = [Copy(name, "/the-account/the-id", 24, MD5) for name in ("2.stor.lab", "3.stor.lab")]
    assert list(copies_of(obj)) == expected


def test_a_head_of_the_right_length_has_no_fault() -> None:
    """That is all that a HEAD can prove."""
    assert kind(200, content_length="24") is None
    assert kind(200, content_length="24", content_encoding="identity") is None


@pytest.mark.parametrize(
    ("status", "headers", "expected"),
    [
        (404, {}, FaultKind.COPY_MISSING),
        (403, {}, FaultKind.COPY_UNREADABLE),
        (301, {"content_length": "24"}, FaultKind.COPY_UNREADABLE),
        (206, {"content_length": "24"}, FaultKind.COPY_UNREADABLE),
        (200, {}, FaultKind.COPY_UNREADABLE),
        (200, {"content_length": "many"}, FaultKind.COPY_UNREADABLE),
        (200, {"content_length": "٢٤"}, FaultKind.COPY_UNREADABLE),
        (200, {"content_length": "24", "content_encoding": "gzip"}, FaultKind.COPY_UNREADABLE),
        (200, {"content_length": "23"}, FaultKind.WRONG_SIZE),
        (200, {"content_length": "9" * 5000}, FaultKind.WRONG_SIZE),
    ],
)
def test_any_other_head_is_a_fault(
    status: int, headers: dict[str, str], expected: FaultKind
) -> None:
    """Only 200 with one plain length is believed."""
    assert kind(status, **headers) is expected


def test_the_bytes_must_have_the_md5_of_the_record() -> None:
    """The detail names both."""
    assert judge_md5(COPY, hashlib.md5(CONTENT).digest()) is None
    fault = judge_md5(COPY, hashlib.md5(b"").digest())
    assert fault is not None
    assert fault.kind is FaultKind.WRONG_MD5
    assert MD5 in str(fault)
    assert "1B2M2Y8AsgTpgAmY7PhCfg==" in str(fault)


@given(st.uuids().map(str), SHARES, SHARES)
def test_a_larger_share_contains_every_smaller_one(name: str, one: float, other: float) -> None:
    """An operator who raises the share reads again what was read, and more."""
    small, large = sorted((one, other))
    assert is_sampled(name, small) <= is_sampled(name, large)
    assert is_sampled(name, small) == is_sampled(name.upper(), small)


@given(st.uuids().map(str))
def test_share_0_has_no_object_and_share_1_has_all(name: str) -> None:
    """The ends are exact."""
    assert not is_sampled(name, 0)
    assert is_sampled(name, 1)


def test_a_share_holds_so_many_of_all_objects() -> None:
    """Within what chance allows for so many."""
    chosen = sum(is_sampled(f"00000000-0000-4000-8000-{n:012d}", 0.01) for n in range(20_000))
    assert 140 < chosen < 260


@given(st.lists(st.sampled_from(GRAVITY), min_size=1))
def test_the_reason_is_the_gravest_fault(kinds: list[FaultKind]) -> None:
    """A lost copy says more than a node that is away."""
    found = gravest([Fault(one, "2.stor.lab", "") for one in kinds])
    assert found in kinds
    assert all(GRAVITY.index(found) <= GRAVITY.index(one) for one in kinds)


@given(st.lists(st.integers(1, 1 << 20), max_size=50), st.integers(1, 1 << 30))
def test_bytes_flow_at_the_rate_and_no_faster(sizes: list[int], per_s: int) -> None:
    """Who rests as asked has read no more than the rate and one burst allow."""
    rate, now = ByteRate(per_s), 1000.0
    for size in sizes:
        now += rate.spend(size, now)

    passed = now - 1000.0
    assert passed == pytest.approx(max(0.0, sum(sizes) / per_s - BURST_S), rel=1e-6, abs=1e-6)


def test_without_a_rate_nobody_rests() -> None:
    """None is no bound."""
    assert ByteRate(None).spend(1 << 50, 0.0) == 0
    assert math.isfinite(ByteRate(1).spend(1, 0.0))
