"""This module asks the name servers that the system is configured with."""

import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import dns.exception
import dns.message
import dns.query
import dns.resolver

from rebalancer.doctor.judge.region import Answer
from rebalancer.doctor.subject import MANAGER, Subject
from rebalancer.peers.names import is_numeric, locate

#: The system's list of name servers, and the time in seconds that each has for an answer.
FILE, ANSWER_S = "/etc/resolv.conf", 5.0


def servers(subject: Subject, file: str = FILE) -> list[Answer]:
    """Ask each name server anything; nobody where no name has to be looked up."""
    if not _wanted(subject):
        return []
    try:
        listed = [str(server) for server in dns.resolver.Resolver(file).nameservers]
    except (dns.exception.DNSException, OSError) as exc:
        return [Answer(file, None, str(exc))]
    with ThreadPoolExecutor(len(listed)) as pool:
        return list(pool.map(partial(_ask, _question(subject)), listed))


def _wanted(subject: Subject) -> bool:
    """Tell whether any name has to be looked up: of a source always, for none is known yet."""
    if subject.program != MANAGER:
        return True
    config = subject.manager
    names = [shard.host for shard in config.shards] + [config.storinfo]
    if config.discovery == "direct_db":
        names += config.clones.values()
    for found in (config.bucket_primaries, config.bucket_clones, config.bucket_servers):
        names += found.values()
    return any(not is_numeric(locate(name, config.hosts, 1).host) for name in names)


def _question(subject: Subject) -> str:
    return subject.manager.domain_name if subject.program == MANAGER else "."


def _ask(question: str, server: str) -> Answer:
    """Ask one server; that it does not know the name, or refuses, is an answer as well."""
    started = time.monotonic()
    try:
        dns.query.udp(dns.message.make_query(question, "SOA"), server, timeout=ANSWER_S)
    except (dns.exception.DNSException, OSError, UnicodeError) as exc:
        return Answer(f"name server {server}", None, str(exc) or type(exc).__name__)
    return Answer(f"name server {server}", time.monotonic() - started)
