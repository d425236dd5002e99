"""This module has the keys of both files that say who may use an API."""

import attrs

from rebalancer.config.reload import RESTART, key
from rebalancer.converter import FieldError


@attrs.frozen
class ApiAccess:
    """The access to an API: who may use it, and whether it speaks TLS."""

    token_file: str = key(
        "",
        about="Every request but `GET /ping` must bear the token in this file; empty: no token."
        "  SIGUSR1 reads the same file anew.",
        unit="file",
        reload=RESTART,
    )
    tls_cert: str = key(
        "",
        about="The API speaks TLS by the certificate in this PEM file; empty: no TLS."
        "  It needs `tls_key` beside it.",
        unit="file",
        reload=RESTART,
    )
    tls_key: str = key(
        "",
        about="The key of the certificate is in this PEM file.",
        unit="file",
        reload=RESTART,
    )

    def __attrs_post_init__(self) -> None:
        """Check that certificate and key come together.

        Raises:
          FieldError: one of them is missing.
        """
        if bool(self.tls_cert) != bool(self.tls_key):
            raise FieldError("tls_cert, tls_key: expected both or none")
