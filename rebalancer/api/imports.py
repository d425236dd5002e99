"""This module has the bodies about jobs of a Rust manager, which are listed and imported."""

import attrs

from rebalancer.api.fields import Count, Uuid, about

_DSN = (
    "How to connect to the Rust manager's PostgreSQL, as libpq has it; a host, a port, a user, a"
    " password, a database and an sslmode may be in it.  Without a host: the socket of the"
    " manager's machine; without a user: postgres; without a database: rebalancer."
)
_EXAMPLE = "postgres://postgres@/rebalancer"


@attrs.frozen(kw_only=True)
class ListImports:
    """Lists what a Rust manager has."""

    dsn: str = about(_DSN, examples=[_EXAMPLE])


@attrs.frozen(kw_only=True)
class ImportJob:
    """Imports a job of a Rust manager."""

    dsn: str = about(_DSN, examples=[_EXAMPLE])
    job_id: Uuid = about("The id of the job at the Rust manager.")
    again: bool = about("Whether it may have been imported already.", default=False)


@attrs.frozen(kw_only=True)
class Importable:
    """A job of a Rust manager, and whether it can be imported."""

    id: str = about("The job's id there.")
    action: str
    state: str = about("Its state as it is recorded there; running: its manager was stopped.")
    node: str | None = about("The storage node that it empties; null: not known.")
    objects: dict[str, Count] = about("Objects by their status there.")
    duplicates: Count = about("Objects with several records, of which one was updated at most.")
    problem: str | None = about("Why it cannot be imported; null: it can.")
    imported: tuple[Uuid, ...] = about("The jobs here that it was imported as.")


@attrs.frozen(kw_only=True)
class Imported:
    """A job that was imported."""

    id: Uuid = about("The id of the job here: the one that it had, unless that is taken.")
    imported_from: Uuid = about("Its id at the Rust manager.")
    objects: Count
    odd: Count = about("Objects of which something could not be read; their detail says what.")
