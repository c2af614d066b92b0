"""Where a server listens: whether it can, and the URL by which it is reached."""

from __future__ import annotations

import errno
import socket
from dataclasses import dataclass

from sage.tools.cli.errors import CommandError
from sage.tools.cli.servers.records import reached, running

_PORTS_TRIED = 100


@dataclass(frozen=True)
class Address:
    """A host and a port to listen on."""

    host: str
    port: int

    @property
    def url(self) -> str:
        """The API's address, as seen from this machine."""
        host = reached(self.host)
        return f"http://[{host}]:{self.port}/v1" if ":" in host else f"http://{host}:{self.port}/v1"

    def check_free(self) -> None:
        """Raise CommandError where nobody can listen: who does, and a port that is free."""
        for server in running("server"):
            if server["port"] == self.port:
                raise self._taken(f"the server of {server['model_id']} (pid {server['pid']})")
        try:
            _bind(self.host, self.port)
        except socket.gaierror as error:
            raise CommandError(
                f"The host {self.host!r} is not known: {error.strerror}.", "Try --host 127.0.0.1."
            ) from error
        except PermissionError as error:
            raise CommandError(
                f"Port {self.port} may not be used: {error.strerror}.", self._free_port_hint()
            ) from error
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise self._taken("another program") from error
            raise CommandError(
                f"{self.host!r} cannot be listened on: {error.strerror}.", "Try --host 127.0.0.1."
            ) from error

    def _taken(self, holder: str) -> CommandError:
        return CommandError(f"Port {self.port} is taken by {holder}.", self._free_port_hint())

    def _free_port_hint(self) -> str:
        ours = {server["port"] for server in running("server")}
        for other in range(max(self.port + 1, 1024), min(self.port + _PORTS_TRIED, 65536)):
            if other not in ours:
                try:
                    _bind(self.host, other)
                except OSError:
                    continue
                return f"Port {other} is free: --port {other}"
        return "Give another one with --port."


def _bind(host: str, port: int) -> None:
    (family, kind, protocol, _, where), *_ = socket.getaddrinfo(
        host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(where)
        probe.listen()  # two may be bound to one port, but only one listens
