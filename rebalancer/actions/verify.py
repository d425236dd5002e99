"""This module declares the action `verify`, which compares copies of objects with their records."""

from collections.abc import Mapping
from typing import Any

import attrs

from rebalancer.actions.declaration import (
    MAX_WHOLE,
    STORAGE_NODE_PATTERN,
    Declaration,
    Option,
    OptionKind,
    parameter,
)
from rebalancer.domain.objects import is_loose_uuid, is_storage_id
from rebalancer.errors import BadRequest, Unprocessable

#: What a job is about: one of these is given.
ALTERNATIVES = ("job", "shark")
#: The most requests at a time, and the longest patience in seconds: a week.
MOST_REQUESTS, LONGEST_PATIENCE_S = 256, 7 * 86400


@attrs.frozen
class VerifyParams:
    """The `params` of a verification in POST /jobs; `job` or `shark` is given, and not both."""

    job: str | None = parameter(
        "Verify the objects that this job has moved; it must have ended.  Either this or `shark`.",
        Option(
            ("--job",), "Verify the objects that this job has moved.", "ID", kind=OptionKind.JOB
        ),
        default=None,
        format="uuid",
    )
    shark: str | None = parameter(
        "Verify the objects whose records name this storage node, on all of their nodes; the"
        " region's domain is appended to a short name.  Either this or `job`.",
        Option(
            ("-s", "--shark"),
            "Verify the objects whose records name this storage node.",
            kind=OptionKind.NODE,
        ),
        default=None,
        pattern=STORAGE_NODE_PATTERN,
        examples=["1.stor"],
    )
    sample: float = parameter(
        "The share of the objects whose copies are read whole to compare their MD5.  Of the others"
        " only the sizes are compared.",
        Option(("--sample",), "Share of the objects whose copies are read whole, from 0 to 1."),
        default=0.01,
        minimum=0,
        maximum=1,
    )
    requests: int = parameter(
        "Copies that are asked for at a time.",
        Option(("--requests",), "Copies that are asked for at a time."),
        default=16,
        minimum=1,
        maximum=MOST_REQUESTS,
    )
    bytes_per_s: int | None = parameter(
        "Bytes of copies read a second, in all; null for no limit.",
        Option(("--bytes-per-s",), "Bytes of copies read a second, in all."),
        default=50_000_000,
        minimum=1,
        maximum=MAX_WHOLE,
    )
    patience_s: int = parameter(
        "Seconds for which a storage node that does not answer is waited for.",
        Option(("--patience-s",), "Seconds for which a node that does not answer is waited for."),
        default=600,
        minimum=0,
        maximum=LONGEST_PATIENCE_S,
    )
    port: int | None = parameter(
        "The port of the storage nodes' web servers, for nodes that the manager's `hosts` do not"
        " list with one; null for `storage_port` of the manager's configuration.",
        Option(
            ("--port",),
            "Port of the storage nodes' web servers, if it is not the one that the manager is"
            " configured with.",
        ),
        default=None,
        minimum=1,
        maximum=65535,
    )


#: The bounds of each parameter that is a number; those of `sample` are checked for themselves.
_BOUNDED = ("requests", "bytes_per_s", "patience_s", "port")


def _check(params: VerifyParams) -> None:
    """Check the values of a verification's parameters.

    Raises:
      Unprocessable: names the field that cannot be used.
      BadRequest: the name of the node, or the id of the job, cannot be one.
    """
    if sum(getattr(params, name) is not None for name in ALTERNATIVES) != 1:
        raise Unprocessable(f"params: expected either {' or '.join(ALTERNATIVES)}")
    if not 0 <= params.sample <= 1:  # which is false of NaN, too
        raise Unprocessable("params.sample: expected a number from 0 to 1")
    known = attrs.fields_dict(VerifyParams)
    for name in _BOUNDED:
        schema = known[name].metadata["parameter"].schema
        value = getattr(params, name)
        if value is not None and not schema["minimum"] <= value <= schema["maximum"]:
            bounds = f"not below {schema['minimum']} and not above {schema['maximum']}"
            raise Unprocessable(f"params.{name}: expected a number {bounds}")
    if params.job is not None and not is_loose_uuid(params.job):
        raise BadRequest(f"Invalid UUID: {params.job}")
    if params.shark is not None and (not is_storage_id(params.shark) or ":" in params.shark):
        raise BadRequest(f"params.shark: {params.shark!r} is no name of a storage node")


def _subject(told: Mapping[str, Any]) -> str:
    """Return what a job verifies, from its parameters or from `config` of its view."""
    return str(told["shark"]) if told.get("shark") else f"what job {told.get('job')} has moved"


VERIFY = Declaration(
    name="verify",
    params=VerifyParams,
    about="The action `verify` compares the copies of objects with their records and changes"
    " nothing: each record is read anew, each storage node that it names is asked for the size of"
    " its copy, and a chosen share of the objects is read whole to compare the MD5.  The job's"
    " report lists what is not right; a job that finds anything ends as `Failed`.",
    help="""Make a job that compares copies with records.

    It changes nothing.  It takes the objects that a job has moved (--job), or those whose records
    name a storage node (--shark).  Each storage node that a record names is asked for the size of
    its copy; a chosen share of the objects is read whole to compare the MD5.  Prints the job's id.
    A job that finds anything ends as failed; its report lists what is not right.

    \b
    Example:
      rebalancer adm job create verify --job 0fd6
      rebalancer adm job create verify --shark 3.stor --sample 1
      rebalancer adm job report 2c41
    """,
    check=_check,
    subject=_subject,
    alternatives=ALTERNATIVES,
    examples={
        "what a job has moved": {
            "action": "verify",
            "params": {"job": "0fd630f1-f29d-4da9-953f-48f1a09f76b5"},
        },
        "all copies of a node's objects, whole": {
            "action": "verify",
            "params": {"shark": "3.stor", "sample": 1.0},
        },
    },
)
