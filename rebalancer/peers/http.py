"""HTTP to other services of the control plane.  The only module that knows httpx."""

import json
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from copy import copy
from typing import Any

import attrs
import httpcore
import httpx
import trio

from rebalancer import jsontext
from rebalancer.errors import ConfigError, PeerMalformed, PeerUnreachable
from rebalancer.peers.names import locate

#: A connection must be made within this many seconds.
CONNECT_S = 5.0
#: No answer of the control plane is larger: 500 storage nodes are about 400 KB.
MAX_BODY_BYTES = 64 << 20


@attrs.frozen
class Reply:
    """An answer, whole."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        """The body as text, for messages."""
        return self.body.decode(errors="replace").strip()

    def json(self) -> Any:
        """The parsed body.

        Raises:
          PeerMalformed: it is not JSON.
        """
        try:
            return jsontext.loads(self.body)
        except (ValueError, RecursionError) as exc:
            raise PeerMalformed(f"answer is not JSON: {exc}") from exc

    def retry_after_s(self, default: float) -> float:
        """The peer's Retry-After in seconds, at most a minute."""
        text = self.headers.get("retry-after", "")
        # Other scripts have digits too, and a date is as good as nothing.
        return min(float(text), 60.0) if text.isascii() and text.isdigit() else default


@attrs.frozen
class Answer:
    """An answer whose body is still on its way."""

    status: int
    headers: Mapping[str, str]
    _response: httpx.Response
    _host: str

    def pieces(self) -> AsyncIterator[bytes]:
        """The body, piece by piece, as it arrives; once only."""
        return self._response.aiter_bytes()

    async def whole(self) -> Reply:
        """All of it.

        Raises:
          PeerMalformed: it is longer than `MAX_BODY_BYTES`.
        """
        return Reply(self.status, self.headers, await _read(self._response, self._host))


class HttpClient:
    """Requests to named hosts.  Made by `open_http`.

    httpx's transport does all that is needed: its client, which looks after cookies, redirects
    and credentials that are not there, would take a quarter of the time of a request.
    """

    def __init__(
        self,
        transport: httpx.AsyncHTTPTransport,
        hosts: Mapping[str, str],
        timeout: httpx.Timeout,
        scheme: str,
    ) -> None:
        self._transport = transport
        self._hosts = hosts
        self._timeout = timeout.as_dict()
        self._scheme = scheme

    def over(self, scheme: str) -> "HttpClient":
        """Return a client of the same connections for peers that speak `http` or `https`."""
        other = copy(self)
        other._scheme = scheme
        return other

    async def request(
        self,
        method: str,
        host: str,
        path: str,
        *,
        port: int = 80,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        within_s: float = 30.0,
    ) -> Reply:
        """One request and its whole answer, within `within_s` seconds in all.

        httpx bounds single reads only, so a trickling peer needs this outer bound.

        Raises:
          PeerUnreachable: no answer came; whether the request had its effect is unknown.
          PeerMalformed: the answer is no HTTP or too long.
        """
        try:
            with trio.fail_after(within_s):
                async with self.stream(
                    method, host, path, port=port, body=body, headers=headers
                ) as answer:
                    return await answer.whole()
        except trio.TooSlowError as exc:
            raise PeerUnreachable(f"{method} {host}{path}: no answer in {within_s} s") from exc

    @asynccontextmanager
    async def stream(
        self,
        method: str,
        host: str,
        path: str,
        *,
        port: int = 80,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> AsyncIterator[Answer]:
        """One request and its answer as it arrives; only the wait for each piece is bounded.

        Raises:
          PeerUnreachable: no answer came, or it broke off, also while it is read.
        """
        try:
            response = await self._begin(method, host, path, port, body, headers)
            async with aclosing(response):
                yield Answer(response.status_code, response.headers, response, host)
        except (httpx.RemoteProtocolError, httpx.DecodingError, httpx.InvalidURL) as exc:
            raise PeerUnreachable(f"{method} {host}{path}: {exc}") from exc
        except httpx.TransportError as exc:
            failure = PeerUnreachable(f"{method} {host}{path}: {_detail(exc)}")
            failure.was_sent = not isinstance(exc, httpx.ConnectError | httpx.ConnectTimeout)
            raise failure from exc

    async def _begin(
        self,
        method: str,
        host: str,
        path: str,
        port: int,
        body: Any,
        headers: Mapping[str, str] | None,
    ) -> httpx.Response:
        try:
            where = locate(host, self._hosts, port)
            return await self._transport.handle_async_request(
                httpx.Request(
                    method,
                    f"{self._scheme}://{where}{path}",
                    content=None if body is None else json.dumps(body).encode(),
                    headers={
                        "host": host,
                        # What is unpacked has no bound.
                        "accept-encoding": "identity",
                        **({} if body is None else {"content-type": "application/json"}),
                        **(headers or {}),
                    },
                    # A certificate is for the name, also where `hosts` says which address that is.
                    extensions={"sni_hostname": host, "timeout": self._timeout},
                )
            )
        except ValueError as exc:  # a name, or its port, for which nobody can be asked
            raise PeerUnreachable(f"{method} {host}{path}: cannot be looked up: {exc}") from exc


def _detail(exc: BaseException) -> str:
    """What an error says, or else what caused it: TLS tells of certificates only there."""
    cause: BaseException | None = exc
    while cause is not None:
        if text := str(cause):
            return text
        cause = cause.__cause__ or cause.__context__
    return type(exc).__name__


async def _read(response: httpx.Response, host: str) -> bytes:
    body = bytearray()
    async for chunk in response.aiter_bytes():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise PeerMalformed(f"{host}: answer is longer than {MAX_BODY_BYTES} bytes")
    return bytes(body)


def trusting(ca_file: str) -> ssl.SSLContext:
    """Accept certificates of the authorities in `ca_file`, or, if that is empty, the system's.

    Raises:
      ConfigError: it cannot be read, or has none.
    """
    try:
        return ssl.create_default_context(cafile=ca_file or None)
    except OSError as exc:  # ssl's own errors among them
        raise ConfigError(f"{ca_file}: {exc.strerror or exc}") from exc


class _WholeWrites(httpcore.AsyncNetworkStream):
    """A connection on which a request leaves in one write, its head and body together.

    httpcore sends them one after the other, and the deployed manager, which reads a head and then
    looks once for a body, waits for ever for one that is not there yet.
    """

    def __init__(self, stream: httpcore.AsyncNetworkStream) -> None:
        self._stream = stream
        self._held = bytearray()

    async def write(self, buffer: bytes, *args: Any, **options: Any) -> None:
        """Hold what is to be sent; nothing to send is the end of a request."""
        self._held += buffer
        if not buffer:
            await self._flush(*args, **options)

    async def _flush(self, *args: Any, **options: Any) -> None:
        if self._held:
            held, self._held = bytes(self._held), bytearray()
            await self._stream.write(held, *args, **options)

    async def read(self, max_bytes: int, *args: Any, **options: Any) -> bytes:
        """Read, behind all that was written."""
        await self._flush(*args, **options)
        return await self._stream.read(max_bytes, *args, **options)

    async def aclose(self) -> None:
        """Close the connection."""
        await self._stream.aclose()

    async def start_tls(self, *args: Any, **options: Any) -> httpcore.AsyncNetworkStream:
        """Begin TLS; returns a connection that writes requests whole, too."""
        return _WholeWrites(await self._stream.start_tls(*args, **options))

    def get_extra_info(self, info: str) -> Any:
        """Return what is known of the connection."""
        return self._stream.get_extra_info(info)


class _WholeWriting(httpcore.AsyncNetworkBackend):
    """Makes connections that are `_WholeWrites`."""

    def __init__(self, backend: httpcore.AsyncNetworkBackend) -> None:
        self._backend = backend

    async def connect_tcp(self, *args: Any, **options: Any) -> httpcore.AsyncNetworkStream:
        """Open a connection."""
        return _WholeWrites(await self._backend.connect_tcp(*args, **options))

    async def sleep(self, seconds: float) -> None:
        """Sleep as the backend does."""
        await self._backend.sleep(seconds)


@asynccontextmanager
async def open_http(
    hosts: Mapping[str, str],
    *,
    read_s: float = 30.0,
    connections: int = 100,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[HttpClient]:
    """Open a client without proxies from the environment, redirects or unbounded waits.

    With `tls` every peer must speak TLS, and show a certificate that it accepts.

    Raises:
      ConfigError: it cannot be made on this machine; there is none without its deadlines instead.
    """
    limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
    try:
        made = httpx.AsyncHTTPTransport(
            # httpx would read all authorities of the world here: 0.3 s, for plain HTTP.
            verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if tls is None else tls,
            trust_env=False,
            limits=limits,
        )
    except (OSError, ValueError) as exc:
        raise ConfigError(f"no HTTP client can be made here: {exc}") from exc
    # httpx hands no backend on to its pool.
    made._pool._network_backend = _WholeWriting(made._pool._network_backend)
    timeout = httpx.Timeout(read_s, connect=CONNECT_S)
    async with made as transport:
        yield HttpClient(transport, hosts, timeout, "http" if tls is None else "https")
