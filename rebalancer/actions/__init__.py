"""This package declares the kinds of jobs: the parameters of each, for the API and for `adm`.

A declaration is light: the operator's command imports it without anything of the manager.  What
a job of the kind does is in `rebalancer.manager.actions`.  CONTRIBUTING.md says how an action is
added.
"""

from collections.abc import Mapping

from rebalancer.actions.declaration import Declaration
from rebalancer.actions.evacuate import EVACUATE
from rebalancer.actions.verify import VERIFY

#: Every action by its name.
DECLARED: Mapping[str, Declaration] = {one.name: one for one in (EVACUATE, VERIFY)}
#: What a job is taken for whose action is not known: the predecessors have no other.
FALLBACK = EVACUATE
