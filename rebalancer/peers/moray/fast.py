"""This module has the Fast protocol, without I/O: bytes in, messages out, and back.

A message is a 15-byte header and a JSON payload `{"m":{"uts","name"},"d":...}`.  A request is
one DATA message; its answer is any number of DATA and then one END or one ERROR, all with the
request's id and in the request's version.
"""

import enum
import struct
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import attrs

from rebalancer import jsontext
from rebalancer.errors import PeerMalformed, PeerRefused
from rebalancer.peers.moray.crc import crc_v1, crc_v2

_HEADER = struct.Struct(">BBBIII")
_TYPE_JSON = 1
#: Ids above this kill the server.
MAX_ID = 2**31 - 1
#: The protocol has no limit; this one keeps a broken length from filling the memory.  A real
#: server has returned values of 64 MiB.
MAX_PAYLOAD_BYTES = 256 << 20

_CRC: Mapping[int, Callable[[bytes], int]] = {
    1: lambda payload: crc_v1(payload.decode()),
    2: crc_v2,
}


class FastError(PeerMalformed):
    """Bytes that are not Fast.  The stream cannot be used any further."""


class BadVersion(FastError):
    """A version other than 1 and 2."""


class BadType(FastError):
    """A payload type other than JSON."""


class BadStatus(FastError):
    """A status other than DATA, END and ERROR."""


class BadId(FastError):
    """A message id that no client may choose."""


class BadLength(FastError):
    """A payload longer than any we accept."""


class BadCrc(FastError):
    """The payload is not what was sent."""


class BadPayload(FastError):
    """A payload that is not JSON of the shape its status asks for."""


class Truncated(FastError):
    """The stream ended in the middle of a message."""


class Status(enum.IntEnum):
    """A status says what a message is."""

    DATA = 1
    END = 2
    ERROR = 3


_STATUSES: Mapping[int, Status] = {int(status): status for status in Status}


@attrs.frozen
class Message:
    """A message.  `data` is a list, for ERROR an object with `name` and `message`."""

    id: int
    status: Status
    method: str | None
    data: Any
    version: int = 2
    uts: int | None = None


def encode(message: Message) -> bytes:
    """Return the bytes of one message; `data` may be a `JsonText`.

    Text is sent as UTF-8 as it is, but for lone surrogates: those have no UTF-8, and a server
    that replaces them finds the checksum wrong and dies, so they travel escaped.

    Raises:
      PeerRefused: a number is infinite or none, for which JSON has no form.  Python's would
        kill the server, so nothing is sent.
    """
    meta: dict[str, Any] = {} if message.uts is None else {"uts": message.uts}
    meta["name"] = message.method
    text = f'{{"m":{jsontext.dumps(meta)},"d":{to_json(message.method, message.data)}}}'
    payload = text.encode(errors="backslashreplace")
    header = _HEADER.pack(
        message.version,
        _TYPE_JSON,
        message.status,
        message.id,
        _CRC[message.version](payload),
        len(payload),
    )
    return header + payload


def to_json(method: str | None, value: Any) -> str:
    """Return `value` as a message of `method` has it.

    Raises:
      PeerRefused: a number is infinite or none.
    """
    try:
        return jsontext.dumps(value)
    except ValueError as exc:
        raise PeerRefused(f"{method}: cannot be sent: {exc}") from exc


class Decoder:
    """Turns a stream of bytes, cut anywhere, into messages.

    Its whole state is the bytes that are not yet a message.  After a `FastError` it is of no
    further use.
    """

    def __init__(self, loads: Callable[[bytes], Any] = jsontext.loads) -> None:
        self._buffer = bytearray()
        #: Parses a payload, perhaps leaving some of it as text.
        self._loads = loads

    def feed(self, data: bytes) -> Iterator[Message]:
        """Yield the messages that `data` completes.

        Raises:
          FastError: one of its subclasses, naming what is wrong.
        """
        self._buffer += data
        begun = 0
        try:
            while len(self._buffer) - begun >= _HEADER.size:
                version, kind, status, msg_id, crc, length = _HEADER.unpack_from(
                    self._buffer, begun
                )
                _check_header(version, kind, status, msg_id, length)
                body = begun + _HEADER.size
                if len(self._buffer) - body < length:
                    return
                begun = body + length
                payload = bytes(self._buffer[body:begun])
                yield _read(version, _STATUSES[status], msg_id, crc, payload, self._loads)
        finally:
            # Once for all messages: each time the rest of the bytes moves.
            del self._buffer[:begun]

    @property
    def is_between_messages(self) -> bool:
        """Tell whether every byte fed so far belongs to a whole message."""
        return not self._buffer

    def close(self) -> None:
        """Note that the stream has ended.

        Raises:
          Truncated: part of a message was received.
        """
        if self._buffer:
            raise Truncated(f"the stream ended {len(self._buffer)} bytes into a message")


def _check_header(version: int, kind: int, status: int, msg_id: int, length: int) -> None:
    if version not in _CRC:
        raise BadVersion(
            f"what answers does not speak Moray's protocol: version {version}, expected 1 or 2"
        )
    if kind != _TYPE_JSON:
        raise BadType(f"type {kind}, expected {_TYPE_JSON}")
    if status not in _STATUSES:
        raise BadStatus(f"status {status}, expected 1, 2 or 3")
    if msg_id > MAX_ID:
        raise BadId(f"message id {msg_id}, expected at most {MAX_ID}")
    if length > MAX_PAYLOAD_BYTES:
        raise BadLength(f"payload of {length} bytes, expected at most {MAX_PAYLOAD_BYTES}")


def _read(
    version: int,
    status: Status,
    msg_id: int,
    crc: int,
    payload: bytes,
    loads: Callable[[bytes], Any],
) -> Message:
    try:
        expected = _CRC[version](payload)
    except UnicodeDecodeError as exc:
        raise BadCrc(f"message {msg_id}: payload is not UTF-8") from exc
    if crc != expected:
        raise BadCrc(f"message {msg_id}: checksum {crc:04X}, expected {expected:04X}")
    try:
        document = loads(payload)
    except (ValueError, RecursionError) as exc:
        raise BadPayload(f"message {msg_id}: {exc}") from exc
    if not (
        isinstance(document, dict)
        and isinstance(meta := document.get("m"), dict)
        and "d" in document
    ):
        raise BadPayload(f"message {msg_id}: expected an object with m and d")
    data = document["d"]
    _check_data(status, msg_id, data)
    return Message(msg_id, status, meta.get("name"), data, version, meta.get("uts"))


def _check_data(status: Status, msg_id: int, data: Any) -> None:
    if status is Status.ERROR:
        match data:
            case {"name": str(), "message": str()}:
                return
        raise BadPayload(f"message {msg_id}: expected an error with name and message")
    if not isinstance(data, list):
        raise BadPayload(f"message {msg_id}: expected a list in d")
