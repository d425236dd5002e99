"""A subject is what is checked: a program, its configuration, and where files may be tried."""

import queue
import threading
from pathlib import Path

import attrs

from rebalancer.config import AgentConfig, ManagerConfig, load_agent, load_manager, unusable_files
from rebalancer.config.reading import AGENT_PATH, MANAGER_PATH
from rebalancer.doctor.scratch import Scratch
from rebalancer.errors import ConfigError

MANAGER, AGENT = "manager", "agent"
#: Seconds for which a configuration and the files that it names are read.
READ_S = 5.0


@attrs.frozen
class Place:
    """A folder that a program writes to, and what for."""

    purpose: str
    path: Path


@attrs.frozen
class Subject:
    """A program with its configuration, which is None if that cannot be used."""

    program: str
    path: Path | None
    config: ManagerConfig | AgentConfig | None = None
    faults: tuple[str, ...] = ()
    scratch: Scratch = attrs.field(factory=Scratch)

    @classmethod
    def read(cls, program: str, path: Path | None) -> "Subject":
        """Read a configuration as its program does, and all that is wrong with it."""
        try:
            config = load_manager(path) if program == MANAGER else load_agent(path)
        except ConfigError as exc:
            return cls(program, path, faults=exc.faults or (str(exc),))
        return cls(program, path, config, tuple(unusable_files(config)))

    @classmethod
    def read_soon(cls, program: str, path: Path | None) -> "Subject":
        """Do what `read` does, but wait neither for a file system that hangs nor for a pipe."""
        done: queue.SimpleQueue[Subject] = queue.SimpleQueue()
        threading.Thread(target=lambda: done.put(cls.read(program, path)), daemon=True).start()
        try:
            return done.get(timeout=READ_S)
        except queue.Empty:
            late = f"it, or a file that it names, was not read within {READ_S:g} s: expected files"
            return cls(program, path, faults=(f"{late} on a file system that answers",))

    @property
    def place(self) -> str:
        """Return where the configuration is read from."""
        if self.path is not None:
            return str(self.path)
        default = MANAGER_PATH if self.program == MANAGER else AGENT_PATH
        return str(default) if self.program == MANAGER or default.exists() else "defaults"

    @property
    def manager(self) -> ManagerConfig:
        """Return the configuration of a manager."""
        assert isinstance(self.config, ManagerConfig)
        return self.config

    @property
    def agent(self) -> AgentConfig:
        """Return the configuration of an agent."""
        assert isinstance(self.config, AgentConfig)
        return self.config

    @property
    def state(self) -> Place:
        """Return the folder of the program's state."""
        if self.program == MANAGER:
            return Place("data_dir", Path(self.manager.data_dir))
        return Place("state_dir", Path(self.agent.storage.state_dir))

    @property
    def places(self) -> list[Place]:
        """Return the folders that the program writes to."""
        if self.program == MANAGER:
            return [self.state]
        storage = self.agent.storage
        return [self.state, Place("manta_root", storage.root), Place("temp_dir", storage.temp)]
