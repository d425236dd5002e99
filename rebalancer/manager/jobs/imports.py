"""This module imports jobs of a Rust manager, which is read only, as ended jobs of this one."""

import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import trio

from rebalancer.actions import FALLBACK
from rebalancer.api.imports import Importable, Imported
from rebalancer.domain.imported import read_job_state, read_node, read_object
from rebalancer.domain.objects import Shark, is_loose_uuid
from rebalancer.errors import BadRequest, Conflict, PeerError, PeerUnreachable, Unavailable
from rebalancer.log import get_logger
from rebalancer.manager.jobs.assembly import Resources
from rebalancer.manager.jobs.files import answering, made_with_its_row
from rebalancer.manager.jobs.index import JobIndex
from rebalancer.manager.jobs.rows import JobRow
from rebalancer.manager.jobs.scratch import scratch_folder
from rebalancer.manager.store import imported, job_file
from rebalancer.manager.store.imported import Duplicate
from rebalancer.manager.store.records import Finding
from rebalancer.peers import predecessor
from rebalancer.peers.postgres import GivenDatabase, Row, read_dsn
from rebalancer.peers.predecessor import Contents, PredecessorJob
from rebalancer.threads import Work, run_sync

#: The warning of a job that was imported.
CHECK = "imported"
#: Why a job is not imported that its manager may be at work on.
_IN_USE = "its database has other clients: stop the Rust manager first, and end other sessions"

log = get_logger()


@attrs.define(eq=False)
class JobImports:
    """This object lists and imports jobs of a Rust manager.

    Mutable state: the lock of imports, of which one is made at a time.
    """

    index: JobIndex
    resources: Resources
    _importing: trio.Lock = attrs.field(factory=trio.Lock)

    async def list(self, dsn: str) -> list[Importable]:
        """Return what a Rust manager has, and change nothing.

        Raises:
          BadRequest: its list cannot be read.
          Unavailable: it cannot be read now.
        """
        parameters = _parameters(dsn)
        with _asking():
            found = await predecessor.read_jobs(parameters)
        known = await self.index.all()
        return [await _look(parameters, job, known) for job in found]

    async def run(self, dsn: str, job_id: str, *, again: bool) -> Imported:
        """Import a job; a job that was imported before is refused, unless `again`.

        Nothing is changed if it fails or is cancelled, here or there.

        Raises:
          BadRequest: there is no such job, or it cannot be read.
          Conflict: it is imported already, or another import is under way.
          Unavailable: it cannot be read now.
        """
        parameters = _parameters(dsn)
        try:
            self._importing.acquire_nowait()
        except trio.WouldBlock:
            raise Conflict("another import is under way") from None
        try:
            with _asking():
                found = await predecessor.read_jobs(parameters)
            job = next((one for one in found if one.id.lower() == job_id.lower()), None)
            if job is None:
                raise BadRequest(f"the Rust manager has no job {job_id}")
            known = await self.index.all()
            if (before := _imported_as(job, known)) and not again:
                raise Conflict(f"Job {job.id} is imported already, as {', '.join(before)}")
            return await self._import(parameters, job, known)
        finally:
            self._importing.release()

    async def _import(
        self, parameters: Mapping[str, Any], job: PredecessorJob, known: Sequence[JobRow]
    ) -> Imported:
        _check_row(job)
        folder = Path(self.resources.config.data_dir)
        async with scratch_folder(folder) as scratch:
            with _asking():
                async with predecessor.open_database(parameters, job.id) as database:
                    contents = await predecessor.read_contents(database)
                    node = _checked(job, contents)
                    objects, odd = await _copy(database, scratch / "job.sqlite", job, node)
            new_id = job.id.lower()
            if any(row.id == new_id for row in known) or self.resources.file(new_id).exists():
                new_id = str(uuid.uuid4())
            file = self.resources.file(new_id)
            params = {
                **FALLBACK.params_about(node.manta_storage_id),
                "imported_from": job.id.lower(),
            }
            state, error = read_job_state(job.state)
            with trio.CancelScope(shield=True):  # bounded: a move of a file, and a row
                async with made_with_its_row(file):
                    with answering():
                        await run_sync(Work.STORE, job_file.adopt, scratch / "job.sqlite", file)
                    await self.index.add(new_id, job.action, params, state, error)
        log.info("job", job=new_id, state=state, imported_from=job.id, objects=objects, odd=odd)
        return Imported(id=new_id, imported_from=job.id.lower(), objects=objects, odd=odd)


async def _copy(
    database: GivenDatabase, path: Path, job: PredecessorJob, node: Shark
) -> tuple[int, int]:
    """Copy a job's rows into a file; return how many objects it has, and how many are odd."""
    objects = odd = 0
    with answering():
        await run_sync(Work.STORE, job_file.create, path, node)
        db = await run_sync(Work.STORE, job_file.open_apart, path)
        try:
            async with aclosing(predecessor.read_objects(database)) as batches:
                async for rows in batches:
                    made = [read_object(row) for row in rows]
                    objects, odd = objects + len(made), odd + sum(one.is_odd for one in made)
                    await run_sync(
                        Work.STORE, partial(job_file.change, path, db, imported.add_objects, made)
                    )
            async with aclosing(predecessor.read_duplicates(database)) as batches:
                async for rows in batches:
                    twins = list(map(_duplicate, rows))
                    odd += sum(one.is_odd for one in twins)
                    await run_sync(
                        Work.STORE,
                        partial(job_file.change, path, db, imported.add_duplicates, twins),
                    )
            findings = [Finding(CHECK, _warning(job, odd))]
            await run_sync(
                Work.STORE, partial(job_file.change, path, db, imported.finish, node, findings)
            )
        finally:
            with trio.CancelScope(shield=True):  # bounded: what sqlite's log still holds
                await run_sync(Work.STORE, db.close)
    return objects, odd


def _duplicate(row: Row) -> Duplicate:
    shards = row["shards"] if isinstance(row["shards"], list) else []
    return Duplicate(row["id"], row["key"], [one for one in shards if type(one) is int and one > 0])


def _warning(job: PredecessorJob, odd: int) -> str:
    """Return what operators read of an imported job, of whose objects some are odd."""
    parts = [
        f"a Rust manager did this job, and recorded it as {job.state}",
        "its times and its max_objects are not known: the times here are those of the import",
        "a retry takes what is left of its objects",
    ]
    if odd:
        parts.append(f"something of {odd:,} objects could not be read: see their details")
    return "; ".join(parts)


async def _look(
    parameters: Mapping[str, Any], job: PredecessorJob, known: Sequence[JobRow]
) -> Importable:
    """Look into the database of a job, which may be in any state, or not there."""
    node, contents, problem = None, Contents(None, {}, 0, 0), None
    try:
        _check_row(job)
        with _asking():
            async with predecessor.open_database(parameters, job.id) as database:
                contents = await predecessor.read_contents(database)
        node = _checked(job, contents).manta_storage_id
    except (BadRequest, Conflict, Unavailable) as exc:
        problem = str(exc)
    return Importable(
        id=job.id,
        action=job.action,
        state=job.state,
        node=node,
        objects=dict(contents.objects),
        duplicates=contents.duplicates,
        problem=problem,
        imported=_imported_as(job, known),
    )


def _check_row(job: PredecessorJob) -> None:
    """Check that a row of the list of jobs is one that can be imported.

    Raises:
      BadRequest: it is not, and why.
    """
    if not is_loose_uuid(job.id):
        raise BadRequest(f"job {job.id}: its id is no UUID")
    if job.action != FALLBACK.name:
        raise BadRequest(f"job {job.id}: nothing is known of the action {job.action}")


def _checked(job: PredecessorJob, contents: Contents) -> Shark:
    """Return the node of a job that can be imported.

    Raises:
      BadRequest: it cannot be imported, and why.
      Conflict: its manager may be at work on it.
    """
    try:
        node = read_node(contents.node)
    except ValueError as exc:
        raise BadRequest(f"job {job.id}: {exc}") from exc
    if contents.users:
        raise Conflict(f"job {job.id}: {_IN_USE}")
    return node


def _imported_as(job: PredecessorJob, known: Sequence[JobRow]) -> tuple[str, ...]:
    """Return the ids of the jobs here that a job was imported as."""
    mine = job.id.lower()
    return tuple(row.id for row in known if row.params.get("imported_from") == mine)


def _parameters(dsn: str) -> Mapping[str, Any]:
    try:
        return read_dsn(dsn)
    except ValueError as exc:
        raise BadRequest(f"dsn: {exc}") from exc


@contextmanager
def _asking() -> Iterator[None]:
    """Turn an error of the predecessor's server into the answer to a request."""
    try:
        yield
    except PeerUnreachable as exc:
        raise Unavailable(str(exc)) from exc
    except PeerError as exc:
        raise BadRequest(str(exc)) from exc
