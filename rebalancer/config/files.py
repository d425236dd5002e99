"""This module reads the files that a configuration names: tokens, certificates, authorities."""

import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from rebalancer.config.agent import AgentConfig
from rebalancer.config.manager import ManagerConfig
from rebalancer.errors import ConfigError


def read_text(path: Path) -> str:
    """Read a file as UTF-8.

    Raises:
      ConfigError: the file cannot be read, or is no text.
    """
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{path}: {getattr(exc, 'strerror', None) or exc}") from exc


def read_token(path: str, named_by: str = "") -> str | None:
    """Read the token in a file; None where no file is named.

    Errors begin with `named_by`, the key or option that names the file.

    Raises:
      ConfigError: the file cannot be read, or holds no token.
    """
    if not path:
        return None
    with _naming(named_by):
        token = read_text(Path(path)).strip()
        if not token or not token.isascii() or any(c.isspace() for c in token):
            raise ConfigError(f"{path}: expected one token: ASCII, without white space")
        return token


@contextmanager
def _naming(named_by: str) -> Iterator[None]:
    """Let an error about a file begin with what names the file."""
    try:
        yield
    except ConfigError as exc:
        raise (ConfigError(f"{named_by}: {exc}") if named_by else exc) from exc


def open_tls(cert: str, key: str) -> ssl.SSLContext | None:
    """Read the certificate and its key to serve TLS with; None where no certificate is named.

    Raises:
      ConfigError: a file is missing, or they are no certificate with its key.
    """
    if not cert:
        return None
    made = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        made.load_cert_chain(cert, key)
    except OSError as exc:  # ssl's own errors among them
        raise ConfigError(
            f"api.tls_cert, api.tls_key: {cert}, {key}: {exc.strerror or exc}"
        ) from exc
    return made


def trust_authorities(ca_file: str, named_by: str = "") -> ssl.SSLContext:
    """Read the authorities whose certificates a client accepts; without a file, the system's.

    Errors begin with `named_by`, the key or option that names the file.

    Raises:
      ConfigError: the file cannot be read, or has none.
    """
    try:
        return ssl.create_default_context(cafile=ca_file or None)
    except OSError as exc:  # ssl's own errors among them
        named = ca_file or "the system's authorities"
        with _naming(named_by if ca_file else ""):
            raise ConfigError(f"{named}: {exc.strerror or exc}") from exc


def unusable_files(config: ManagerConfig | AgentConfig) -> list[str]:
    """Say what is wrong with the files that a configuration names, without which no program starts.

    Each fault is a text of its own; none means that all files can be used.
    """
    api = config.api
    checks: list[Callable[[], object]] = [partial(read_token, api.token_file, "api.token_file")]
    if isinstance(config, ManagerConfig):
        checks.append(partial(read_token, config.agent_token_file, "agent_token_file"))
    checks.append(partial(open_tls, api.tls_cert, api.tls_key))
    if isinstance(config, ManagerConfig) and config.agent_tls:
        checks.append(partial(trust_authorities, config.agent_tls_ca, "agent_tls_ca"))
    faults = []
    for check in checks:
        try:
            check()
        except ConfigError as exc:
            faults.append(str(exc))
    return faults
