"""The reader of answers: the same however the bytes are cut, and strict."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rebalancer.agent.http1 import MAX_HEAD_BYTES, Incomplete, ProtocolError, ResponseReader

BODY = bytes(range(256)) * 3


def head(*lines: str, status: str = "HTTP/1.1 200 OK") -> bytes:
    return "\r\n".join([status, *lines, "", ""]).encode("latin-1")


def chunked(body: bytes, sizes: list[int]) -> bytes:
    made, at = b"", 0
    for size in sizes:
        piece = body[at : at + size]
        if piece:
            made += f"{len(piece):X};ext=1\r\n".encode() + piece + b"\r\n"
        at += size
    rest = body[at:]
    made += f"{len(rest):x}\r\n".encode() + rest + b"\r\n" if rest else b""
    return made + b"0\r\nTrailer: x\r\n\r\n"


WHOLE = {
    "length": head("Content-Length: 768", "Server: nginx") + BODY,
    "interim": head(status="HTTP/1.1 103 Early Hints") + head("Content-Length: 768") + BODY,
    "chunked": head("Transfer-Encoding: chunked") + chunked(BODY, [1, 0, 300, 17]),
    "close": head("Connection: close") + BODY,
    "old": head("content-length:768", status="HTTP/1.0 200 OK") + BODY,
}


def read(pieces: list[bytes], *, ended: bool) -> tuple[bytes, ResponseReader]:
    reader = ResponseReader()
    body = b"".join(reader.feed(piece) for piece in pieces)
    if ended:
        reader.end()
    return body, reader


@pytest.mark.parametrize("name", WHOLE)
@given(cuts=st.sets(st.integers(0, 900), max_size=12))
def test_cuts_do_not_matter(name: str, cuts: set[int]) -> None:
    """Any split of the bytes gives the same body."""
    data = WHOLE[name]
    places = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
    pieces = [data[a:b] for a, b in itertools.pairwise(places)]
    body, reader = read(pieces, ended=name == "close")

    assert body == BODY
    assert reader.is_done
    assert reader.is_reusable == (name in ("length", "interim", "chunked"))


@pytest.mark.parametrize("name", WHOLE)
def test_one_byte_at_a_time(name: str) -> None:
    """The worst of all splits."""
    body, reader = read([bytes([b]) for b in WHOLE[name]], ended=name == "close")

    assert (body, reader.is_done) == (BODY, True)


@pytest.mark.parametrize("name", [name for name in WHOLE if name != "close"])
def test_an_end_at_any_byte_is_incomplete(name: str) -> None:
    """Cut short at every place: never taken for whole."""
    for cut in range(len(WHOLE[name])):
        reader = ResponseReader()
        reader.feed(WHOLE[name][:cut])
        assert not reader.is_done, cut
        with pytest.raises(Incomplete):
            reader.end()


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/2 200\r\n\r\n",
        b"ICY 200 OK\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"\r\nHTTP/1.1 200 OK\r\n\r\n",
        head("Content-Length: 5", "Content-Length: 6"),
        head("Content-Length: -5"),
        head("Content-Length: 5, 5"),
        head("Content-Length: 0x10"),
        head("Content-Length: 99999999999999999999"),
        head("Content-Length: 5", "Transfer-Encoding: chunked"),
        head("Transfer-Encoding: gzip, chunked"),
        head("Transfer-Encoding: identity"),
        head("Content-Encoding: gzip", "Content-Length: 5"),
        head("Bad Name: x"),
        head(" folded: x"),
        head("No colon"),
        head("Name : x"),
        head("Transfer-Encoding: chunked") + b"xyz\r\n",
        head("Transfer-Encoding: chunked") + b"\r\n",
        head("Transfer-Encoding: chunked") + b"3\r\nabcd\r\n",
        head("Transfer-Encoding: chunked") + b"-3\r\nabc\r\n",
        head("Transfer-Encoding: chunked") + b"1" * 2000,
        head("Content-Length: 3") + b"abcd",
        head("X: " + "y" * 40_000),
        b"H" * 40_000,
    ],
)
def test_what_leaves_room_for_doubt_is_refused(data: bytes) -> None:
    """Where a body ends must be certain: a wrong byte would be an object's."""
    with pytest.raises(ProtocolError):
        read([data], ended=False)


@given(st.binary(max_size=300), st.integers(1, 50))
def test_garbage_is_refused_or_waited_for_alike(data: bytes, size: int) -> None:
    """Whole or in pieces, any bytes have the same outcome, and no other exception."""
    outcomes = []
    for pieces in ([data], [data[i : i + size] for i in range(0, len(data), size)]):
        reader = ResponseReader()
        try:
            outcomes.append(b"".join(reader.feed(piece) for piece in pieces))
        except ProtocolError:
            outcomes.append(b"refused")
    assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
def test_answers_without_a_body_end_with_their_head(status: str) -> None:
    """Whatever their headers say."""
    body, reader = read([head("Content-Length: 5", status=f"HTTP/1.1 {status}")], ended=False)

    assert (body, reader.is_done) == (b"", True)


@pytest.mark.parametrize(
    ("status", "connection", "reusable"),
    [
        ("HTTP/1.1 200 OK", "", True),
        ("HTTP/1.1 200 OK", "close", False),
        ("HTTP/1.1 200 OK", "Close, x", False),
        ("HTTP/1.0 200 OK", "", False),
        ("HTTP/1.0 200 OK", "Keep-Alive", True),
    ],
)
def test_a_connection_is_kept_only_where_both_may(
    status: str, connection: str, reusable: bool
) -> None:
    """HTTP/1.1 by default, 1.0 on demand, never against `close`."""
    reader = ResponseReader()
    reader.feed(head("Content-Length: 0", f"Connection: {connection}", status=status))

    assert reader.is_reusable == reusable


INTERIM = head("Link: </x>", status="HTTP/1.1 103 Early Hints")
CHUNKS = head("Transfer-Encoding: chunked")


@pytest.mark.parametrize(
    ("begin", "again", "message"),
    [
        (b"", INTERIM, "interim answers"),
        (b"", head("X: " + "y" * 3000, status="HTTP/1.1 100 Continue"), "beside its body"),
        (CHUNKS + b"0\r\n", b"Trailer: value\r\n", "beside its body"),
        (CHUNKS, b"1;" + b"e" * 900 + b"\r\nx\r\n", "beside its body"),
    ],
    ids=["interim", "large interim", "trailers", "extensions"],
)
def test_what_is_no_body_has_a_bound(begin: bytes, again: bytes, message: str) -> None:
    """A source cannot hold a worker with answers that never come to their end."""
    reader, fed = ResponseReader(), 0
    reader.feed(begin)
    with pytest.raises(ProtocolError, match=message):
        while fed < 3 * MAX_HEAD_BYTES:
            reader.feed(again)
            fed += len(again)


def test_the_bound_is_of_each_answer() -> None:
    """Many good answers on one connection, each with its interim one, are no trouble."""
    reader = ResponseReader()
    reader.expect(99)
    for number in range(100):
        data = INTERIM * 3 + head("Content-Length: 1", "X: " + "y" * 900) + b"x"
        assert (reader.next() if number else b"") + reader.feed(data) == b"x"
        assert reader.is_reusable
