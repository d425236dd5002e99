"""Peers are asked all at a time; their time is compared with ours, however it is said."""

import email.utils
import time
from contextlib import closing
from pathlib import Path

import attrs
import pytest
import trio
import trio.testing

from rebalancer.config import ManagerConfig
from rebalancer.daemon import Listen, listen
from rebalancer.doctor.findings import Level
from rebalancer.doctor.judge.region import Answer, peers
from rebalancer.doctor.look import names, region
from rebalancer.errors import PeerUnreachable
from rebalancer.serving.app import Answer as Served
from rebalancer.serving.app import App, Request
from rebalancer_devregion import postgres
from rebalancer_devregion.moray.server import ShardServer
from rebalancer_devregion.moray.store import ShardStore
from rebalancer_devregion.storinfo import make_storinfo_app
from tests.conftest import require
from tests.doctor.subjects import BUCKETS, a_manager, an_agent


def with_hosts(folder: Path, **hosts: str) -> ManagerConfig:
    """A manager's configuration in which these names have these addresses."""
    config = a_manager(folder).manager
    named = {name.replace("_", "."): address for name, address in hosts.items()}
    return attrs.evolve(config, hosts={**config.hosts, **named})


async def test_a_shard_says_its_time_in_each_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is not there is named, with the reason."""
    store = ShardStore(tmp_path / "1.sqlite")
    async with trio.open_nursery() as nursery:
        _, port = await nursery.start(ShardServer(store).serve, "127.0.0.1", 0)
        config = with_hosts(tmp_path, **{"1_moray_lab": f"127.0.0.1:{port}"})
        good, dead = await region._shards(config)
        assert (good.peer, good.trouble) == ("1.moray.lab", "")
        assert good.ahead_s is not None
        assert abs(good.ahead_s) < 5
        assert (dead.took_s, "127.0.0.1:1" in dead.trouble) == (None, True)

        late = time.time() - 3600
        monkeypatch.setattr(region, "_now", lambda: late)
        slow, _ = await region._shards(config)
        nursery.cancel_scope.cancel()
    (_, found) = peers([slow], "shard", "do")
    assert found.level is Level.WARNING
    assert "3,600 s ahead of this machine's" in found.found


async def _storinfo_of(app: App, folder: Path) -> Answer:
    stopping = trio.Event()
    async with trio.open_nursery() as nursery:
        where = await listen(nursery, app, Listen("127.0.0.1", 0), stopping)
        (found,) = await region._storinfo(with_hosts(folder, storinfo_lab=where))
        stopping.set()
    return found


async def test_storinfo_says_its_time_in_a_header(tmp_path: Path) -> None:
    """If it has one; what is no list of nodes is no storinfo's."""
    assert (await _storinfo_of(make_storinfo_app(list), tmp_path)).trouble == ""

    app = App("storinfo", 1 << 10)

    @app.get("/storagenodes")
    async def list_nodes(_request: Request) -> Served:
        date = email.utils.formatdate(time.time() + 600, usegmt=True)
        return Served(b"[]", headers={"Date": date})

    found = await _storinfo_of(app, tmp_path)
    assert found.ahead_s is not None
    assert 590 < found.ahead_s < 610
    assert (await _storinfo_of(App("other", 1), tmp_path)).trouble.startswith("404 ")


async def test_a_clone_says_its_time_by_sql(tmp_path: Path) -> None:
    """A real one; without clones in the configuration nobody is asked."""
    require("initdb")
    with postgres.running() as cluster:
        cluster.create()
        address = {"1_rebalancer-postgres_lab": cluster.address}
        good, dead = await region._clones(with_hosts(tmp_path, **address))
    assert (good.trouble, dead.took_s) == ("", None)
    assert good.ahead_s is not None
    assert abs(good.ahead_s) < 5
    assert await region._clones(attrs.evolve(a_manager(tmp_path).manager, discovery="moray")) == []


@pytest.mark.parametrize("update", ["sql", "mdapi", "off"])
async def test_the_buckets_tier_is_asked_as_a_job_asks_it(tmp_path: Path, update: str) -> None:
    """A standby says its time and takes no updates, which go by SQL, by the server, or nowhere."""
    require("initdb")
    subject = a_manager(tmp_path, BUCKETS % update)
    assert names._wanted(subject)
    with postgres.running() as cluster:
        cluster.create_buckets([0])
        with closing(cluster.connect("postgres")) as db:
            db.execute("ALTER DATABASE buckets_metadata SET default_transaction_read_only = on")
        postgresql = {f"1.buckets-{name}.lab": cluster.address for name in ("postgres", "clone")}
        hosts = {**subject.manager.hosts, **postgresql, "1.buckets-mdapi.lab": "127.0.0.1:1"}
        found = await region._buckets(attrs.evolve(subject.manager, hosts=hosts))

    troubles = {one.peer: one.trouble for one in found}
    assert troubles.pop("1.buckets-clone.lab") == ""
    assert ("read-only" in troubles.pop("1.buckets-postgres.lab")) is (update == "sql")
    assert set(troubles) == ({"1.buckets-mdapi.lab"} if update == "mdapi" else set())
    assert all(troubles.values())
    assert await region._buckets(a_manager(tmp_path).manager) == []


async def test_silence_is_bounded(autojump_clock: trio.testing.MockClock) -> None:
    """All wait at the same time, and none takes another's answer along."""

    async def fail() -> float:
        raise PeerUnreachable("b: away")

    async def tell() -> None:
        return None

    answers = await region._ask_all({"a": trio.sleep_forever, "b": fail, "c": tell})
    assert trio.current_time() == region.ANSWER_S
    assert [one.trouble for one in answers] == [f"no answer in {region.ANSWER_S:g} s", "away", ""]


async def test_a_clone_that_takes_no_connection_is_waited_for_as_long_as_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    """A machine that is switched off refuses none either."""

    async def connect(*_: object) -> None:
        await trio.sleep_forever()

    monkeypatch.setattr(trio, "open_tcp_stream", connect)
    found = await region._clones(a_manager(tmp_path).manager)

    assert trio.current_time() == region.CONNECT_S
    assert {one.trouble for one in found} == {f"no connection in {region.CONNECT_S} s"}


def test_name_servers_are_asked_if_there_is_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each by itself; a file without any is a trouble of its own."""
    monkeypatch.setattr(names, "ANSWER_S", 0.01)
    file = tmp_path / "resolv.conf"
    file.write_text("nameserver 127.0.0.253\nnameserver 127.0.0.254\n")
    found = names.servers(an_agent(tmp_path), str(file))
    assert [one.peer for one in found] == ["name server 127.0.0.253", "name server 127.0.0.254"]
    assert all(one.took_s is None and one.trouble for one in found)

    assert names.servers(a_manager(tmp_path), str(file)) == []  # hosts has every name
    (missing,) = names.servers(an_agent(tmp_path), str(tmp_path / "none"))
    assert missing.trouble
