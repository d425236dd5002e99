"""Sudden ends at every write, sync, rename and message of the agent and its fetcher.

Nothing is left to luck: the calls by which files change are counted, and a run is ended at each of
them in turn.  Then the disk is what a machine without power leaves of it at worst, or what a killed
process does, and another agent is started on it.
"""

import builtins
import os
import shutil
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from rebalancer.agent.state import store
from rebalancer.agent.state.posted import Posted
from rebalancer.agent.transfer.disk import sync
from rebalancer.agent.transfer.line import Line
from rebalancer.agent.transfer.messages import Report
from rebalancer.agent.worker import Worker
from rebalancer.agent_protocol import Assignment, Dialect, read_assignment
from tests.agent.scripted import open_rig
from tests.sources import ASSIGNMENT, Answer, bucket_path, bucket_task, ok, task, uuid

LARGE = bytes(range(256)) * 5000
OTHERS = [f"0a1b2c3d-0000-1000-8000-0000000000a{number}" for number in range(6)]


class SuddenEndError(BaseException):
    """The process is gone: nothing catches this."""


@attrs.define(eq=False)
class Disk:
    """What of a folder would survive a loss of power, and an end of all calls at one of them.

    Only what was synced survives: contents of files and names in folders, each by itself.
    Mutable state: the calls so far, by kind; whether the end came; contents and names that were
    synced; descriptors that keep the numbers of files from being given twice.
    """

    folder: Path
    stop_at: int
    calls: list[str] = attrs.field(factory=list)
    is_over: bool = False
    files: dict[int, bytes] = attrs.field(factory=dict)
    folders: dict[int, dict[str, int]] = attrs.field(factory=dict)
    held: list[int] = attrs.field(factory=list)
    _lock: threading.Lock = attrs.field(factory=threading.Lock)

    def call(self, kind: str) -> None:
        """Such a call begins, or never does."""
        with self._lock:
            if not self.is_over:
                self.calls.append(kind)
                self.is_over = len(self.calls) == self.stop_at
            if self.is_over:
                raise SuddenEndError(f"{kind}, call {len(self.calls)}")

    def has(self, path: str | os.PathLike[str], folder: int | None = None) -> bool:
        whole = os.fspath(path)
        if folder is not None:
            whole = os.path.join(os.readlink(f"/proc/self/fd/{folder}"), whole)
        return whole.startswith(str(self.folder))

    def has_open(self, file: int) -> bool:
        return self.has(os.readlink(f"/proc/self/fd/{file}"))

    def synced(self, file: int) -> None:
        found = os.fstat(file)
        copy = os.open(f"/proc/self/fd/{file}", os.O_RDONLY)
        self.held.append(copy)
        if stat.S_ISDIR(found.st_mode):
            self.folders[found.st_ino] = {entry.name: entry.inode() for entry in os.scandir(copy)}
        else:
            self.files[found.st_ino] = os.pread(copy, found.st_size, 0)

    def all_synced(self) -> None:
        for path in [self.folder, *self.folder.rglob("*")]:
            file = os.open(path, os.O_RDONLY)
            self.synced(file)
            os.close(file)

    def survivors(self, target: Path) -> None:
        """Make a folder of what survives."""
        self._survivors(self.folder.stat().st_ino, target)

    def _survivors(self, number: int, target: Path) -> None:
        target.mkdir()
        for name, inner in self.folders.get(number, {}).items():
            if inner in self.folders or (inner not in self.files and self._is_folder(inner)):
                self._survivors(inner, target / name)
            else:
                (target / name).write_bytes(self.files.get(inner, b""))

    def _is_folder(self, number: int) -> bool:
        return any(p.stat().st_ino == number and p.is_dir() for p in self.folder.rglob("*"))

    def close(self) -> None:
        for file in self.held:
            os.close(file)


@contextmanager
def watched(disk: Disk) -> Iterator[None]:
    """Have all calls that change files below the disk's folder go by way of it."""
    real = {name: getattr(os, name) for name in ("open", "write", "rename", "mkdir", "unlink")}

    def opened(path: Any, flags: int, *args: Any, dir_fd: int | None = None) -> int:
        if flags & os.O_CREAT and disk.has(path, dir_fd):
            disk.call("create")
        file: int = real["open"](path, flags, *args, dir_fd=dir_fd)
        return file

    def write(file: int, data: Any) -> int:
        if disk.has_open(file):
            disk.call("write")
        count: int = real["write"](file, data)
        return count

    def rename(old: Any, new: Any, **folders: Any) -> None:
        if disk.has(old, folders.get("src_dir_fd")):
            disk.call("rename")
        real["rename"](old, new, **folders)

    def mkdir(path: Any, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        if disk.has(path, dir_fd):
            disk.call("mkdir")
        real["mkdir"](path, mode, dir_fd=dir_fd)

    def unlink(path: Any, *, dir_fd: int | None = None) -> None:
        if disk.has(path, dir_fd):
            disk.call("unlink")
        real["unlink"](path, dir_fd=dir_fd)

    def fsync(file: int) -> None:
        disk.call("sync")
        disk.synced(file)

    def syncfs(_file: int) -> int:
        disk.call("sync all")
        disk.all_synced()
        return 0

    def open_file(path: Any, mode: str = "r", *args: Any, **options: Any) -> Any:
        if "w" in mode:
            disk.call("write whole")
        return builtins.open(path, mode, *args, **options)

    send = Line.send

    async def told(self: Line, message: Any) -> None:
        disk.call("message")
        await send(self, message)

    with pytest.MonkeyPatch.context() as patch:
        for name, fake in [("open", opened), ("write", write), ("rename", rename)]:
            patch.setattr(os, name, fake)
        for name, fake in [("mkdir", mkdir), ("unlink", unlink), ("fsync", fsync)]:
            patch.setattr(os, name, fake)
        patch.setattr(sync, "_syncfs", syncfs)
        patch.setattr(store, "open", open_file, raising=False)
        patch.setattr(Line, "send", told)
        yield


@attrs.frozen
class Scenario:
    """Objects to pull, by their paths below the root, and their tasks."""

    objects: dict[str, bytes]
    tasks: list[dict[str, Any]]

    @classmethod
    def of(cls, *objects: tuple[str, bytes], in_buckets: bool = False) -> "Scenario":
        """Of owners and contents."""
        numbered = list(enumerate(objects))
        if in_buckets:
            paths = [bucket_path(n, owner) for n, (owner, _) in numbered]
            tasks = [bucket_task(n, body, owner=owner) for n, (owner, body) in numbered]
        else:
            paths = [f"{owner}/{uuid(n)}" for n, (owner, _) in numbered]
            tasks = [task(n, body, owner=owner) for n, (owner, body) in numbered]
        return cls(dict(zip(paths, (body for _, body in objects), strict=True)), tasks)

    def __or__(self, other: "Scenario") -> "Scenario":
        return Scenario(self.objects | other.objects, self.tasks + other.tasks)

    def assignment(self) -> Assignment:
        return read_assignment({"id": ASSIGNMENT, "tasks": self.tasks})

    @property
    def names(self) -> list[str]:
        """The names of the copies, in the order of the objects."""
        return [one.copy_name for one in self.assignment().tasks]

    def answer(self, _request: int, path: str) -> Answer:
        return Answer(ok(self.objects[path[1:]]))


SCENARIOS = {
    # Synced one by one; the large one by a thread, in blocks.
    # One object of each tier has the same id.
    "few": Scenario.of((OTHERS[0], b"first"), (OTHERS[0], b"second"))
    | Scenario.of((OTHERS[0], LARGE), in_buckets=True),
    # Synced all at once, in as many folders.
    "many": Scenario.of(*[(owner, owner.encode()) for owner in OTHERS]),
}


@attrs.define
class Told:
    """What somebody was told before the end: that the assignment is taken; objects complete."""

    is_taken: bool = False
    complete: set[str] = attrs.field(factory=set)


async def ended(state: Path) -> None:
    """Return once the assignment has ended; not by requests, whose client ends cannot pass."""
    done, left = state / "completed", state / "scheduled"
    while ASSIGNMENT not in os.listdir(done) or os.listdir(left):  # noqa: ASYNC110
        await trio.sleep(0.01)


async def run_until_the_end(scenario: Scenario, disk: Disk) -> Told:
    """An agent at work on the disk, until the end or until all is done."""
    told, heard = Told(), Worker.heard

    def listen(self: Worker, report: Report) -> None:
        told.complete |= {event.name for event in report.finished if event.reason is None}
        heard(self, report)

    with pytest.MonkeyPatch.context() as patch, watched(disk):
        patch.setattr(Worker, "heard", listen)
        try:
            async with open_rig(disk.folder, scenario.answer) as rig:
                # As a request does, but for the HTTP server, which would not let the end through.
                posted = Posted.of(scenario.assignment(), Dialect.LEGACY)
                stored = await trio.to_thread.run_sync(rig.agent.store.save, posted)
                told.is_taken = True
                rig.agent.worker.intake.add(stored)
                await ended(disk.folder / "state")
        except* SuddenEndError:
            pass
    return told


async def go_on(scenario: Scenario, folder: Path, told: Told) -> None:
    """Another agent on what is left: what was told still holds, and the work ends complete."""
    async with open_rig(folder, scenario.answer) as rig:
        known = (await rig.client.get(f"/assignments/{ASSIGNMENT}")).status_code
        assert known == 200 or not told.is_taken
        if known == 404:
            assert (await rig.post(scenario.tasks)).status_code == 200
        assert await rig.finish() == []
        assert rig.temporary == []
        assert not (folder / "manta" / ".rebalancer-probe").exists()
        for path, content in scenario.objects.items():
            assert (folder / "manta" / path).read_bytes() == content


def check(scenario: Scenario, folder: Path, told: Told) -> None:
    """What is told complete is there, and what is under its name is whole."""
    for name, (path, content) in zip(scenario.names, scenario.objects.items(), strict=True):
        file = folder / "manta" / path
        if file.exists():
            assert file.read_bytes() == content, f"{path} is not whole"
        else:
            assert name not in told.complete, f"{path} was told to be there"


def begin(folder: Path, stop_at: int) -> Disk:
    """A disk with an empty root on stable storage."""
    (folder / "manta").mkdir(parents=True)
    disk = Disk(folder, stop_at)
    disk.all_synced()
    return disk


@pytest.mark.row("CRIT-11", "A5", "A10")
@pytest.mark.parametrize("name", SCENARIOS)
async def test_a_sudden_end_at_every_call(
    tmp_path: Path, name: str, record_property: Callable[[str, object], None]
) -> None:
    """Without power nothing that was not synced survives; a killed process leaves all it wrote."""
    scenario = SCENARIOS[name]
    whole = begin(tmp_path / "whole", stop_at=0)
    told = await run_until_the_end(scenario, whole)
    assert told.complete == set(scenario.names)
    kinds = {kind: whole.calls.count(kind) for kind in sorted(set(whole.calls))}
    record_property("crash points", kinds)
    print(f"{name}: {len(whole.calls)} calls: {kinds}")
    assert {"create", "write", "sync", "rename", "mkdir", "message"} <= set(kinds)
    whole.close()

    for stop_at in range(1, len(whole.calls) + 1):
        disk = begin(tmp_path / f"{stop_at}", stop_at)
        with trio.fail_after(60):
            told = await run_until_the_end(scenario, disk)
        dark = tmp_path / f"{stop_at} without power"
        disk.survivors(dark)
        disk.close()
        for folder in (dark, disk.folder):
            try:
                check(scenario, folder, told)
                with trio.fail_after(60):
                    await go_on(scenario, folder, told)
            except BaseException as exc:
                exc.add_note(f"{folder.name}: ended at a {disk.calls[-1]}: {disk.calls}")
                raise
            shutil.rmtree(folder)
