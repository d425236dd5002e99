"""This package reads both configuration files: their keys, defaults, units and checks.

The manager's is JSON, the agent's TOML; both as the predecessors wrote them, plus keys of our
own.  An unknown key and a value of the wrong kind are errors that name the key; all of a file's
errors are reported at once.
"""

from rebalancer.config.access import ApiAccess
from rebalancer.config.agent import (
    AgentApi,
    AgentConfig,
    AgentExporter,
    AgentServer,
    AgentSource,
    AgentStorage,
    LogConfig,
)
from rebalancer.config.files import (
    open_tls,
    read_token,
    trust_authorities,
    unusable_files,
)
from rebalancer.config.manager import ManagerConfig, Options, Shard
from rebalancer.config.reading import load_agent, load_manager, read_agent, read_manager

__all__ = [
    "AgentApi",
    "AgentConfig",
    "AgentExporter",
    "AgentServer",
    "AgentSource",
    "AgentStorage",
    "ApiAccess",
    "LogConfig",
    "ManagerConfig",
    "Options",
    "Shard",
    "load_agent",
    "load_manager",
    "open_tls",
    "read_agent",
    "read_manager",
    "read_token",
    "trust_authorities",
    "unusable_files",
]
