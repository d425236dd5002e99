"""A Manta zone as far as Linux has one: a root of its own, stubs of SmartOS' tools, SMF's methods.

A zone is a namespace of mounts with a root in which nothing is but the system's programs and what
a tarball brings.  All zones share a network of their own, so every port of theirs is free.
"""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import chevron

STUBS = Path(__file__).parent / "stubs"
#: Of what a program of a zone finds in its environment where nothing else is said.
PATH = "/usr/sbin:/usr/bin"
NOBODY = 65534
#: Nothing here takes longer, in seconds, on a machine that does much else.
PATIENCE_S = 240.0
_ACCOUNTS = "root:x:0:0::/root:/usr/bin/bash\nnobody:x:65534:65534::/:/usr/bin/false\n"
_PYTHON = f"python{sys.version_info[0]}.{sys.version_info[1]}"


@contextmanager
def network() -> Iterator[list[str]]:
    """Make a network that has nothing but loopback; yield what runs a command in it."""
    with _holding("unshare", "--net", "sh", "-c", "ip link set lo up && echo && exec cat") as pid:
        yield ["nsenter", f"--net=/proc/{pid}/ns/net"]


@contextmanager
def _holding(*command: str) -> Iterator[int]:
    """Run what holds a namespace, until the block ends; it prints a line when all is made."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, **pipes) as holder:  # type: ignore[call-overload]
        assert holder.stdout.readline() == b"\n"
        yield holder.pid
        holder.stdin.close()


@attrs.frozen
class Zone:
    """A zone, and where its root is seen from outside."""

    root: Path
    enter: list[str]

    def run(self, command: str, *, code: int | None = 0) -> str:
        """Run a command line as root's shell does; return what it prints."""
        done = subprocess.run(
            [*self.enter, "/usr/bin/env", "-i", f"PATH={PATH}", "HOME=/root", "sh", "-c", command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE_S,
        )
        assert code in (None, done.returncode), done.stdout
        return done.stdout

    def calls(self, program: str) -> list[str]:
        """Return the arguments of all calls of a stub."""
        lines = (self.root / "var" / "log" / "calls").read_text().splitlines()
        return [
            line.removeprefix(f"{program} ") for line in lines if line.startswith(f"{program} ")
        ]

    def render(self, program: str, metadata: Mapping[str, Any]) -> None:
        """Prepare what config-agent writes: it does at its start, and when SAPI has a change."""
        for file in (self.root / "opt/smartdc" / program).glob("sapi_manifests/*/manifest.json"):
            manifest = json.loads(file.read_text())
            text = chevron.render((file.parent / "template").read_text(), metadata)
            target = self.root / "rendered" / manifest["path"].lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)

    def service(self, manifest: str) -> "Service":
        """Return the service of an imported manifest."""
        (service,) = ET.parse(self.root / manifest.lstrip("/")).getroot()
        return Service(self, service)


@contextmanager
def zone(root: Path, net: list[str], mounts: Mapping[Path, str]) -> Iterator[Zone]:
    """Make a zone of a root that has only what a tarball brought; `mounts` are added to it."""
    python = Path("/usr/bin") / _PYTHON
    binds: dict[Path, str] = {Path("/usr"): "/usr", Path("/dev"): "/dev", **mounts}
    if not python.exists():  # this Python is not the system's
        python = Path(os.path.realpath(sys.executable))
        binds[Path(sys.base_prefix)] = sys.base_prefix
    commands = ["set -e", "mount --make-rprivate /"]
    for source, target in {**binds, Path("/proc"): "/proc"}.items():
        place = root / target.lstrip("/")
        place.mkdir(parents=True, exist_ok=True)
        commands.append(f"mount --rbind {shlex.quote(str(source))} {shlex.quote(str(place))}")
        if target in ("/usr", sys.base_prefix):
            commands.append(f"mount -o remount,bind,ro {shlex.quote(str(place))}")
    for name in ("bin", "sbin", "lib", "lib64"):
        (root / name).symlink_to(f"usr/{name}")
    for name in ("etc", "root", "tmp", "var/log", "var/tmp", "var/svc/log", "opt/local/bin"):
        (root / name).mkdir(parents=True, exist_ok=True)
    for path in (root / "tmp", root / "var" / "tmp"):
        path.chmod(0o1777)
    (root / "etc" / "passwd").write_text(_ACCOUNTS)
    (root / "etc" / "hosts").write_text("127.0.0.1 localhost\n")
    for stub in STUBS.iterdir():
        shutil.copy(stub, root / "opt" / "local" / "bin")
    (root / "opt" / "local" / "bin" / _PYTHON).symlink_to(python)
    commands += [f"exec chroot {shlex.quote(str(root))} sh -c 'echo && exec cat'"]
    with _holding(*net, "unshare", "--mount", "sh", "-c", "\n".join(commands)) as pid:
        enter = ["nsenter", f"--target={pid}", "--net", "--mount", "--root", "--wd"]
        yield Zone(root, enter)


def unpack(tarball: Path, folder: Path, strip: int) -> None:
    """Unpack a tarball as `tar --strip-components` does."""
    folder.mkdir(parents=True)
    subprocess.run(
        ["tar", "-C", folder, "--strip-components", str(strip), "-xzf", tarball], check=True
    )


@attrs.define(eq=False)
class Service:
    """A service of SMF: what its manifest says is done, and nothing else."""

    zone: Zone
    manifest: ET.Element
    _session: int = 0

    @property
    def name(self) -> str:
        """Return the service's name as the manifest has it."""
        return self.manifest.attrib["name"]

    @property
    def log(self) -> Path:
        """Return the file of what the service prints."""
        name = self.name.replace("/", "-")
        return self.zone.root / "var" / "svc" / "log" / f"{name}:default.log"

    def _method(self, name: str) -> ET.Element:
        (found,) = (one for one in self.manifest.iter("exec_method") if one.get("name") == name)
        return found

    def start(self) -> None:
        """Call the start method, which returns before the program answers."""
        method = self._method("start")
        variables = {one.get("name"): one.get("value") for one in method.iter("envvar")}
        (context,) = method.iter("method_context")
        as_user = []
        for credential in method.iter("method_credential"):
            assert credential.get("user") == "nobody"
            as_user = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
        with self.log.open("ab") as log:
            starter = subprocess.Popen(
                [
                    *self.zone.enter,
                    *as_user,
                    *["/usr/bin/env", "-i", f"--chdir={context.get('working_directory')}"],
                    *[f"{name}={value}" for name, value in variables.items()],
                    *[f"PATH={PATH}", "sh", "-c", method.attrib["exec"]],
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._session = starter.pid
        assert starter.wait(float(method.attrib["timeout_seconds"])) == 0

    def refresh(self) -> int:
        """Call the refresh method; return where the log was."""
        begin = self.log.stat().st_size
        self._kill("refresh")
        return begin

    def stop(self) -> None:
        """Call the stop method, and wait until all processes of the service have ended."""
        until = time.monotonic() + self._kill("stop")
        while self.processes():
            assert time.monotonic() < until, self.log.read_text()[-2000:]
            time.sleep(0.02)

    def _kill(self, name: str) -> float:
        method = self._method(name)
        word, *option = method.attrib["exec"].split()
        assert word == ":kill"
        number = signal.Signals[f"SIG{option[0].lstrip('-')}" if option else "SIGTERM"]
        for pid in self.processes():
            os.kill(pid, number)
        return float(method.attrib["timeout_seconds"])

    def processes(self) -> list[int]:
        """Return the processes of the service, as SMF's contract does."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                state, *rest = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(rest[2]) == self._session and state != "Z":
                found.append(int(folder.name))
        return found

    def messages(self, begin: int = 0) -> list[str]:
        """Return the messages that were logged behind a place of the log."""
        lines = self.log.read_bytes()[begin:].decode().splitlines()
        return [json.loads(line)["msg"] for line in lines if line.startswith("{")]

    def wait_for(self, message: str, begin: int = 0) -> None:
        """Wait until a message is logged behind a place of the log."""
        until = time.monotonic() + PATIENCE_S
        while message not in self.messages(begin):
            assert self.processes(), self.log.read_text()[-2000:]
            assert time.monotonic() < until, self.log.read_text()[-2000:]
            time.sleep(0.02)

    def kill(self) -> None:
        """End whatever is left of the service, so that a test that fails leaves nothing behind."""
        for pid in self.processes():
            os.kill(pid, signal.SIGKILL)
