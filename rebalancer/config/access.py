"""This module has the keys of both files that say who may use an API."""

import attrs

from rebalancer.config.reload import RESTART, key
from rebalancer.converter import FieldError


@attrs.frozen
class ApiAccess:
    """The access to an API: who may use it, and whether it speaks TLS."""

    #: A file with the token that every request must bear, but for GET /ping; empty: none.
    #: SIGUSR1 reads the same file anew.
    token_file: str = key("", reload=RESTART)
    #: PEM files; both or none.
    tls_cert: str = key("", reload=RESTART)
    tls_key: str = key("", reload=RESTART)

    def __attrs_post_init__(self) -> None:
        """Check that certificate and key come together.

        Raises:
          FieldError: one of them is missing.
        """
        if bool(self.tls_cert) != bool(self.tls_key):
            raise FieldError("tls_cert, tls_key: expected both or none")
