"""This module has the list of all checks: what each looks at, and when it is made."""

from collections.abc import Callable, Iterable
from functools import partial
from importlib import import_module
from typing import Any

import attrs

from rebalancer.doctor.findings import Finding, Level
from rebalancer.doctor.judge import disks as judge_disks
from rebalancer.doctor.judge import region as judge_region
from rebalancer.doctor.judge import setup as judge_setup
from rebalancer.doctor.judge import system as judge_system
from rebalancer.doctor.look import disks, setup, system
from rebalancer.doctor.subject import AGENT, MANAGER, Subject

BOTH = frozenset({MANAGER, AGENT})


@attrs.frozen
class Check:
    """A check looks at something, and judges what it has seen by a pure function."""

    name: str
    #: How it should be, for the page about the checks; the name is the subject.
    about: str
    look: Callable[[Subject], Any]
    judge: Callable[[Any], Finding | Iterable[Finding]]
    #: The worst that the check can find.
    worst: Level
    programs: frozenset[str] = BOTH
    #: Whether it is made at every start too: it is quick, and nothing else at a start sees it.
    at_start: bool = False
    needs_config: bool = True
    needs_event_loop: bool = False

    def findings(self, subject: Subject) -> list[Finding]:
        """Make the check of a program, and return what it has found."""
        made = self.judge(self.look(subject))
        return [made] if isinstance(made, Finding) else list(made)


def _later(module: str, look: str, subject: Subject) -> Any:
    """Look by a module that is imported only for this check: it may need trio, and takes time."""
    return getattr(import_module(f"rebalancer.doctor.look.{module}"), look)(subject)


def _peers(name: str, about: str, kind: str, do: str) -> Check:
    return Check(
        name,
        about,
        partial(_later, "region", name),
        lambda seen: judge_region.peers(seen, kind, do),
        Level.WARNING,
        frozenset({MANAGER}),
        needs_event_loop=True,
    )


CHECKS: tuple[Check, ...] = (
    Check(
        "event loop",
        "Python has `epoll` or `kqueue`, without which every other command ends",
        system.event_loop,
        judge_system.event_loop,
        Level.STOPS,
        at_start=True,
        needs_config=False,
    ),
    Check(
        "python",
        "its version is one that was tested",
        system.python,
        judge_system.python,
        Level.STOPS,
        at_start=True,
        needs_config=False,
    ),
    Check(
        "sqlite",
        "it is new enough, has the features that are used, bears threads, and has no known fault",
        system.sqlite,
        judge_system.sqlite,
        Level.STOPS,
        at_start=True,
        needs_config=False,
    ),
    Check(
        "packages",
        "Python packages have the versions that are required; the one file brings its own",
        system.libraries,
        judge_system.libraries,
        Level.STOPS,
        needs_config=False,
    ),
    Check(
        "libraries",
        "libpq (manager) or libcurl (agent) can be loaded",
        system.natives,
        judge_system.natives,
        Level.STOPS,
    ),
    Check(
        "locale",
        "texts and names of files are UTF-8",
        system.encoding,
        lambda seen: judge_system.encoding(*seen),
        Level.WARNING,
        at_start=True,
        needs_config=False,
    ),
    Check(
        "configuration",
        "its keys are known and its values within bounds; tokens, certificate and key can be used",
        setup.configuration,
        judge_setup.configuration,
        Level.STOPS,
        needs_config=False,
    ),
    Check(
        "secrets",
        "no other user can read a token or a key, or change the configuration",
        setup.secrets,
        judge_setup.secrets,
        Level.WARNING,
        at_start=True,
    ),
    Check(
        "user",
        "the checks are made as the user who owns the program's state",
        setup.who,
        judge_setup.user,
        Level.WARNING,
    ),
    Check(
        "running",
        "the program runs, and which process it is; its folders can be claimed",
        setup.running,
        judge_setup.running,
        Level.STOPS,
    ),
    Check(
        "ports",
        "the addresses of API and metrics are free, or the running program's",
        setup.ports,
        judge_setup.ports,
        Level.STOPS,
    ),
    Check(
        "open files",
        "the limit is enough for the connections that the configuration allows",
        system.files,
        judge_system.files,
        Level.WARNING,
        at_start=True,
    ),
    Check(
        "clock",
        "it is set, the monotonic one runs, that of the file system agrees",
        system.clock,
        judge_system.clock,
        Level.STOPS,
    ),
    Check(
        "folders",
        "a file is made, synced, renamed into place and removed in each folder; an agent's"
        " `temp_dir` and `manta_root` are one file system, without a link between them",
        disks.folders,
        judge_disks.folders,
        Level.STOPS,
    ),
    Check(
        "wal",
        "sqlite's WAL mode works with two connections in `data_dir`",
        disks.wal,
        judge_disks.wal,
        Level.STOPS,
        frozenset({MANAGER}),
    ),
    Check(
        "list of jobs",
        "it can be read, and no newer version of the program has made it",
        partial(_later, "jobs", "listed"),
        judge_setup.list_of_jobs,
        Level.STOPS,
        frozenset({MANAGER}),
        needs_event_loop=True,
    ),
    Check(
        "file system",
        "it is neither on another machine nor in memory, and is mounted so that syncs hold",
        disks.mounts,
        judge_disks.mounts,
        Level.WARNING,
        at_start=True,
    ),
    Check(
        "room",
        "there is space, and there are inodes, for each folder",
        disks.room,
        judge_disks.room,
        Level.WARNING,
        at_start=True,
    ),
    Check(
        "durable write",
        "4 KiB are on the disk soon; says how long that takes",
        disks.writes,
        judge_disks.writes,
        Level.WARNING,
    ),
    Check(
        "name servers",
        "each of `/etc/resolv.conf` answers, unless `hosts` has every name",
        partial(_later, "names", "servers"),
        lambda seen: judge_region.peers(
            seen, "name that must be looked up", "see /etc/resolv.conf, or list names in hosts"
        ),
        Level.WARNING,
    ),
    _peers(
        "shards",
        "each shard's Moray answers, with its database; its clock agrees",
        "shard",
        "see the shard's Moray and its SRV records, or hosts of the configuration",
    ),
    _peers(
        "clones",
        "each shard's PostgreSQL clone answers, if objects are found there; its clock agrees",
        "clone (discovery is 'moray')",
        "make the clones before a job (docs/operating.md), or set discovery to 'moray'",
    ),
    _peers(
        "buckets",
        "each buckets shard's PostgreSQL and server answer, as far as jobs ask them; clocks agree",
        "buckets shard",
        "see buckets_primary, buckets_clone and buckets_update, and the services that they name",
    ),
    _peers(
        "storinfo",
        "storinfo answers; its clock agrees",
        "storinfo",
        "see storinfo_url of the configuration, and the service",
    ),
)
