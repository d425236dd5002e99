"""This module has what a kind of job declares of itself."""

import enum
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs

from rebalancer.api.fields import FACTS, Facts

#: The highest whole number that can be stored.
MAX_WHOLE = (1 << 63) - 1
#: What a parameter must match that names a storage node.
STORAGE_NODE_PATTERN = r"^[A-Za-z0-9]([A-Za-z0-9_.-]{0,251}[A-Za-z0-9])?$"
#: The key of a field's metadata.
_KEY = "parameter"


class OptionKind(enum.Enum):
    """A kind of values that the operator's command completes, or sends otherwise than typed."""

    PLAIN = enum.auto()
    JOB = enum.auto()  # the id of a job, which may be cut to its first characters
    NODE = enum.auto()  # the name of a storage node
    FILE = enum.auto()  # the path of a file on the manager's machine


@attrs.frozen
class Option:
    """An option says how `rebalancer adm job create` takes a parameter, and explains it.

    A parameter that is a bool is a switch.  `help` is shown by `--help`; the API shows the text
    of the parameter itself.
    """

    flags: tuple[str, ...]
    help: str
    metavar: str | None = None
    kind: OptionKind = OptionKind.PLAIN


@attrs.frozen
class Parameter:
    """A parameter describes a field of an action's parameters, beside its type and its default.

    `about` is its text in the OpenAPI document, `schema` has further keys of its JSON schema
    there, `minimum` among them; without an `option`, the operator's command does not offer it.
    """

    about: str
    option: Option | None
    schema: Mapping[str, Any]


def parameter(
    about: str, option: Option | None = None, *, default: Any = attrs.NOTHING, **schema: Any
) -> Any:
    """Declare a field of an action's parameters; without a `default` it is required."""
    metadata = {_KEY: Parameter(about, option, schema), FACTS: Facts(about, schema=schema)}
    return attrs.field(default=default, metadata=metadata)


def parameters_of(params: type[attrs.AttrsInstance]) -> dict[str, tuple[Any, Parameter]]:
    """Return the fields of an action's parameters by name, each with what it declares."""
    return {field.name: (field, field.metadata[_KEY]) for field in attrs.fields(params)}


@attrs.frozen
class Declaration:
    """A kind of job, as the API and the operator's command know it."""

    #: In the body of POST /jobs, in the list of jobs, and behind `job create`.
    name: str
    params: type[attrs.AttrsInstance]
    #: What a job of it does, as the OpenAPI document says it.
    about: str
    #: The same as the help of `job create <name>`.
    help: str
    #: Checks what types do not: raises BadRequest or Unprocessable.
    check: Callable[[Any], None]
    #: Returns what a job works on, for a person, from its `params` or from `config` of its view.
    subject: Callable[[Mapping[str, Any]], str]
    #: Bodies of POST /jobs for the OpenAPI document, by what they do.
    examples: Mapping[str, Mapping[str, Any]]
    #: The names of the parameters that may be sent as an array of values, in its order.
    positional: tuple[str, ...] = ()
    #: The name of the parameter with the storage node that one job at a time may be about, and that
    #: is to receive no copies meanwhile.
    node_parameter: str | None = None
    #: Returns `config` of a job's view, from its parameters and from what is known of its node;
    #: without it, the parameters by their names.
    config: Callable[[Mapping[str, Any], Mapping[str, str]], Mapping[str, Any]] | None = None
    #: The schema of what `config` returns, its properties by name.
    config_schema: Mapping[str, Any] | None = None
    #: The names of texts among the parameters of which exactly one is given, if there are such.
    alternatives: tuple[str, ...] = ()
    #: Whether a dry run can tell what a job would do.
    has_plan: bool = False
    #: Whether a job has limits that operators can change: of updates, destinations and bandwidth.
    has_limits: bool = False

    def node(self, params: Mapping[str, Any]) -> str | None:
        """Return the storage node that no two jobs may be about, None if there is no such rule."""
        return None if self.node_parameter is None else str(params[self.node_parameter])

    def params_about(self, node: str) -> dict[str, str]:
        """Return the parameters of a job of which only its storage node is known."""
        return {} if self.node_parameter is None else {self.node_parameter: node}

    def shown_config(self, params: Mapping[str, Any], node: Mapping[str, str]) -> dict[str, Any]:
        """Return `config` of a job's view; `node` is what is known of its node."""
        if self.config is not None:
            return dict(self.config(params, node))
        return {field.name: params.get(field.name) for field in attrs.fields(self.params)}

    def request(self, given: Mapping[str, Any], *, dry_run: bool = False) -> dict[str, Any]:
        """Return the body of POST /jobs: what was `given`, without what is as by default."""
        defaults = {field.name: field.default for field in attrs.fields(self.params)}
        sent = {
            name: given[name]
            for name, default in defaults.items()
            if name in given and (name in self.positional or given[name] != default)
        }
        body: dict[str, Any] = {"action": self.name, "params": sent}
        return {**body, "dry_run": True} if dry_run else body


def is_path(text: str) -> bool:
    """Tell whether a file can be called `text`, from the root: it may be missing all the same."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return Path(text).is_absolute() and "\0" not in text
