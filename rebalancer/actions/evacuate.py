"""This module declares the action `evacuate`, which moves every object off a storage node."""

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from rebalancer.actions.declaration import (
    MAX_WHOLE,
    STORAGE_NODE_PATTERN,
    Declaration,
    Option,
    OptionKind,
    is_path,
    parameter,
)
from rebalancer.domain.objects import is_storage_id
from rebalancer.domain.tiers import Tier
from rebalancer.errors import BadRequest, Unprocessable


@attrs.frozen
class EvacuateParams:
    """The `params` of an evacuation in POST /jobs."""

    from_shark: str = parameter(
        "The node to empty; the region's domain is appended to a short name.",
        Option(("-s", "--shark"), "Storage node to empty, e.g. 1.stor.", kind=OptionKind.NODE),
        pattern=STORAGE_NODE_PATTERN,
        examples=["1.stor", "1.stor.example.com"],
    )
    max_objects: int | None = parameter(
        "Take so many only.  Missing, null and 0: all.",
        Option(
            ("-m", "--max_objects", "--max-objects"),
            "Stop after so many objects; without it, or 0: all of them.",
        ),
        default=None,
        minimum=0,
        maximum=MAX_WHOLE,
    )
    objects_file: str | None = parameter(
        "Take the records that this file on the manager's machine names, a line of JSON"
        ' like `{"key": "/account/stor/a", "shard": 2}` each, instead of looking for them.  The key'
        " of a bucket object is `/v2/<vnode>/<owner>/<bucket>/<name>`.",
        Option(
            ("--objects-file",),
            "Take the records that this file on the manager's machine names, without a scan:"
            ' a line {"key": ..., "shard": ...} each; the shard may be missing.',
            "FILE",
            kind=OptionKind.FILE,
        ),
        default=None,
        pattern=r"^/[^\x00]*$",
    )
    tiers: tuple[str, ...] | None = parameter(
        "Take the objects of these metadata tiers only.  Missing and null: of all that the manager"
        " looks at.",
        Option(
            ("--tier",),
            "Take the objects of this metadata tier only; without it, of all that the manager looks"
            " at.  May be given twice.",
        ),
        default=None,
        items={"type": "string", "enum": list(Tier)},
        minItems=1,
        uniqueItems=True,
        examples=[[Tier.DIRECTORY]],
    )
    strict: bool = parameter(
        "Whether anything that the pre-flight finds ends the job at once.",
        Option(("--strict",), "Begin only if the pre-flight finds nothing."),
        default=False,
    )


def _check(params: EvacuateParams) -> None:
    """Check the values of an evacuation's parameters.

    Raises:
      Unprocessable: names the field that cannot be used.
      BadRequest: the shark's name cannot be one.
    """
    if params.max_objects is not None and not 0 <= params.max_objects <= MAX_WHOLE:
        expected = f"expected a number not below 0 and not above {MAX_WHOLE}"
        raise Unprocessable(f"params.max_objects: {expected}")
    if params.tiers is not None and not _are_tiers(params.tiers):
        raise Unprocessable(f"params.tiers: expected {' or '.join(Tier)}, or both, each once")
    if params.objects_file is not None and not is_path(params.objects_file):
        raise Unprocessable("params.objects_file: expected the absolute path of a file")
    if not is_storage_id(params.from_shark) or ":" in params.from_shark:
        raise BadRequest(f"params.from_shark: {params.from_shark!r} is no name of a storage node")


def _are_tiers(names: Sequence[str]) -> bool:
    return bool(names) and set(names) <= set(Tier) and len(set(names)) == len(names)


def _subject(told: Mapping[str, Any]) -> str:
    """Return the node that a job empties, from its parameters or from `config` of its view."""
    shark = told["from_shark"]
    return str(shark["manta_storage_id"] if isinstance(shark, Mapping) else shark)


def _config(params: Mapping[str, Any], node: Mapping[str, str]) -> Mapping[str, Any]:
    """Return `config` of a job's view, with the fields of the predecessor."""
    shown = {name: params.get(name) for name in ("max_objects", "tiers")}
    return {"from_shark": dict(node), **shown}


_CONFIG_SCHEMA = {
    "from_shark": {
        "type": "object",
        "properties": {
            "datacenter": {
                "type": "string",
                "description": "Empty until the job has looked its node up.",
            },
            "manta_storage_id": {"type": "string", "examples": ["1.stor.example.com"]},
        },
        "required": ["datacenter", "manta_storage_id"],
        "additionalProperties": False,
    },
    "max_objects": {"type": ["integer", "null"], "minimum": 0, "description": "null: all."},
    "tiers": {
        "type": ["array", "null"],
        "items": {"type": "string", "enum": list(Tier)},
        "description": "The metadata tiers whose objects are taken; null: all.",
    },
}
_PARAMS = {"from_shark": "1.stor"}

EVACUATE = Declaration(
    name="evacuate",
    params=EvacuateParams,
    about="The job empties the node `from_shark`: it finds every object with a copy there, has each"
    " copied to another node, and only then changes its record.  It begins at once if no other job"
    " runs.  Stop the node's heartbeat first, so that it takes no new objects.\n\n"
    'With `"dry_run": true` the same search and the same choice of destinations are made, nothing'
    " is kept and no agent is told; that takes as long as the search of a job does.",
    help="""Make a job that moves every object off a storage node.

    Prints the job's id.  It begins as soon as no other job runs.  Before it, stop the node's
    heartbeat, so that the node takes no new objects.

    \b
    Example:
      rebalancer adm job plan --shark 1.stor
      rebalancer adm job create evacuate --shark 1.stor --strict
      rebalancer adm job watch 0fd6
    """,
    check=_check,
    subject=_subject,
    examples={
        "all of a node": {"action": "evacuate", "params": _PARAMS},
        "a trial": {
            "action": "evacuate",
            "params": {**_PARAMS, "max_objects": 10, "strict": True},
        },
        "one metadata tier": {
            "action": "evacuate",
            "params": {**_PARAMS, "tiers": [Tier.DIRECTORY]},
        },
        "a plan": {"action": "evacuate", "params": _PARAMS, "dry_run": True},
    },
    positional=("from_shark", "max_objects"),
    node_parameter="from_shark",
    config=_config,
    config_schema=_CONFIG_SCHEMA,
    has_plan=True,
    has_limits=True,
)
