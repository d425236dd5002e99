"""This module is the console command: `rebalancer manager | agent | adm | region | demo`."""

import os
import select
import signal
import sys

# Before the slow imports: `svcadm refresh` right after the start must not kill the service.
signal.signal(signal.SIGUSR1, signal.SIG_IGN)
# Nor does a Ctrl-C show where they are; one that is ignored, behind nohup, stays so.
_is_heeded = signal.getsignal(signal.SIGINT) is signal.default_int_handler
if _is_heeded:
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))

from rebalancer.doctor.findings import Level  # noqa: E402
from rebalancer.doctor.judge.system import event_loop  # noqa: E402

# trio would say so in a traceback.  The doctor says it among all else that is amiss.
_loop = event_loop(dir(select))
if _loop.level is Level.STOPS and sys.argv[1:2] != ["doctor"]:
    sys.exit(f"rebalancer: {_loop.found}; {_loop.do}")

from rebalancer.cli import main, main_adm, main_agent, main_manager  # noqa: E402

if _is_heeded:
    signal.signal(signal.SIGINT, signal.default_int_handler)

__all__ = ["main", "main_adm", "main_agent", "main_manager"]

if __name__ == "__main__":
    main()
