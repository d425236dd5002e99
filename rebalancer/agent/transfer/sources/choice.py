"""This module chooses the engine at the start of a process that pulls objects."""

import importlib

from rebalancer.agent.transfer.bandwidth import Allowance
from rebalancer.agent.transfer.sources.engine import Engine
from rebalancer.agent.transfer.sources.plain import PlainEngine
from rebalancer.config import AgentSource
from rebalancer.errors import ConfigError
from rebalancer.log import get_logger

log = get_logger()


def check_engine(limits: AgentSource) -> None:
    """Check that libcurl can be loaded, if a configuration says that it must be used.

    Raises:
      ConfigError: it cannot.
    """
    if limits.engine == "libcurl":
        try:
            importlib.import_module("rebalancer.agent.transfer.sources.curl")
        except ImportError as exc:
            trouble = f"the Python package pycurl cannot be loaded: {exc}"
            expected = "expected it, or 'auto' or 'plain'"
            raise ConfigError(f"source.engine 'libcurl': {trouble}; {expected}") from exc


def open_engine(limits: AgentSource, allowance: Allowance, most: int) -> Engine:
    """Return the engine that `limits.engine` names: by default libcurl, or the plain one instead.

    Raises:
      ImportError: it must be libcurl, which cannot be loaded.
    """
    if limits.engine != "plain":
        try:
            from rebalancer.agent.transfer.sources.curl import VERSION, CurlEngine
        except ImportError as exc:
            if limits.engine == "libcurl":
                raise
            log.warning("objects are pulled by the plain engine, which is slower", error=str(exc))
        else:
            log.info("objects are pulled by libcurl", version=VERSION)
            return CurlEngine(limits, allowance, most)
    else:
        log.info("objects are pulled by the plain engine, as configured")
    return PlainEngine(limits, allowance, most)
