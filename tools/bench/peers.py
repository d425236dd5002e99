"""This module runs what an operator would pull objects with instead of an agent.

Each peer pulls a whole set into an empty folder, `TRANSFERS` objects at a time, and checks the MD5
of each, but for rclone, which has none to check over plain HTTP.
"""

import importlib.util
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from objects import OWNER, Set
from processes import Cost, run_programs

TRANSFERS = 16
#: Takes a set, the folder for it, and the port of its source.
Peer = Callable[[Set, Path, int], Cost]


def curl(dataset: Set, folder: Path, port: int) -> Cost:
    return run_programs(*_curl(dataset, folder, port), cwd=folder)


def curl_durable(dataset: Set, folder: Path, port: int) -> Cost:
    """Let what was pulled reach the disk before the end, as what an agent calls done has."""
    return run_programs(*_curl(dataset, folder, port), ["sync", "--file-system", "."], cwd=folder)


def _curl(dataset: Set, folder: Path, port: int) -> list[list[str]]:
    urls, sums = folder.with_name("curl.urls"), folder.with_name("curl.md5")
    url = f"http://127.0.0.1:{port}/{OWNER}"
    urls.write_text(
        "".join(f'url = "{url}/{o.name}"\noutput = "{o.name}"\n' for o in dataset.objects)
    )
    sums.write_text("".join(f"{o.md5.hex()}  {o.name}\n" for o in dataset.objects))
    fetch = ["curl", "--parallel", "--parallel-max", str(TRANSFERS), "--fail", "--silent"]
    verify = ["md5sum", "--check", "--quiet", str(sums)]
    return [[*fetch, "--config", str(urls)], verify]


def libcurl(dataset: Set, folder: Path, port: int) -> Cost:
    """Show what the library of curl can do from Python: `pull.py`, which is no agent."""
    names = folder.with_name("libcurl.names")
    names.write_text("".join(f"{o.name} {o.md5.hex()}\n" for o in dataset.objects))
    script = str(Path(__file__).with_name("pull.py"))
    url = f"http://127.0.0.1:{port}/{OWNER}/"
    return run_programs([sys.executable, script, str(names), url, str(TRANSFERS)], cwd=folder)


def rclone(dataset: Set, folder: Path, port: int) -> Cost:
    names = folder.with_name("rclone.names")
    names.write_text("".join(f"{o.name}\n" for o in dataset.objects))
    command = ["rclone", "copy", ":http:", str(folder), "--config", "/dev/null", "--no-traverse"]
    command += ["--http-url", f"http://127.0.0.1:{port}/{OWNER}", "--files-from-raw", str(names)]
    command += ["--transfers", str(TRANSFERS), "--checkers", str(TRANSFERS)]
    return run_programs(command, cwd=folder)


def aria2c(dataset: Set, folder: Path, port: int) -> Cost:
    urls = folder.with_name("aria2c.urls")
    urls.write_text(
        "".join(
            f"http://127.0.0.1:{port}/{OWNER}/{o.name}\n  checksum=md5={o.md5.hex()}\n"
            for o in dataset.objects
        )
    )
    command = ["aria2c", "--no-conf", "--quiet", "--check-integrity=true", "--file-allocation=none"]
    command += ["--split=1", f"--max-connection-per-server={TRANSFERS}"]
    command += [f"--max-concurrent-downloads={TRANSFERS}", f"--input-file={urls}"]
    return run_programs(command, cwd=folder)


PEERS: dict[str, Peer] = {
    "curl+md5sum": curl,
    "curl+md5sum durable": curl_durable,
    "libcurl": libcurl,
    "rclone": rclone,
    "aria2c": aria2c,
}


def is_installed(name: str) -> bool:
    """Return whether the programs of a peer are there."""
    if name == "libcurl":
        return importlib.util.find_spec("pycurl") is not None
    return shutil.which(name.partition("+")[0]) is not None
