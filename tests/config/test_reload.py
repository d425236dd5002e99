"""Each key says when a change of it is in force, and a reload goes by that."""

from collections.abc import Iterator
from typing import Any, get_args

import attrs
import pytest

from rebalancer.config import AgentConfig, ApiAccess, ManagerConfig, Options, Shard
from rebalancer.config.reload import LIVE, NEXT_JOB, RESTART, Reload, adopt, changed, key, reload_of

CONFIG = ManagerConfig("lab", (Shard("1.moray.lab"),))


def undeclared(kind: Any, prefix: str = "") -> Iterator[str]:
    """Yield the keys that do not say when a change is in force."""
    for field in attrs.fields(kind):
        name = f"{prefix}{field.name}"
        if attrs.has(field.type):
            assert reload_of(field) is None, name
            yield from undeclared(field.type, f"{name}.")
            continue
        if not isinstance(reload_of(field), Reload):
            yield name
        for member in filter(attrs.has, get_args(field.type)):
            yield from undeclared(member, f"{name}[].")


@pytest.mark.parametrize("kind", [ManagerConfig, AgentConfig])
def test_each_key_declares_when_a_change_is_in_force(kind: Any) -> None:
    """A key that says nothing is a mistake, not a key for the next job."""
    assert list(undeclared(kind)) == []


def test_a_key_without_a_declaration_is_found() -> None:
    """The test above can fail: for a key of the file, of a table and of a list's members."""

    @attrs.frozen
    class Table:
        said: int = key(1, about="", reload=LIVE)
        silent: int = 2

    @attrs.frozen
    class File:
        table: Table = Table()
        members: tuple[Table, ...] = key((), about="", reload=NEXT_JOB)
        forgotten: str = attrs.field(default="")

    assert list(undeclared(File)) == ["table.silent", "members[].silent", "forgotten"]


def test_keys_are_adopted_by_their_kind() -> None:
    """Within tables too; all others keep the old value."""
    new = attrs.evolve(
        CONFIG,
        max_fill_percentage=80,
        max_attempts=9,
        listen_port=81,
        options=Options(max_metadata_update_threads=3, max_sharks=9),
        api=ApiAccess(token_file="/token"),
    )

    assert adopt(CONFIG, new, {LIVE}) == attrs.evolve(
        CONFIG, max_fill_percentage=80, options=Options(max_metadata_update_threads=3)
    )
    assert adopt(CONFIG, new, {LIVE, NEXT_JOB}) == attrs.evolve(
        new, listen_port=80, api=ApiAccess()
    )
    assert adopt(CONFIG, new, set(Reload)) == new


def test_changed_keys_are_named_with_their_table() -> None:
    """So that an operator finds them in the file."""
    new = attrs.evolve(
        CONFIG, data_dir="/d", max_attempts=9, api=ApiAccess(tls_cert="c", tls_key="k")
    )

    assert changed(CONFIG, new, RESTART) == ["api.tls_cert", "api.tls_key", "data_dir"]
    assert changed(CONFIG, new, NEXT_JOB) == ["max_attempts"]
    assert changed(CONFIG, new, LIVE) == []
