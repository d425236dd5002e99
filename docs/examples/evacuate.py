"""Empty a storage node by the manager's API, with nothing but the standard library.

usage: python evacuate.py NODE [MAX_OBJECTS]

The manager is at $REBALANCER_URL.  The exit code is 0 if no record names the node any more.
"""

import json
import os
import sys
import time
from urllib.request import Request, urlopen

URL = os.environ.get("REBALANCER_URL", "http://localhost")


def ask(method, path, body=None):
    """Return the manager's answer, which is JSON; an error of it ends the program."""
    data = None if body is None else json.dumps(body).encode()
    request = Request(URL + path, data, {"Accept": "application/json"}, method=method)
    with urlopen(request, timeout=60) as answer:
        return json.load(answer)


def main(node, max_objects=0):
    """Make the job, show its progress, and say what is left."""
    params = {"from_shark": node, "max_objects": int(max_objects)}
    job = ask("POST", "/jobs", {"action": "evacuate", "params": params})
    while "verdict" not in (view := ask("GET", f"/jobs/{job}")):
        waiting = "".join(f", waits for {one['for']}" for one in view["waiting"])
        print(f"{job}: {view['results']['Complete']} objects moved{waiting}")
        time.sleep(1)
    verdict = view["verdict"]
    print(verdict["line"])
    for cause in verdict["causes"]:
        print(f"  {cause['cause']}: {cause['advice']}: {cause['command']}")
    return 0 if verdict["verdict"] == "empty" else 1


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
