"""What systemd is sent, on a socket as it makes one."""

import errno
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from rebalancer import daemon, supervision
from rebalancer.supervision import Supervision
from tests.logs import capture_logs
from tests.test_daemon import serving


class Systemd:
    """The socket to which a service reports."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.setblocking(False)
        self.socket.bind(address.replace("@", "\0", 1))
        self.environment = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "20000000"}
        self.supervision = Supervision.of(self.environment, os.getpid())

    def heard(self) -> list[str]:
        """Return the lines that have come since the last look."""
        lines = []
        while True:
            try:
                lines += self.socket.recv(4096).decode().split("\n")
            except BlockingIOError:
                return lines


@pytest.fixture(params=["path", "abstract"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Systemd]:
    name = f"{tmp_path}/notify" if request.param == "path" else f"@{tmp_path}"
    made = Systemd(name)
    yield made
    made.socket.close()


@pytest.mark.parametrize(
    ("environment", "watchdog_s"),
    [
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "7"}, 3.0),
        ({"WATCHDOG_USEC": "3000000"}, 3.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "8"}, 0.0),
        ({"WATCHDOG_USEC": "soon"}, 0.0),
        ({}, 0.0),
    ],
)
def test_a_watchdog_is_for_the_process_that_it_names(
    environment: dict[str, str], watchdog_s: float
) -> None:
    """A child inherits the variables and is not meant."""
    environment["NOTIFY_SOCKET"] = "/run/notify"

    assert Supervision.of(environment, 7) == Supervision("/run/notify", watchdog_s)


@pytest.mark.parametrize("address", ["", "vsock:2:1", "relative"])
async def test_without_a_socket_nothing_is_sent(address: str) -> None:
    """Then the program runs elsewhere, and no task is left running for the purpose."""
    nowhere = Supervision.of({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "1"}, 7)
    await nowhere.report(READY=1)
    await nowhere.report_life(lambda: "")

    assert nowhere == Supervision()


async def test_life_is_reported_at_half_the_interval(
    systemd: Systemd, autojump_clock: MockClock
) -> None:
    """With it goes what the daemon does, on one line."""
    with trio.move_on_after(25):
        await systemd.supervision.report_life(lambda: f"at\nwork {trio.current_time():.0f}")

    begun = trio.current_time() - 25
    reports = [["WATCHDOG=1", f"STATUS=at work {begun + s:.0f}"] for s in (0, 10, 20)]
    assert systemd.heard() == [line for report in reports for line in report]


async def test_a_loop_that_hangs_reports_no_life(
    systemd: Systemd, autojump_clock: MockClock
) -> None:
    """No thread speaks for it: while the loop is held, nothing is sent."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(systemd.supervision.report_life, str)
        await trio.sleep(1)
        assert systemd.heard() == ["WATCHDOG=1", "STATUS="]
        autojump_clock.jump(60)  # the clock goes on, the loop does not
        assert systemd.heard() == []
        nursery.cancel_scope.cancel()


async def test_a_systemd_that_does_not_read_holds_nothing_up(
    systemd: Systemd, autojump_clock: MockClock
) -> None:
    """A report waits for a bounded time; nor does one end anything that finds no socket."""
    for _ in range(10_000):
        with trio.move_on_after(supervision.SEND_S / 2) as waiting:
            await systemd.supervision.report(WATCHDOG=1)
        if waiting.cancelled_caught:
            break
    before = trio.current_time()
    await systemd.supervision.report(WATCHDOG=1)
    assert trio.current_time() - before == pytest.approx(supervision.SEND_S)

    await Supervision("/nonexistent/socket").report(READY=1)


async def test_a_process_without_a_file_for_the_socket_goes_on(
    systemd: Systemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A report that cannot be made costs a line of the log, and no job."""

    def refuse(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(trio.socket, "socket", refuse)
    with capture_logs() as lines:
        await systemd.supervision.report(WATCHDOG=1)

    assert [line["event"] for line in lines] == ["systemd not notified"]


async def test_a_status_may_have_what_no_text_can_hold(systemd: Systemd) -> None:
    """A path of a configuration is in it, which may come from JSON."""
    await systemd.supervision.report(STATUS="reading /\ud800")

    assert systemd.heard() == ["STATUS=reading /?"]


async def test_a_daemon_reports_its_whole_life(
    systemd: Systemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ready once it listens; reloading, and ready again; stopping."""
    for name, value in systemd.environment.items():
        monkeypatch.setenv(name, value)
    heard, reloaded = list[str](), trio.Event()

    async def reload() -> None:
        heard.extend(systemd.heard())
        reloaded.set()

    async def service() -> None:
        heard.extend(systemd.heard())
        os.kill(os.getpid(), signal.SIGUSR1)
        await reloaded.wait()
        await trio.testing.wait_all_tasks_blocked(0.05)
        os.kill(os.getpid(), signal.SIGTERM)
        await trio.sleep_forever()

    with trio.fail_after(10):
        await serving(service, reload)
    heard += systemd.heard()
    events = [line for line in heard if not line.startswith(("STATUS=", "MONOTONIC_USEC="))]
    assert events == ["READY=1", "WATCHDOG=1", "RELOADING=1", "READY=1", "STOPPING=1"]
    assert "STATUS=stopping" in heard
    assert any(line.startswith("MONOTONIC_USEC=") for line in heard)


async def test_a_reload_before_a_daemon_listens_does_not_call_it_ready(
    systemd: Systemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What waits for the daemon would start, and find nobody at its address."""
    for name, value in systemd.environment.items():
        monkeypatch.setenv(name, value)
    heard, reloaded = list[str](), trio.Event()

    async def listen(*_: object) -> str:
        os.kill(os.getpid(), signal.SIGUSR1)
        await trio.testing.wait_all_tasks_blocked(0.05)
        heard.extend(systemd.heard())
        return ""

    async def reload() -> None:
        reloaded.set()

    async def service() -> None:
        await reloaded.wait()
        os.kill(os.getpid(), signal.SIGTERM)
        await trio.sleep_forever()

    monkeypatch.setattr(daemon, "listen", listen)
    with trio.fail_after(10):
        await serving(service, reload)

    assert heard == []
