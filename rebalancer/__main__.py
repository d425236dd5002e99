"""This module is the console command: `rebalancer manager | agent | adm | region | demo`."""

import signal

# Before the slow imports: `svcadm refresh` right after the start must not kill the service.
signal.signal(signal.SIGUSR1, signal.SIG_IGN)

from rebalancer.cli import main, main_adm, main_agent, main_manager  # noqa: E402

__all__ = ["main", "main_adm", "main_agent", "main_manager"]

if __name__ == "__main__":
    main()
