"""HTTP/1.1 answers to GETs, without I/O: bytes in, body bytes out, strictly.

Thin on purpose: parsing is what pulling small objects costs most.  It knows whole bodies by
Content-Length, chunked ones and ones that end with the connection, and refuses all else.
Several requests may have been sent ahead; their answers come one behind the other.
"""

import enum
import re

import attrs

#: The status line and headers together may have so many bytes, and all of an answer that is not
#: body: interim answers before it, what stands beside the sizes of chunks, and trailers.
MAX_HEAD_BYTES = 32 << 10
#: So many interim answers may come before the real one.
MAX_INTERIM = 16
_MAX_CHUNK_LINE = 1 << 10

_HEAD = re.compile(
    rb"HTTP/1\.([01]) ([1-5]\d\d)(?: [^\r\n]*)?"
    rb"(?:\r\n[!#$%&'*+.^_`|~0-9A-Za-z-]+:[^\r\n]*)*"
)
#: The fields that tell where the body ends, or that it is not what was asked for.
_FRAMING = re.compile(
    rb"\r\n(content-length|transfer-encoding|connection|content-encoding):"
    rb"[ \t]*([^\r\n]*?)[ \t]*(?=\r\n|\Z)",
    re.IGNORECASE,
)
_CHUNK_SIZE = re.compile(rb"([0-9a-fA-F]{1,15})(?:[ \t]*;[^\r\n]*)?")


class ProtocolError(ValueError):
    """The source does not speak HTTP as it should."""


class Incomplete(ProtocolError):
    """The connection ended before the answer did."""


class _State(enum.Enum):
    HEAD = enum.auto()
    LENGTH = enum.auto()  # so many bytes of body, or of a chunk, are to come
    CHUNK_SIZE = enum.auto()
    CHUNK_END = enum.auto()
    TRAILERS = enum.auto()
    UNTIL_CLOSE = enum.auto()
    DONE = enum.auto()


@attrs.frozen
class Head:
    """What the answer says of itself; `length` is None if it does not say."""

    status: int
    length: int | None
    keep_alive: bool
    chunked: bool


class ResponseReader:
    """The answers of one connection, in turn.

    Mutable state: where in the present answer it is, how many more were asked for, bytes that
    were fed but not read yet, the bytes of body or chunk still to come, how many bytes were no
    body, and how many interim answers came.
    """

    def __init__(self) -> None:
        self.head: Head | None = None
        self._state = _State.HEAD
        self._asked = 0
        self._buffer = bytearray()
        self._left = 0
        self._beside = 0
        self._interim = 0

    def expect(self, answers: int) -> None:
        """So many requests more were sent, beyond the one for the present answer."""
        self._asked += answers

    def next(self) -> bytes:
        """Go on to the next answer; bytes of its body that were fed already.

        Raises:
          ProtocolError: they are no answer.
        """
        self.head, self._state, self._left = None, _State.HEAD, 0
        self._beside = self._interim = 0
        self._asked -= 1
        return self._read()

    @property
    def is_done(self) -> bool:
        """Whether the whole answer was fed."""
        return self._state is _State.DONE

    @property
    def has_begun(self) -> bool:
        """Whether any byte was fed."""
        return self.head is not None or bool(self._buffer)

    @property
    def is_reusable(self) -> bool:
        """Whether the connection may carry more answers."""
        return self.is_done and self.head is not None and self.head.keep_alive

    @property
    def plain_bytes(self) -> int:
        """How many bytes to come next are nothing but body; who receives them calls `took`."""
        plain = self._state is _State.LENGTH and self.head is not None and not self.head.chunked
        return self._left if plain and not self._buffer else 0

    def took(self, size: int) -> None:
        """`size` of the `plain_bytes` were received without being fed."""
        self._left -= size
        if not self._left:
            self._state = _State.DONE

    def feed(self, data: bytes) -> bytes:
        """Take bytes from the source; return those of the body among them.

        Raises:
          ProtocolError: it is no answer, or something follows that was not asked for.
        """
        if self._state is _State.LENGTH and not self._buffer and len(data) < self._left:
            self._left -= len(data)  # within a large body, the common case
            return data
        self._buffer += data
        return self._read()

    def _read(self) -> bytes:
        body = []
        while (piece := self._step()) is not None:
            body.append(piece)
        return b"".join(body)

    def end(self) -> None:
        """The source has closed the connection.

        Raises:
          Incomplete: there should have been more.
        """
        if self._state is _State.UNTIL_CLOSE:
            self._state = _State.DONE
        elif self._state is not _State.DONE:
            raise Incomplete("the connection ended within the answer")

    def _step(self) -> bytes | None:
        """Consume what can be; None if more bytes are needed first."""
        match self._state:
            case _State.HEAD:
                return self._read_head()
            case _State.LENGTH:
                return self._read_length()
            case _State.CHUNK_SIZE:
                return self._read_chunk_size()
            case _State.CHUNK_END:
                return self._read_chunk_end()
            case _State.TRAILERS:
                return self._read_trailer()
            case _State.UNTIL_CLOSE:
                return self._take(len(self._buffer)) if self._buffer else None
            case _State.DONE:
                if self._buffer and not self._asked:
                    raise ProtocolError("bytes behind the end of the answer")
                return None

    def _take(self, count: int) -> bytes:
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        return taken

    def _line(self, limit: int) -> bytes | None:
        end = self._buffer.find(b"\r\n")
        if end < 0:
            if len(self._buffer) > limit:
                raise ProtocolError(f"a line longer than {limit} bytes")
            return None
        return self._take(end + 2)[:-2]

    def _count_beside(self, size: int) -> None:
        self._beside += size
        if self._beside > MAX_HEAD_BYTES:
            raise ProtocolError(f"more than {MAX_HEAD_BYTES} bytes of an answer beside its body")

    def _read_head(self) -> bytes | None:
        end = self._buffer.find(b"\r\n\r\n")
        if max(end, len(self._buffer) if end < 0 else 0) > MAX_HEAD_BYTES:
            raise ProtocolError(f"a head longer than {MAX_HEAD_BYTES} bytes")
        if end < 0:
            return None
        self.head = head = parse_head(self._take(end + 4)[:-4])
        self._count_beside(end)
        if head.status < 200:
            self.head = None  # an interim answer: the real one follows
            self._interim += 1
            if self._interim > MAX_INTERIM:
                raise ProtocolError(f"more than {MAX_INTERIM} interim answers")
        elif head.status in (204, 304):
            self._state = _State.DONE
        elif head.chunked:
            self._state = _State.CHUNK_SIZE
        elif head.length is not None:
            self._left = head.length
            self._state = _State.LENGTH if head.length else _State.DONE
        else:
            self._state = _State.UNTIL_CLOSE
        return b""

    def _read_length(self) -> bytes | None:
        if not self._buffer:
            return None
        taken = self._take(min(self._left, len(self._buffer)))
        self._left -= len(taken)
        if not self._left:
            chunked = self.head is not None and self.head.chunked
            self._state = _State.CHUNK_END if chunked else _State.DONE
        return taken

    def _read_chunk_size(self) -> bytes | None:
        if (line := self._line(_MAX_CHUNK_LINE)) is None:
            return None
        if (match := _CHUNK_SIZE.fullmatch(line)) is None:
            raise ProtocolError("a chunk without a size")
        self._count_beside(len(line) - len(match[1]))
        self._left = int(match[1], 16)
        self._state = _State.LENGTH if self._left else _State.TRAILERS
        return b""

    def _read_chunk_end(self) -> bytes | None:
        if len(self._buffer) < 2:
            return None
        if self._take(2) != b"\r\n":
            raise ProtocolError("a chunk that does not end where it should")
        self._state = _State.CHUNK_SIZE
        return b""

    def _read_trailer(self) -> bytes | None:
        if (line := self._line(MAX_HEAD_BYTES)) is None:
            return None
        self._count_beside(len(line))
        if not line:
            self._state = _State.DONE
        return b""


def parse_head(head: bytes) -> Head:
    """Read a status line and headers, without the blank line.

    Raises:
      ProtocolError: anything that leaves room for doubt where the body ends.
    """
    if (match := _HEAD.fullmatch(head)) is None:
        raise ProtocolError(f"no head of an answer: {head[:80]!r}")
    lengths, codings, connection, encoding = set[bytes](), list[bytes](), b"", b"identity"
    for name, value in _FRAMING.findall(head):
        match name.lower():
            case b"content-length":
                lengths.add(value)
            case b"transfer-encoding":
                codings.append(value.lower())
            case b"connection":
                connection += value.lower() + b","
            case b"content-encoding":
                encoding = value.lower()
    chunked = _is_chunked(codings, lengths)
    if encoding != b"identity":
        raise ProtocolError(f"content-encoding {encoding.decode('latin-1')}")
    length = None if chunked else _length(lengths)
    by_default = match[1] == b"1" and b"close" not in connection
    keep_alive = by_default or b"keep-alive" in connection
    return Head(int(match[2]), length, keep_alive and (chunked or length is not None), chunked)


def _is_chunked(codings: list[bytes], lengths: set[bytes]) -> bool:
    if not codings:
        return False
    if codings != [b"chunked"] or lengths:
        raise ProtocolError("a transfer-encoding other than chunked alone")
    return True


def _length(lengths: set[bytes]) -> int | None:
    if not lengths:
        return None
    if len(lengths) > 1 or not (text := next(iter(lengths))).isdigit() or len(text) > 18:
        raise ProtocolError("no single content-length")
    return int(text)
