"""This module has the kinds of jobs that the manager can run, by their names."""

from collections.abc import Mapping

from rebalancer.actions.evacuate import EVACUATE
from rebalancer.actions.verify import VERIFY
from rebalancer.manager.actions.action import JobAction
from rebalancer.manager.actions.evacuate.action import EvacuateAction
from rebalancer.manager.actions.verify.action import VerifyAction

ACTIONS: Mapping[str, JobAction] = {
    EVACUATE.name: EvacuateAction(),
    VERIFY.name: VerifyAction(),
}
