"""The Fast codec against vectors and messages recorded from the real server."""

import base64
import itertools
import json
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rebalancer.peers.moray import crc, crc_table, fast
from rebalancer.peers.moray.fast import Decoder, Message, Status

DATA = Path(__file__).parent.parent / "data"
VECTORS = json.loads((DATA / "crc_vectors.json").read_text())
CAPTURES = sorted((DATA / "captures").glob("*.json"))

REQUEST = Message(
    1,
    Status.DATA,
    "version",
    [{"req_id": "00000000-0000-4000-8000-000000000000"}],
    uts=1600000000000000,
)
NON_ASCII = Message(
    2,
    Status.DATA,
    "getObject",
    ["manta", "/u/stor/d\u00f6c/\u2603 \U0001f600.txt", {"noCache": True}],
    uts=1600000000000000,
)
WHOLE = [
    (
        REQUEST,
        1,
        "0101010000000100005c47000000677b226d223a7b22757473223a31363030303030303030303030303030"
        "2c226e616d65223a2276657273696f6e227d2c2264223a5b7b227265715f6964223a2230303030303030302d"
        "303030302d343030302d383030302d303030303030303030303030227d5d7d",
    ),
    (
        REQUEST,
        2,
        "020101000000010000cec8000000677b226d223a7b22757473223a31363030303030303030303030303030"
        "2c226e616d65223a2276657273696f6e227d2c2264223a5b7b227265715f6964223a2230303030303030302d"
        "303030302d343030302d383030302d303030303030303030303030227d5d7d",
    ),
    (
        NON_ASCII,
        1,
        "01010100000002000036a40000006c7b226d223a7b22757473223a31363030303030303030303030303030"
        "2c226e616d65223a226765744f626a656374227d2c2264223a5b226d616e7461222c222f752f73746f722f64"
        "c3b6632fe2988320f09f98802e747874222c7b226e6f4361636865223a747275657d5d7d",
    ),
    (
        NON_ASCII,
        2,
        "02010100000002000088e50000006c7b226d223a7b22757473223a31363030303030303030303030303030"
        "2c226e616d65223a226765744f626a656374227d2c2264223a5b226d616e7461222c222f752f73746f722f64"
        "c3b6632fe2988320f09f98802e747874222c7b226e6f4361636865223a747275657d5d7d",
    ),
]
REPLY = bytes.fromhex(
    "0201010000000100000f9a000000437b226d223a7b22757473223a313739353436383139373030303935352c22"
    "6e616d65223a2276657273696f6e227d2c2264223a5b7b2276657273696f6e223a327d5d7d"
    "020102000000010000de66000000367b226d223a7b22757473223a313739353436383139373030313331392c22"
    "6e616d65223a2276657273696f6e227d2c2264223a5b5d7d"
)


def test_all_recorded_checksums() -> None:
    """All vectors made by the original modules: both versions and the records' etag."""
    assert len(VECTORS) == 415
    for vector in VECTORS:
        assert crc.crc_v1(vector["s"]) == vector["v1"], vector
        assert crc.crc_v2(bytes.fromhex(vector["utf8"])) == vector["v2"], vector
        assert crc.record_etag(vector["s"]) == vector["etag"], vector


@given(st.binary(max_size=600))
def test_crc_v2_is_crc_16_arc(payload: bytes) -> None:
    """Both the compiled form and the table give what the textbook's loop over bits does."""
    register = 0
    for byte in payload:
        register ^= byte
        for _ in range(8):
            register = (register >> 1) ^ (0xA001 if register & 1 else 0)
    assert crc.crc_v2(payload) == crc_table.arc(payload) == register


@pytest.mark.parametrize(("message", "version", "text"), WHOLE)
def test_whole_messages_both_ways(message: Message, version: int, text: str) -> None:
    """The specification's messages, to the byte, in both versions."""
    sent = Message(message.id, message.status, message.method, message.data, version, message.uts)
    assert fast.encode(sent).hex() == text
    assert list(Decoder().feed(bytes.fromhex(text))) == [sent]


def test_a_real_reply() -> None:
    """DATA, then END, as a real server wrote them."""
    data, end = Decoder().feed(REPLY)
    assert (data.status, data.id, data.data) == (Status.DATA, 1, [{"version": 2}])
    assert (end.status, end.data) == (Status.END, [])


@pytest.mark.parametrize("path", CAPTURES, ids=lambda p: p.stem)
def test_recorded_conversations_decode(path: Path) -> None:
    """Every message of the recorded exchanges decodes to what was recorded of it."""
    capture = json.loads(path.read_text())
    messages = list(Decoder().feed(base64.b64decode(capture["response_b64"])))
    expected = capture["response_messages"]
    assert [m.status.name for m in messages] == [m["status"] for m in expected]
    assert [m.data for m in messages] == [m["payload"]["d"] for m in expected]


STREAM = b"".join(bytes.fromhex(text) for _, _, text in WHOLE) + REPLY


@given(st.lists(st.integers(0, len(STREAM)), max_size=30))
def test_random_splits_decode_the_same(cuts: list[int]) -> None:
    """However the stream is cut, the same messages come out."""
    edges = [0, *sorted(cuts), len(STREAM)]
    decoder = Decoder()
    found = [
        message
        for start, end in itertools.pairwise(edges)
        for message in decoder.feed(STREAM[start:end])
    ]
    assert found == list(Decoder().feed(STREAM))
    assert decoder.is_between_messages


def test_byte_by_byte() -> None:
    """The slowest stream of all."""
    decoder = Decoder()
    found = [message for byte in STREAM for message in decoder.feed(bytes([byte]))]
    assert found == list(Decoder().feed(STREAM))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@given(st.integers(0, fast.MAX_ID), st.sampled_from([1, 2]), st.text(), st.lists(JSON, max_size=3))
def test_what_is_encoded_is_decoded(
    msg_id: int, version: int, method: str, data: list[object]
) -> None:
    """Any message survives the way there, in both versions."""
    message = Message(msg_id, Status.DATA, method, data, version, 1)
    assert list(Decoder().feed(fast.encode(message))) == [message]


@pytest.mark.parametrize("version", [1, 2])
def test_lone_surrogates_travel_escaped(version: int) -> None:
    """They have no UTF-8; a server that replaced them would find the checksum wrong and die."""
    message = Message(1, Status.DATA, "x", ["\ud83d"], version)
    data = fast.encode(message)
    data[15:].decode()
    (back,) = Decoder().feed(data)
    assert back.data == ["\ud83d"]


def frame(version: int, kind: int, status: int, msg_id: int, payload: bytes) -> bytes:
    header = struct.pack(
        ">BBBIII", version, kind, status, msg_id, crc.crc_v2(payload), len(payload)
    )
    return header + payload


GOOD = b'{"m":{"name":"x"},"d":[]}'


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (frame(3, 1, 1, 1, GOOD), fast.BadVersion),
        (frame(2, 2, 1, 1, GOOD), fast.BadType),
        (frame(2, 1, 4, 1, GOOD), fast.BadStatus),
        (frame(2, 1, 0, 1, GOOD), fast.BadStatus),
        (frame(2, 1, 1, 2**31, GOOD), fast.BadId),
        (struct.pack(">BBBIII", 2, 1, 1, 1, 0, 2**32 - 1), fast.BadLength),
        (frame(2, 1, 1, 1, GOOD)[:-1] + b"x", fast.BadCrc),
        (frame(1, 1, 1, 1, GOOD), fast.BadCrc),
        (frame(1, 1, 1, 1, b"\xff\xfe"), fast.BadCrc),
        (frame(2, 1, 1, 1, b"nonsense"), fast.BadPayload),
        (frame(2, 1, 1, 1, b"null"), fast.BadPayload),
        (frame(2, 1, 1, 1, b"[]"), fast.BadPayload),
        (frame(2, 1, 1, 1, b'{"m":5,"d":[]}'), fast.BadPayload),
        (frame(2, 1, 1, 1, b'{"m":{}}'), fast.BadPayload),
        (frame(2, 1, 1, 1, b'{"m":{},"d":{}}'), fast.BadPayload),
        (frame(2, 1, 3, 1, b'{"m":{},"d":[]}'), fast.BadPayload),
        (frame(2, 1, 3, 1, b'{"m":{},"d":{"name":1}}'), fast.BadPayload),
    ],
)
def test_each_fault_has_its_name(data: bytes, error: type[Exception]) -> None:
    """Bytes that are not Fast are a named error at once, never a wait for more."""
    with pytest.raises(error):
        list(Decoder().feed(data))


def test_a_stream_that_ends_within_a_message_is_told() -> None:
    """The end of the stream is not the end of a message."""
    decoder = Decoder()
    list(decoder.feed(REPLY[:-1]))
    with pytest.raises(fast.Truncated):
        decoder.close()
    Decoder().close()


@given(st.binary(max_size=200))
def test_noise_is_an_error_or_a_wait(noise: bytes) -> None:
    """No bytes make the decoder raise anything but its own errors."""
    try:
        list(Decoder().feed(noise))
    except fast.FastError as exc:
        assert str(exc)
