"""This module proves, at a start, that objects can be put into place below the configured root."""

import os
from contextlib import suppress
from pathlib import Path

import attrs

from rebalancer.agent.transfer.disk.folders import Tree
from rebalancer.agent.transfer.disk.names import TEMPORARY
from rebalancer.agent.transfer.disk.objects import FULL
from rebalancer.errors import ConfigError
from rebalancer.log import get_logger

#: The folder in which a start makes its proof.
_PROBE = ".rebalancer-probe"

log = get_logger()


def make_tree(root: Path, temp: Path) -> Tree:
    """Open the folders; that of temporary files is made if it is missing, the root never.

    Raises:
      ConfigError: they cannot be used.
    """
    if not root.is_dir():
        expected = "expected a folder; the agent never makes it: mount it, or name another"
        raise ConfigError(f"storage.manta_root {root}: {expected}")
    try:
        return Tree.make(root, temp)
    except OSError as exc:
        expected = "expected a folder below existing ones, without a link below manta_root"
        raise ConfigError(f"storage.temp_dir {temp}: {expected}: {exc}") from exc


def prove(root: Path, temp: Path, name: str) -> None:
    """Put a file into place as an object would be, by way of the temporary `name`; remove it.

    Raises:
      ConfigError: which step failed, and why.
    """
    tree = make_tree(root, temp)
    if tree.root.identity()[0] != tree.temp.identity()[0]:
        expected = f"expected the file system of manta_root {root}"
        raise ConfigError(f"storage.temp_dir {temp}: {expected}")
    failed = try_steps(tree, name)
    if failed is None:
        return
    if failed.error.errno not in FULL:
        where = f"manta_root {root}, temp_dir {temp}"
        raise ConfigError(
            f"storage: cannot {failed.step} ({where}): {failed.error.strerror}"
        ) from failed.error
    # A full disk passes, and each object fails for it until then.
    log.warning("the disk of the objects is full", step=failed.step)


@attrs.frozen
class Failed:
    """A step towards a file in its place has failed."""

    step: str
    error: OSError


def try_steps(tree: Tree, name: str) -> Failed | None:
    """Put a file into place by way of the temporary `name`, and remove it; return what failed."""
    step = "create a file in temp_dir"
    try:
        file = tree.temp.create(name)
        try:
            os.write(file, b"probe")
            step = "sync a file"
            os.fsync(file)
        finally:
            os.close(file)
        step = "create a folder in manta_root"
        probe = tree.root.make(_PROBE)
        step = "rename a file from temp_dir into a folder of manta_root"
        tree.temp.rename(name, probe, name)
        step = "sync a folder"
        probe.sync()
        # A run that was killed may have made an account's folder without coming to this.
        tree.root.sync()
        step = "remove a file"
        probe.remove(name)
    except OSError as exc:
        return Failed(step, exc)
    finally:
        _remove_probes(tree, name)
    return None


def _remove_probes(tree: Tree, name: str) -> None:
    """Remove the probe `name`, wherever it is, and what a start that was killed left of its own."""
    with suppress(OSError):
        tree.temp.remove(name)
    with suppress(OSError):
        probe = tree.root.enter(_PROBE)
        for left in os.listdir(probe.fd):
            if TEMPORARY.fullmatch(left):
                probe.remove(left)
        os.rmdir(_PROBE, dir_fd=tree.root.fd)
