"""This module reads the tokens that requests bear from files, anew when the operator says so."""

import hmac
from collections.abc import Mapping

import attrs

from rebalancer.config import read_token


@attrs.define(eq=False)
class Token:
    """The token in a file, as it was read last.

    Mutable state: the file's path, and the token; None where no file is named.
    """

    path: str = ""
    value: str | None = None
    #: The key of the configuration that names the file, for errors.
    named_by: str = ""

    @classmethod
    def of(cls, path: str, named_by: str = "") -> "Token":
        """Read the token in the file `path`; none if `path` is empty.  Blocking.

        Raises:
          ConfigError: the file cannot be read, or holds no token.
        """
        made = cls(named_by=named_by)
        made.read(path)
        return made

    def read(self, path: str) -> None:
        """Read the token in the file `path`.  Blocking.

        Raises:
          ConfigError: it cannot be read, and what was read before holds on.
        """
        self.value = read_token(path, self.named_by)
        self.path = path

    def reload(self) -> None:
        """Read the same file, which may have changed.  Blocking.

        Raises:
          ConfigError: it cannot be read, and what was read before holds on.
        """
        self.read(self.path)

    def is_borne_by(self, headers: Mapping[str, str]) -> bool:
        """Tell whether a request with these headers bears the token."""
        given = headers.get("authorization", "").encode()
        return hmac.compare_digest(given, f"Bearer {self.value}".encode())
