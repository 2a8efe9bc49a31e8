"""Connections between ranks, which transmit one JSON object per line.

Messages by `kind`:
    hello   a rank introduces itself to rank 0
    start   rank 0's reply once all ranks have connected
    error   ends the meeting or the job; contains the `sentence` to print
    stopped a rank received a `signal` outside training (to its own watcher only)
    done    a rank has finished (sent towards rank 0)
    leave   rank 0's reply once all ranks have finished
"""

from __future__ import annotations

import contextlib
import json
import socket
from typing import Any

from utils.errors import UserError

LONGEST_MESSAGE = 1 << 16  # bytes
LOOPBACK = ("localhost", "127.0.0.1")


class Connection:
    """A socket that transmits messages.

    Attributes:
        rank: the rank at the other end.
        where: a description of the other end for messages, such as "pid 7 on 10.0.0.2".
        done: whether the rank at the other end has finished.
        host_and_local_rank: the other end's address and local rank, if its launcher set one.
    """

    def __init__(self, connection: socket.socket, rank: int, where: str) -> None:
        self.socket, self.rank, self.where = connection, rank, where
        self.done = False
        self.host_and_local_rank: tuple[str, str] | None = None
        self._buffer = b""

    def fileno(self) -> int:
        return self.socket.fileno()

    def send(self, **message: Any) -> None:
        """Sends a message. A lost peer is not an error here; reading from the connection detects it."""
        with contextlib.suppress(OSError):
            self.socket.sendall(json.dumps(message).encode() + b"\n")

    def receive(self) -> list[dict[str, Any]]:
        """The messages that have arrived; raises OSError if the connection is closed or the data is invalid."""
        data = self.socket.recv(4096)
        if not data or len(self._buffer) > LONGEST_MESSAGE:
            raise ConnectionResetError
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        try:
            messages = [json.loads(line) for line in lines]
        except ValueError:
            raise ConnectionResetError from None
        return [message for message in messages if isinstance(message, dict)]

    def next(self) -> dict[str, Any]:
        """Waits for the next message; raises the same errors as `receive`."""
        while not (messages := self.receive()):
            pass
        return messages[0]

    def keep_alive(self) -> None:
        """Makes the kernel close the connection about 7 seconds after the other host disappears."""
        self.socket.settimeout(None)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        # The first probe after 3 s without traffic, then 4 more at intervals of 1 s.
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 3)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 7000)


def listen(host: str, port: int) -> socket.socket:
    """Opens rank 0's listening socket at the launcher's address, or at all addresses if it is not one of this host.

    Raises:
        UserError: the host is unknown or the port cannot be used.
    """
    # create_server sets SO_REUSEADDR, so that the framework can listen on this port while our connections are open.
    for address in (host, ""):
        try:
            # Many hosts resolve their own name to 127.0.1.1, where other hosts cannot reach them.
            if address and socket.gethostbyname(address).startswith("127.") and address not in LOOPBACK:
                continue
            return socket.create_server((address, port), backlog=128)
        except socket.gaierror:
            raise UserError(f"the launcher's --master_addr {host} is not a known host.") from None
        except OSError as error:
            reason = error.strerror
    raise UserError(f"the launcher's --master_port {port} cannot be used here ({reason}): choose another one.")
