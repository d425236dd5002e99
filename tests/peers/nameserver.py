"""A name server of a few records on loopback, which remembers what it was asked."""

import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import attrs
import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset
import trio

from rebalancer.peers.names import Endpoint

Question = tuple[str, str]


@attrs.define(eq=False)
class NameServer:
    """Mutable state: the records by question, and everything it does from now on."""

    #: Records as text; a name with records of another kind has no data, any other is unknown.
    records: dict[Question, list[str]] = attrs.field(factory=dict)
    ttl_s: int = 60
    #: Instead of an answer.
    rcode: dns.rcode.Rcode | None = None
    unknown: dns.rcode.Rcode = dns.rcode.NXDOMAIN
    is_silent: bool = False
    #: Answers over UDP are cut, so that the question must come over TCP.
    truncates: bool = False
    asked: list[Question] = attrs.field(factory=list)
    asked_over_tcp: int = 0

    def answer(self, wire: bytes) -> dns.message.Message:
        query = dns.message.from_wire(wire)
        name = query.question[0].name.to_text(omit_final_dot=True)
        kind = dns.rdatatype.to_text(query.question[0].rdtype)
        self.asked.append((name, kind))
        reply = dns.message.make_response(query)
        texts = self.records.get((name, kind))
        if self.rcode is not None:
            reply.set_rcode(self.rcode)
        elif texts is not None:
            where = query.question[0].name
            reply.answer.append(dns.rrset.from_text_list(where, self.ttl_s, "IN", kind, texts))
        elif not any(known == name for known, _ in self.records):
            reply.set_rcode(self.unknown)
        return reply

    async def serve_udp(self, udp: trio.socket.SocketType) -> None:
        while True:
            wire, client = await udp.recvfrom(4096)
            reply = self.answer(wire)
            if self.is_silent:
                continue
            if self.truncates:
                reply.answer.clear()
                reply.flags |= dns.flags.TC
            await udp.sendto(reply.to_wire(), client)

    async def serve_tcp(self, stream: trio.SocketStream) -> None:
        async with stream:
            (length,) = struct.unpack("!H", await stream.receive_some(2))
            self.asked_over_tcp += 1
            wire = self.answer(await stream.receive_some(length)).to_wire()
            await stream.send_all(struct.pack("!H", len(wire)) + wire)


@asynccontextmanager
async def serving() -> AsyncIterator[tuple[NameServer, Endpoint]]:
    """A name server, and where it is."""
    server = NameServer()
    async with trio.open_nursery() as nursery:
        serve = partial(trio.serve_tcp, server.serve_tcp, 0, host="127.0.0.1")
        (listener,) = await nursery.start(serve)
        host, port = listener.socket.getsockname()
        udp = trio.socket.socket(type=trio.socket.SOCK_DGRAM)
        with udp:
            await udp.bind((host, port))
            nursery.start_soon(server.serve_udp, udp)
            yield server, Endpoint(host, port)
            nursery.cancel_scope.cancel()
