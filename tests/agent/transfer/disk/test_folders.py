"""Links, FIFOs and devices where an object belongs, modes of what is made, and the start."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from rebalancer.agent.transfer.disk.files import ObjectFiles
from rebalancer.errors import ConfigError, StoreError
from tests.agent.scripted import Rig, open_rig
from tests.sources import OWNER, Answer, bucket_task, md5, ok, task, uuid

SMALL, LARGE = b"an object", b"x" * (3 << 20)
FS_ERROR = {"Failed": "AgentFSError"}
OTHER = "0a1b2c3d-0000-1000-8000-0000000000aa"


def object_files(folder: Path, **changes: object) -> ObjectFiles:
    values: dict[str, object] = {
        "root": folder / "manta",
        "temp": folder / "manta" / "rebalancer",
        "reserve_bytes": 0,
        "durable": True,
        "on_cleanup_failure": lambda: None,
        **changes,
    }
    return ObjectFiles(**values)  # type: ignore[arg-type]


def make_fifo(path: Path) -> None:
    os.mkfifo(path)


def make_device(path: Path) -> None:
    try:
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 5))  # /dev/zero, which never ends
    except PermissionError:
        pytest.skip("no device can be made here")


def make_link(path: Path) -> None:
    target = path.parent.parent.parent / "elsewhere"
    target.write_bytes(SMALL)
    path.symlink_to(target)


def make_dangling(path: Path) -> None:
    path.symlink_to(path.parent.parent.parent / "nowhere")


@pytest.mark.parametrize("make", [make_fifo, make_device, make_link, make_dangling])
@pytest.mark.parametrize("content", [SMALL, LARGE], ids=["small", "large"])
async def test_what_is_no_file_is_replaced(tmp_path: Path, make: object, content: bytes) -> None:
    """Not opened, not written through, and not waited for: the object takes its place."""
    assert callable(make)
    async with open_rig(tmp_path, lambda *_: Answer(ok(content))) as rig:
        rig.path(1).parent.mkdir()
        make(rig.path(1))
        assert await rig.outcome(task(1, content)) == {}

        assert rig.path(1).read_bytes() == content
        assert not rig.path(1).is_symlink()
        assert rig.temporary == []
    if make is make_link:
        assert (tmp_path / "elsewhere").read_bytes() == SMALL
    assert not (tmp_path / "nowhere").exists()


async def test_a_folder_in_place_of_an_object(tmp_path: Path) -> None:
    """The node's fault; what is in it stays, and others come."""
    async with open_rig(tmp_path, lambda *_: Answer(ok(SMALL))) as rig:
        (rig.path(1) / "inner").mkdir(parents=True)
        assert await rig.outcome(task(1, SMALL), task(2, SMALL)) == {uuid(1): FS_ERROR}

        assert (rig.path(1) / "inner").is_dir()
        assert rig.path(2).read_bytes() == SMALL
        assert rig.temporary == []


@pytest.mark.parametrize("content", [SMALL, LARGE], ids=["small", "large"])
async def test_a_link_in_place_of_an_account_is_not_followed(
    tmp_path: Path, content: bytes
) -> None:
    """Nothing is written, read or counted outside of the root; other accounts are not touched."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / uuid(2)).write_bytes(content)
    async with open_rig(tmp_path, lambda *_: Answer(ok(content))) as rig:
        rig.path(1).parent.symlink_to(outside)
        failed = await rig.outcome(
            task(1, content), task(2, content), task(3, content, owner=OTHER)
        )

        assert failed == {uuid(1): FS_ERROR, uuid(2): FS_ERROR}
        assert os.listdir(outside) == [uuid(2)]
        assert (tmp_path / "manta" / OTHER / uuid(3)).read_bytes() == content
        assert rig.temporary == []


@pytest.mark.parametrize("step", range(1, 5))
@pytest.mark.parametrize("is_there", [False, True])
async def test_a_link_on_the_way_to_a_bucket_object_is_not_followed(
    tmp_path: Path, step: int, is_there: bool
) -> None:
    """Wherever it is: nothing is written, read or counted where it leads."""
    outside = tmp_path / "outside"
    async with open_rig(tmp_path, lambda *_: Answer(ok(SMALL))) as rig:
        steps = rig.bucket_path(1).relative_to(tmp_path / "manta").parts
        inside = outside.joinpath(*steps[step:])
        inside.parent.mkdir(parents=True)
        if is_there:
            inside.write_bytes(SMALL)
        link = (tmp_path / "manta").joinpath(*steps[:step])
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(outside)
        assert await rig.outcome(bucket_task(1, SMALL)) == {uuid(1): FS_ERROR}

        assert len(rig.source.paths) == 1
        assert inside.exists() == is_there
        assert rig.temporary == []


async def test_a_link_in_place_of_the_temporary_folder_is_not_followed(tmp_path: Path) -> None:
    """Put there while the agent runs: nothing is written where it leads."""
    outside = tmp_path / "outside"
    outside.mkdir()
    async with open_rig(tmp_path, lambda *_: Answer(ok(SMALL))) as rig:
        (tmp_path / "manta" / "rebalancer").rmdir()
        (tmp_path / "manta" / "rebalancer").symlink_to(outside)
        assert await rig.outcome(task(1, SMALL)) == {uuid(1): FS_ERROR}
    assert os.listdir(outside) == []


# --- modes ---------------------------------------------------------------------------------


@pytest.fixture
def narrow_umask() -> Iterator[None]:
    before = os.umask(0o077)
    yield
    os.umask(before)


def modes(rig: Rig, number: int) -> tuple[int, int]:
    path = rig.path(number)
    return stat.S_IMODE(path.stat().st_mode), stat.S_IMODE(path.parent.stat().st_mode)


@pytest.mark.usefixtures("narrow_umask")
@pytest.mark.parametrize("content", [SMALL, LARGE], ids=["small", "large"])
async def test_modes_do_not_depend_on_the_umask(tmp_path: Path, content: bytes) -> None:
    """The web server must read what is put into place, whoever started the agent."""
    async with open_rig(tmp_path, lambda *_: Answer(ok(content))) as rig:
        assert await rig.outcome(task(1, content)) == {}
        assert modes(rig, 1) == (0o644, 0o755)


@pytest.mark.usefixtures("narrow_umask")
async def test_modes_of_an_earlier_run_are_mended(tmp_path: Path) -> None:
    """An object that is there and cannot be read by the web server is not complete yet."""
    async with open_rig(tmp_path, lambda *_: Answer(ok(SMALL))) as rig:
        rig.path(1).parent.mkdir()
        rig.path(1).write_bytes(SMALL)
        assert modes(rig, 1) == (0o600, 0o700)
        assert await rig.outcome(task(1, SMALL)) == {}
        assert rig.source.paths == []
        assert modes(rig, 1) == (0o644, 0o755)


# --- the start -----------------------------------------------------------------------------


def test_a_start_proves_that_objects_can_be_put_into_place(tmp_path: Path) -> None:
    """And leaves nothing behind."""
    (tmp_path / "manta").mkdir()
    assert object_files(tmp_path).prepare() == 0
    assert [path.name for path in (tmp_path / "manta").rglob("*")] == ["rebalancer"]


def test_a_start_never_makes_the_root(tmp_path: Path) -> None:
    """Where it is missing the configuration is wrong, or its file system is not mounted."""
    with pytest.raises(ConfigError, match=r"storage\.manta_root .*/manta: expected a folder"):
        object_files(tmp_path).prepare()
    with pytest.raises(ConfigError, match=r"storage\.manta_root"), object_files(tmp_path).claimed():
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_start_refuses_what_it_cannot_write_to(tmp_path: Path) -> None:
    """Told by the step that failed."""
    (tmp_path / "manta").mkdir()
    (tmp_path / "manta" / "rebalancer").write_text("a file in the way")
    with pytest.raises(ConfigError, match=r"storage\.temp_dir .*/rebalancer: expected a folder"):
        object_files(tmp_path).prepare()
    with pytest.raises(ConfigError, match=r"cannot create a file in temp_dir .*proc"):
        object_files(tmp_path, root=Path("/proc"), temp=Path(f"/proc/{os.getpid()}")).prepare()


def test_a_start_refuses_another_file_system_for_temporary_files(tmp_path: Path) -> None:
    """Nothing could be renamed from there."""
    (tmp_path / "manta").mkdir()
    shm = Path("/dev/shm")
    if not shm.is_dir() or shm.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("no second file system here")
    with pytest.raises(ConfigError, match=r"temp_dir /dev/shm: expected the file system of"):
        object_files(tmp_path, temp=shm).prepare()


def test_what_a_start_that_was_killed_left_is_removed(tmp_path: Path) -> None:
    """Its probe is nobody's object."""
    probe = tmp_path / "manta" / ".rebalancer-probe"
    probe.mkdir(parents=True)
    (probe / f"{uuid(0)}.{uuid(0)}.{'0' * 32}").write_text("probe")
    object_files(tmp_path).prepare()
    assert not probe.exists()


def test_two_agents_do_not_share_temporary_files(tmp_path: Path) -> None:
    """The second is refused before it removes any of the first's, and told who has them."""
    (tmp_path / "manta").mkdir()
    first, second = object_files(tmp_path), object_files(tmp_path)
    with first.claimed():
        first.prepare()
        download = first.open(OWNER, uuid(1), len(SMALL))
        download.write(SMALL)
        told = r"/rebalancer is in use by rebalancer-agent, process"
        with pytest.raises(StoreError, match=told), second.claimed():
            pass
        assert first.put([download.finish(md5(SMALL))]) == {}
    with second.claimed():
        assert second.prepare() == 0
