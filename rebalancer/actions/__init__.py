"""This package declares the kinds of jobs: the parameters of each, for the API and for `adm`.

A declaration is light: the operator's command imports it without anything of the manager.  What
a job of the kind does is in `rebalancer.manager.actions`.

Adding an action:

1. `rebalancer/actions/<name>.py`: its parameters, an attrs class with documented fields, and its
   `Declaration`.  Server, OpenAPI document and `rebalancer adm job create <name>` follow from it.
2. `DECLARED` below: the declaration.
3. `rebalancer/manager/actions/<name>.py`, or a package: a class with the members of
   `rebalancer.manager.actions.action.JobAction`.  If the action moves objects, its `run` gives the
   pipeline what `rebalancer.manager.pipeline.decisions.MoveDecisions` asks for.
4. `ACTIONS` in `rebalancer/manager/actions/registry.py`: an instance of the class.
5. `tests/manager/actions/<name>/`: its tests, with a `sweep.py`, by which
   `tests/manager/actions/test_crashes.py` stops a job of the action at every commit.
6. `docs/<name>.md`: the page for operators; a line of README, a fragment; `tools/modules`.
"""

from collections.abc import Mapping

from rebalancer.actions.declaration import Declaration
from rebalancer.actions.evacuate import EVACUATE
from rebalancer.actions.verify import VERIFY

#: Every action by its name.
DECLARED: Mapping[str, Declaration] = {one.name: one for one in (EVACUATE, VERIFY)}
#: What a job is taken for whose action is not known: the predecessors have no other.
FALLBACK = EVACUATE
