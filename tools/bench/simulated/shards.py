"""This module has the Moray servers of a simulated region: all shards, on one port.

They answer what a manager asks, and nothing else: the scan of a window of ids, `getObject`,
`putObject` and `batch` with etags, and what is known of the evacuated nodes.
"""

import itertools
import json
import re
import struct
import time
from collections.abc import Iterator, Sequence
from typing import Any

import attrs
import msgspec
import trio
from fastcrc import crc16

from rebalancer.peers.moray.fast import MAX_ID, Status
from simulated.objects import Objects, etag

_HEADER = struct.Struct(">BBBIII")
_NAME = re.compile(r"manta_storage_id=([^)]*)")
#: The first entry of a record's sharks, which is the one that is rewritten.
_FIRST = re.compile(r'"sharks":\[\{"datacenter":"[^"]*","manta_storage_id":"([^"]*)"\}')


class _Meta(msgspec.Struct):
    name: str


class _Request(msgspec.Struct):
    m: _Meta
    d: list[msgspec.Raw]


class _Options(msgspec.Struct):
    etag: str | None = None


class _Put(msgspec.Struct):
    bucket: str
    key: str
    value: msgspec.Raw
    options: _Options = msgspec.field(default_factory=_Options)
    operation: str = "put"


_requests = msgspec.json.Decoder(_Request)
_puts = msgspec.json.Decoder(list[_Put])


class Refused(Exception):
    """This is what a request is answered with in place of END."""

    def __init__(self, name: str, message: str, **context: str) -> None:
        super().__init__(message)
        self.payload = {"name": name, "message": message, "context": context, "info": {}}


def address_of(shard: int) -> str:
    """Return the address of a shard's server."""
    return f"127.1.{shard >> 8}.{shard & 255}"


def _shard_at(address: str) -> int:
    *_, high, low = map(int, address.split("."))
    return (high << 8) + low


@attrs.frozen
class Shards:
    """This has the servers of all shards."""

    objects: Objects

    async def serve(self, listener: trio.SocketListener) -> None:
        """Serve them for ever."""
        await trio.serve_listeners(self._connection, [listener])

    async def _connection(self, stream: trio.SocketStream) -> None:
        shard = _shard_at(stream.socket.getsockname()[0])
        buffer = bytearray()
        try:
            while data := await stream.receive_some(256 << 10):
                buffer += data
                answers = [self._answer(shard, *request) for request in _taken(buffer)]
                if answers:
                    await stream.send_all(b"".join(answers))
        except trio.BrokenResourceError:
            return  # the client is gone

    def _answer(self, shard: int, number: int, payload: bytes) -> bytes:
        request = _requests.decode(payload)
        name = request.m.name
        try:
            rows = self._rows(shard, name, request.d)
            messages = [_message(number, name, Status.DATA, f"[{row}]") for row in rows]
            return b"".join([*messages, _message(number, name, Status.END, "[]")])
        except Refused as exc:
            return _message(number, name, Status.ERROR, json.dumps(exc.payload))

    def _rows(self, shard: int, name: str, args: Sequence[msgspec.Raw]) -> Iterator[str]:
        match name:
            case "sql":
                statement, values = (msgspec.json.decode(arg) for arg in args[:2])
                return self._sql(shard, statement, values)
            case "batch":
                return self._write(shard, _puts.decode(args[0]))
            case "putObject":
                bucket, key, options = (msgspec.json.decode(args[index]) for index in (0, 1, 3))
                put = _Put(bucket, key, args[2], _Options(options.get("etag")))
                return self._write(shard, [put], plain=True)
            case "getObject":
                return self._get(shard, msgspec.json.decode(args[1]))
            case "findObjects":
                return self._find(msgspec.json.decode(args[1]))
            case "ping":
                return iter(())
        raise self._unknown(name)

    def _unknown(self, what: str) -> Refused:
        self.objects.offend(f"asked for what no manager asks: {what[:80]}")
        return Refused("Error", "this shard cannot do that")

    # --- reading -----------------------------------------------------------------------------

    def _sql(self, shard: int, statement: str, values: list[Any]) -> Iterator[str]:
        stride = self.objects.shape.stride
        if "FROM manta_storage" in statement:
            return iter([json.dumps({"_mtime": "0", "_value": json.dumps(_heartbeat(values[0]))})])
        if "FROM pg_attribute" in statement:
            return iter(())
        if statement.startswith("SELECT max(_id)"):
            return iter([json.dumps({"max_id": str(self.objects.slots_of(shard) * stride)})])
        if "FROM manta WHERE _id > $2 AND _id <= $3" in statement:
            return self._window(shard, values[0].strip('"'), *map(int, values[1:]))
        if "FROM manta WHERE _id IS NULL" in statement:
            return iter(())
        raise self._unknown(statement)

    def _window(self, shard: int, name: str, after: int, until: int) -> Iterator[str]:
        """Yield the rows of a window that name the evacuated node `name`."""
        objects, stride = self.objects, self.objects.shape.stride
        jobs = [origin.name for origin in objects.origins]
        if name not in jobs:
            return
        job = jobs.index(name)
        # Slot `k` has the id `(k + 1) * stride`.
        for slot in range(after // stride, min(until // stride, objects.slots_of(shard))):
            number = objects.number(shard, slot)
            if objects.job_of(number) == job and not objects.named[number]:
                text = objects.current(number)
                escaped = text.replace('"', '\\"')
                yield (
                    f'{{"_key":"{objects.key(number)}","_etag":"{etag(text)}",'
                    f'"_value":"{escaped}","type":"object"}}'
                )

    def _get(self, shard: int, key: str) -> Iterator[str]:
        number = self._number(shard, key)
        text = self.objects.current(number)
        yield (
            f'{{"bucket":"manta","key":"{key}","value":{text},"_id":1,"_etag":"{etag(text)}",'
            f'"_mtime":1,"_txn_snap":null,"_count":1}}'
        )

    def _find(self, text: str) -> Iterator[str]:
        """Yield the record of a storage node, as its heartbeat wrote it last."""
        found = _NAME.search(text)
        for origin in self.objects.origins:
            if found is not None and found[1] == origin.name:
                value = _heartbeat(origin.name)
                row = {"bucket": "manta_storage", "key": origin.name, "value": value}
                yield json.dumps({**row, "_id": 1, "_etag": "00000000", "_mtime": 1})

    def _number(self, shard: int, key: str) -> int:
        """Return the number of the object under a key of a shard.

        Raises:
          Refused: there is none.
        """
        text = key.rpartition("/")[2].removesuffix(".log")
        number = int(text) if text.isdecimal() else -1
        is_there = 0 <= number < self.objects.shape.objects and self.objects.key(number) == key
        if not is_there or number % self.objects.shape.shards + 1 != shard:
            raise Refused("ObjectNotFoundError", f"manta::{key} does not exist")
        return number

    # --- writing -----------------------------------------------------------------------------

    def _write(self, shard: int, puts: Sequence[_Put], *, plain: bool = False) -> Iterator[str]:
        """Write all, or none, and tell the new etags.

        Raises:
          Refused: an etag does not match, or a value is not what it should be.
        """
        checked = [self._check(shard, put) for put in puts]
        for number, name, _ in checked:
            self.objects.write(number, name)
        etags = [known for _, _, known in checked]
        row = {"etag": etags[0]} if plain else {"etags": etags}
        yield json.dumps(row)

    def _check(self, shard: int, put: _Put) -> tuple[int, str, str]:
        """Return the number of a put's object, the node that it is to name, and its new etag."""
        objects = self.objects
        number = self._number(shard, put.key)
        actual = etag(objects.current(number))
        if put.options.etag != actual:
            context = {"bucket": "manta", "key": put.key, "expected": str(put.options.etag)}
            raise Refused("EtagConflictError", "another etag", actual=actual, **context)
        text = bytes(put.value).decode()
        found = _FIRST.search(text)
        index = None if found is None else objects.index_of.get(found[1])
        expected = "" if index is None else objects.record(number, objects.nodes[index])
        if index is None or (text != expected and json.loads(text) != json.loads(expected)):
            objects.offend("a record written that is not the object's")
            raise Refused("Error", "not the object's record")
        return number, objects.nodes[index].name, etag(text)


def _heartbeat(name: str) -> dict[str, Any]:
    """Return what a storage node that was stopped an hour ago has told last."""
    told = (time.time_ns() // 1_000_000) - 3_600_000
    return {"manta_storage_id": name, "datacenter": "dc1", "timestamp": told, "hostname": name}


def _taken(buffer: bytearray) -> Iterator[tuple[int, bytes]]:
    """Take the whole messages from the beginning of `buffer`: the id and payload of each."""
    begun = 0
    while len(buffer) - begun >= _HEADER.size:
        version, _, status, number, crc, length = _HEADER.unpack_from(buffer, begun)
        body = begun + _HEADER.size
        if len(buffer) - body < length:
            break
        begun = body + length
        payload = bytes(buffer[body:begun])
        is_sound = version == 2 and status == Status.DATA and number <= MAX_ID
        if not is_sound or crc16.arc(payload) != crc:
            raise SystemExit("a message that would end a real server")
        yield number, payload
    del buffer[:begun]


_moments = itertools.count(1_700_000_000_000_000)


def _message(number: int, name: str, status: Status, data: str) -> bytes:
    payload = f'{{"m":{{"uts":{next(_moments)},"name":"{name}"}},"d":{data}}}'.encode()
    header = _HEADER.pack(2, 1, status, number, crc16.arc(payload), len(payload))
    return header + payload
