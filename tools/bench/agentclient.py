"""This module drives an agent as a manager does, for as little CPU as it can: they share it.

Bodies are made before the clock runs, and requests go over one plain socket.
"""

import base64
import json
import socket
import time
import uuid
from collections.abc import Sequence

import attrs
from objects import OWNER, Object

TASKS = 50  # of an assignment
#: Between two looks at an assignment that is not complete.
POLL_S = 0.02
#: Bytes that are read at a time, at most.
READ = 1 << 16


class Client:
    """A client has a connection to an agent, and asks it one thing after the other."""

    def __init__(self, address: str) -> None:
        self._host = address
        host, _, port = address.rpartition(":")
        self._socket = socket.create_connection((host, int(port)), timeout=60)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._received = b""

    def ask(self, method: str, path: str, body: bytes = b"") -> bytes:
        """Return the body of an answer, which must be of success."""
        self.send(request(method, path, self._host, body))
        return self.receive()

    def send(self, message: bytes) -> None:
        """Send a whole request."""
        self._socket.sendall(message)

    def receive(self) -> bytes:
        """Return the body of the next answer, which must be of success."""
        while (end := self._received.find(b"\r\n\r\n") + 4) == 3:
            self._more()
        head = self._received[:end].lower()
        _, found, rest = head.partition(b"content-length:")
        length = int(rest.split(b"\r\n", 1)[0]) if found else 0
        while len(self._received) < end + length:
            self._more()
        body, self._received = self._received[end : end + length], self._received[end + length :]
        assert head.startswith((b"http/1.1 200", b"http/1.1 204")), (head, body)
        return body

    def _more(self) -> None:
        data = self._socket.recv(READ)
        assert data, "the agent closed the connection"
        self._received += data

    def close(self) -> None:
        self._socket.close()


def request(method: str, path: str, host: str, body: bytes = b"") -> bytes:
    """Return the bytes of a request."""
    head = f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n"
    if body:
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"\r\n" + body


@attrs.frozen
class Assignments:
    """These are the requests for some objects, ready to be sent to an agent."""

    posts: tuple[bytes, ...]
    gets: tuple[bytes, ...]
    deletes: tuple[bytes, ...]


def assignments(objects: Sequence[Object], address: str, source: str) -> Assignments:
    """Return all requests that a manager sends to the agent at `address`.

    `source` is the storage node to pull from.
    """
    posts, gets, deletes = [], [], []
    for start in range(0, len(objects), TASKS):
        name = str(uuid.uuid4())
        tasks = [
            {
                "object_id": one.name,
                "owner": OWNER,
                "md5sum": base64.b64encode(one.md5).decode(),
                "source": {"datacenter": "dc1", "manta_storage_id": source},
                "status": "Pending",
            }
            for one in objects[start : start + TASKS]
        ]
        body = json.dumps({"id": name, "tasks": tasks}).encode()
        posts.append(request("POST", "/assignments", address, body))
        gets.append(request("GET", f"/assignments/{name}", address))
        deletes.append(request("DELETE", f"/assignments/{name}", address))
    return Assignments(tuple(posts), tuple(gets), tuple(deletes))


def work_off(client: Client, wanted: Assignments) -> None:
    """Post all assignments, then look at each in turn until it is complete."""
    for message in wanted.posts:
        client.send(message)
        client.receive()
    for message in wanted.gets:
        while True:
            client.send(message)
            state = json.loads(client.receive())["stats"]["state"]
            if isinstance(state, dict):
                assert state == {"Complete": None}, state
                break
            time.sleep(POLL_S)


def delete_all(client: Client, wanted: Assignments) -> None:
    """Delete all assignments, as a manager does once it has what they told."""
    for message in wanted.deletes:
        client.send(message)
        client.receive()
