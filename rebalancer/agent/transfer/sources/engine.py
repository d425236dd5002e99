"""This module says what an engine, which asks sources for objects, is given and what it returns.

Two engines pass the same tests: `curl`, on libcurl, and `plain`, on h11, for where libcurl is not
to be had.  This module decides what both believe of an answer.
"""

from collections.abc import Sequence
from typing import Protocol

import attrs

from rebalancer import __version__
from rebalancer.domain import reasons
from rebalancer.domain.reasons import Reason
from rebalancer.peers.names import Endpoint

#: An answer of at most so many bytes of body is returned whole.
WHOLE_BYTES = 256 << 10
#: Bytes of a larger object that are received before the earlier ones were taken.
AHEAD_BYTES = 1 << 20
#: Bytes of an unwanted body, perhaps of a 404, that are read to keep a connection.
UNWANTED_BYTES = 64 << 10
#: The heads of an answer and its trailers may have so many bytes together.
MAX_HEAD_BYTES = 32 << 10
#: Interim answers that may come before the real one.
MAX_INTERIM = 16
#: A connection that nobody used for so many seconds is not used again; most sources close it
#: after 60.  An address is looked up again after so many.
AGE_S, ADDRESS_S = 45, 30
USER_AGENT = f"rebalancer-agent/{__version__}"
_BLANK = (b"\r\n", b"\n")


class PullFailure(Exception):
    """An object could not be pulled; with `is_transient` another try may help.

    With `is_short` this process lacks files or memory: it is tried until it has them.
    """

    def __init__(
        self, reason: Reason, detail: str, *, is_transient: bool = False, is_short: bool = False
    ) -> None:
        super().__init__(detail)
        self.reason = reason
        self.is_transient = is_transient
        self.is_short = is_short


def unreachable(detail: str, *, is_transient: bool = True, is_short: bool = False) -> PullFailure:
    """Return the failure of a request whose source cannot be connected to."""
    reason = reasons.SOURCE_OTHER_ERROR
    return PullFailure(reason, detail, is_transient=is_transient, is_short=is_short)


def broken(detail: str) -> PullFailure:
    """Return the failure of a request whose answer is cut, late, or not what HTTP allows."""
    return PullFailure(reasons.NETWORK_ERROR, detail)


@attrs.frozen
class Source:
    """A source is a storage node: its name, which is sent as `Host`, and where to connect to."""

    name: str
    at: Endpoint
    #: The part of the URL before the path of an object.
    url: str = attrs.field(init=False)

    @url.default
    def _url(self) -> str:
        return f"http://{self.at}"

    def __str__(self) -> str:
        return f"{self.name} at {self.at}"


class Answer(Protocol):
    """An answer is what a source sends for a request; a small one is whole from the beginning."""

    @property
    def status(self) -> int:
        """Return the status of the answer, as 200."""

    @property
    def length(self) -> int | None:
        """Return the length of the body that the source announced; None if it did not."""

    @property
    def is_whole(self) -> bool:
        """Return whether nothing more is to come."""

    @property
    def is_small(self) -> bool:
        """Return whether the answer was whole before more than `WHOLE_BYTES` had come."""

    async def take(self) -> list[bytes]:
        """Wait for about `AHEAD_BYTES` of body; all that is left if `is_whole` is then true.

        Raises:
          PullFailure: the rest does not come.
        """

    def close(self) -> None:
        """End the transfer, wherever it is; may be called again."""


class Engine(Protocol):
    """An engine asks sources for objects, many at a time."""

    @property
    def name(self) -> str:
        """Return the name of this engine, as the configuration has it."""

    async def run(self) -> None:
        """Drive the transfers for ever."""

    async def get(self, source: Source, path: str) -> Answer:
        """Ask `source` for `path`; return once the answer is whole, or is a large one's beginning.

        Of an answer with another status than 200 there is no body.

        Raises:
          PullFailure: there is no answer that could be believed.
        """

    def rest(self) -> None:
        """Close the connections that nobody uses."""


def read_status(head: Sequence[bytes]) -> int:
    """Return the status of the first head that is no interim one; 0 if there is none."""
    for line in head:
        if line.startswith(b"HTTP/") and line[9:10] != b"1":
            return int(line[9:12]) if line[9:12].isdigit() else 0
    return 0


def read_head(head: Sequence[bytes]) -> int | None:
    """Check the lines of an answer's heads, interim ones among them, and of its trailers.

    Returns the length of the body that the source tells, None if it does not.

    Raises:
      PullFailure: there are too many bytes or interim answers, the head is cut, or it leaves
        room for doubt where the body ends, or how that is encoded.
    """
    if (length := _plain_length(b"".join(head).lower())) is not None:
        return length
    size, heads, is_open = 0, 0, False
    lengths, codings = set[bytes](), list[bytes]()
    for line in head:
        size += len(line)
        if line.startswith(b"HTTP/"):
            heads, is_open = heads + 1, True
            lengths.clear()
            codings.clear()
        elif line in _BLANK:
            is_open = False  # what comes behind it is another head, or trailers
        elif is_open:
            _read_field(line, lengths, codings)
    if is_open or not heads:
        raise broken("the connection ended within the head of the answer")
    if size > MAX_HEAD_BYTES:
        raise broken(f"more than {MAX_HEAD_BYTES} bytes of an answer beside its body")
    if heads - 1 > MAX_INTERIM:
        raise broken(f"more than {MAX_INTERIM} interim answers")
    if codings:
        if codings != [b"chunked"] or lengths:
            raise broken("a transfer-encoding other than chunked alone")
        return None
    return _length(lengths)


def _plain_length(head: bytes) -> int | None:
    """Return the length that an answer of the common kind tells; None if it is another kind.

    That is one head of moderate size with one length and no encoding, all in lower case.  Nearly
    all are, and to take each apart line by line costs as much as to parse it did.
    """
    is_plain = (
        len(head) <= MAX_HEAD_BYTES
        and head.startswith(b"http/")
        and head.find(b"\r\n\r\n") == len(head) - 4
        and head.count(b"\nhttp/") == 0
        and head.count(b"\ncontent-length:") == 1
        and b"encoding:" not in head
    )
    if not is_plain:
        return None
    text = head.partition(b"\ncontent-length:")[2].partition(b"\r\n")[0].strip()
    return _number(text)


def _length(lengths: set[bytes]) -> int | None:
    if not lengths:
        return None
    if len(lengths) > 1 or (length := _number(next(iter(lengths)))) is None:
        raise broken("no single content-length")
    return length


def _number(text: bytes) -> int | None:
    return int(text) if text.isdigit() and len(text) <= 18 else None


def _read_field(line: bytes, lengths: set[bytes], codings: list[bytes]) -> None:
    name, _, value = line.partition(b":")
    match name.lower():
        case b"content-length":
            lengths.add(value.strip())
        case b"transfer-encoding":
            codings.append(value.strip().lower())
        case b"content-encoding" if value.strip().lower() != b"identity":
            raise broken(f"content-encoding {value.strip().decode('latin-1')}")
