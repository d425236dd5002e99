"""The manager's API, as the operator's command asks it."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Generic, TypeVar
from urllib.parse import quote, urlencode

import attrs
import trio

from rebalancer.api.jobs import JobListed, JobShown, Summary
from rebalancer.api.objects import Objects
from rebalancer.config import read_token, trust_authorities
from rebalancer.converter import structure
from rebalancer.domain.objects import is_loose_uuid
from rebalancer.errors import BadRequest, PeerError, PeerUnreachable, RebalancerError
from rebalancer.peers.http import HttpClient, Reply, open_http
from rebalancer.peers.names import Endpoint, split_port

#: A manager answers within this many seconds, unless told: to pause a job takes it up to twenty.
ANSWER_S = 60.0
#: A dry run looks at every object of a node.
PLAN_S = 24 * 3600.0
#: Fewer characters of an id are too easily those of another job.
MIN_PREFIX = 4
#: Objects asked for at a time.
PAGE = 1000
#: What is said of a change that was asked for, and of which no answer came.
OPEN_END = "whether it was done is not known; job list shows the jobs"

T = TypeVar("T")


class AdmError(RebalancerError):
    """The manager refused, or is not there; `status` is that of its answer, if it gave one.

    Or an answer is not what the operator wishes, which `exit_code` tells then.
    """

    def __init__(self, text: str, status: int | None = None, exit_code: int = 1) -> None:
        super().__init__(text)
        self.status = status
        self.exit_code = exit_code


def read_url(url: str) -> tuple[str, Endpoint]:
    """Split a URL into scheme and place of a manager; `http` where no scheme is named.

    Raises:
      ValueError: it is no such URL, and why.
    """
    scheme, _, rest = url.rpartition("://")
    ports = {"": 80, "http": 80, "https": 443}
    if scheme not in ports:
        raise ValueError(f"{url}: expected http:// or https://")
    rest = rest.rstrip("/")
    if not rest or "/" in rest or "@" in rest:
        raise ValueError(f"{url}: expected a host, perhaps with a port, and nothing else")
    return scheme or "http", split_port(rest, ports[scheme])


@attrs.frozen
class Body(Generic[T]):
    """The body of an answer: `json` as the manager wrote it, for scripts, to be read as `kind`."""

    json: Any
    kind: type[T]

    def read(self) -> T:
        """Return the body as an object of its class; what only a newer manager has is left out.

        Raises:
          AdmError: it is no such body.
        """
        try:
            return structure(self.json, self.kind)
        except BadRequest as exc:
            raise AdmError(f"the manager's answer cannot be read: {exc}") from exc


@attrs.frozen
class Access:
    """An access says where a manager is, and by which token and authorities it is asked."""

    url: str
    #: File of the token that it asks for; empty: none.
    token_file: str = ""
    #: File of the authorities whose certificates it may show; empty: those of the system.
    ca_file: str = ""
    #: How commands for this manager begin: with the options of access that were typed.
    command: str = "rebalancer adm"


@attrs.frozen
class Manager:
    """The manager's API.  Made by `open_manager`.

    Mutable state: the paths of changes that were asked for, and of which no answer has come.
    """

    http: HttpClient
    where: Endpoint
    token: str | None = None
    without_answer: set[str] = attrs.field(factory=set)

    @property
    def _headers(self) -> dict[str, str]:
        return {} if self.token is None else {"authorization": f"Bearer {self.token}"}

    async def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        within_s: float = ANSWER_S,
        is_change: bool = True,
    ) -> Reply:
        """Send one request, which may change something unless its method or body says otherwise.

        Raises:
          AdmError: no answer, or an error; the text is the manager's.
        """
        is_dry = isinstance(body, Mapping) and body.get("dry_run")
        is_change = is_change and method != "GET" and not is_dry
        if is_change:
            self.without_answer.add(path)
        try:
            reply = await self.http.request(
                method,
                self.where.host,
                path,
                port=self.where.port,
                body=body,
                headers=self._headers,
                within_s=within_s,
            )
        except PeerError as exc:
            self.without_answer.discard(path)  # the error says it
            raise _no_answer(exc, is_change) from exc
        self.without_answer.discard(path)
        _check(reply, self.token)
        return reply

    async def find(self, text: str) -> str:
        """Return the id of the one job whose id is `text`, or begins with it.

        Raises:
          AdmError: there is no such job, or more than one.
        """
        # A whole id needs no list, and the manager knows best what to say of one that is unknown.
        if is_loose_uuid(text):
            return text
        if len(text) < MIN_PREFIX:
            raise AdmError(
                f"{text!r}: expected a job's id, or at least its first {MIN_PREFIX} characters"
            )
        found = [row for row in await self.jobs() if row.id.startswith(text.lower())]
        if not found:
            raise AdmError(f"no job's id begins with {text!r}")
        if len(found) > 1:
            listed = ", ".join(f"{row.id} ({row.state})" for row in found)
            raise AdmError(f"{text!r} may be any of {listed}")
        return found[0].id

    async def jobs(self) -> list[JobListed]:
        """GET /jobs.

        Raises:
          AdmError: no answer.
        """
        return Body((await self.ask("GET", "/jobs")).json(), list[JobListed]).read()

    async def job(self, job_id: str) -> Body[JobShown]:
        """GET /jobs/{id}.

        Raises:
          AdmError: no answer, or there is no such job.
        """
        return Body((await self.ask("GET", f"/jobs/{job_id}")).json(), JobShown)

    async def summary(self, job_id: str) -> Body[Summary] | None:
        """GET /jobs/{id}/summary; None from a manager that has no such thing.

        Raises:
          AdmError: no answer, or there is no such job.
        """
        try:
            return Body((await self.ask("GET", f"/jobs/{job_id}/summary")).json(), Summary)
        except AdmError as exc:
            if exc.status in (404, 405):
                return None
            raise

    async def change(self, job_id: str, action: str, *params: Any) -> None:
        """PUT /jobs/{id}; the action may have one parameter.

        Raises:
          AdmError: no answer, or the job is in no state for this.
        """
        body = {"action": action, **({"params": params[0]} if params else {})}
        await self.ask("PUT", f"/jobs/{job_id}", body)

    async def objects(
        self,
        job_id: str,
        *,
        status: str | None,
        reason: str | None,
        after: int | None = 0,
        limit: int | None,
    ) -> AsyncIterator[Body[Objects]]:
        """Yield pages of a job's objects, some of them perhaps empty: `limit` objects, or all.

        They begin behind the row `after`.

        Raises:
          AdmError: no answer, or there is no such job.
        """
        while after is not None and limit != 0:
            size = PAGE if limit is None else min(PAGE, limit)
            wanted = {"status": status, "reason": reason, "after": after, "limit": size}
            query = urlencode({name: value for name, value in wanted.items() if value is not None})
            reply = await self.ask("GET", f"/jobs/{job_id}/objects?{query}")
            page = Body(reply.json(), Objects)
            known = page.read()
            after = known.after
            if limit is not None:
                limit -= len(known.objects)
            yield page

    def report(self, job_id: str) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """GET /jobs/{id}/report, as `_stream` does."""
        return self._stream(f"/jobs/{job_id}/report")

    def check_node(
        self, shark: str, first: int | None
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """GET /nodes/{shark}/check, as `_stream` does."""
        query = "" if first is None else f"?first={first}"
        return self._stream(f"/nodes/{quote(shark, safe='')}/check{query}")

    def plan(self, body: Any) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """POST /jobs for a dry run, in lines where the manager has them, as `_stream` does."""
        return self._stream("/jobs", "POST", body, {"accept": "application/x-ndjson"})

    @asynccontextmanager
    async def _stream(
        self,
        path: str,
        method: str = "GET",
        body: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """Get a body piece by piece.

        Raises:
          AdmError: no answer, a refusal, or it broke off, also while it is read.
        """
        asked = self.http.stream(
            method,
            self.where.host,
            path,
            port=self.where.port,
            body=body,
            headers={**self._headers, **(headers or {})},
        )
        try:
            async with asked as answer:
                if answer.status != 200:
                    _check(await answer.whole(), self.token)
                yield answer.pieces()
        except PeerError as exc:
            raise _no_answer(exc) from exc


def _no_answer(exc: PeerError, is_change: bool = False) -> AdmError:
    hint = "; it does not speak TLS: try http://" if "WRONG_VERSION_NUMBER" in str(exc) else ""
    if isinstance(exc, PeerUnreachable) and not exc.was_sent and not hint:
        hint = "; --url, or REBALANCER_URL in the environment, says where the manager is"
    if is_change and isinstance(exc, PeerUnreachable) and exc.was_sent:
        hint = f"; {OPEN_END}"
    return AdmError(f"no answer from the manager: {exc}{hint}")


#: Texts of answers that a path is not there at all; those about a job say so.
_NOWHERE = ("no message", "URL was not found", "not allowed for the requested URL", "Not Found")


def _check(reply: Reply, token: str | None) -> None:
    if reply.status == 200:
        return
    text, hint = reply.text or "no message", ""
    if reply.status == 401:
        sent = "no token was sent" if token is None else "the token that was sent is wrong"
        hint = f"; {sent}: see --token-file"
    elif reply.status in (404, 405) and (text.startswith("<") or any(map(text.count, _NOWHERE))):
        text, hint = "no manager has answered, or one without this", "; see --url"
    raise refusal(reply.status, text, hint)


def refusal(status: int, text: str, hint: str = "") -> AdmError:
    """Return the error that a refusal of the manager is."""
    return AdmError(f"{text} (status {status}){hint}", status=status)


@asynccontextmanager
async def open_manager(access: Access, silence_s: float = ANSWER_S) -> AsyncIterator[Manager]:
    """Open a client of a manager that may be silent for so long; nothing has been sent yet.

    Raises:
      AdmError: the URL cannot be used.
      ConfigError: the token or the authorities cannot be read.
    """
    try:
        scheme, where = read_url(access.url)
    except ValueError as exc:
        raise AdmError(str(exc)) from exc
    token = read_token(access.token_file, "--token-file")
    tls = trust_authorities(access.ca_file, "--ca-file") if scheme == "https" else None
    async with open_http({}, read_s=silence_s, tls=tls) as http:
        yield Manager(http, where, token)


def with_manager(
    access: Access, work: Callable[[Manager], Awaitable[T]], silence_s: float = ANSWER_S
) -> T:
    """Run `work` with a manager to ask, that may be silent for so long.

    Raises:
      AdmError: the manager refused, or is not there.
      KeyboardInterrupt: Ctrl-C; with a text, if the manager may have changed something.
    """
    managers = list[Manager]()

    async def run() -> T:
        async with open_manager(access, silence_s) as manager:
            managers.append(manager)
            return await work(manager)

    try:
        return trio.run(run)
    except* KeyboardInterrupt:
        is_open = any(one.without_answer for one in managers)
    raise KeyboardInterrupt(OPEN_END if is_open else "")
