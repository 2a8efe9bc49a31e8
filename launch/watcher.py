"""A small process next to each rank that ends the rank when the job must end.

Watchers are separate processes, because a rank can be stuck inside the framework, where no Python code runs. Each
watcher is connected to its rank and to rank 0's watcher, which decides. An error message or a closed connection ends
the job on every host: each watcher passes the sentence on, terminates the launcher, kills its rank and prints the
sentence once per host.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import sys
import time
from dataclasses import dataclass
from typing import Any, NoReturn

from launch.connection import Connection
from launch.launcher import terminate_launcher, wait_for_launcher
from launch.ranks import rank


def watch(
    own: Connection, peers: list[Connection], signals: socket.socket, launcher: int, stop_timeout: float
) -> NoReturn:
    """Watches a rank until it leaves or the job fails. Runs in a child of the rank and ends that child.

    Args:
        own: the connection to the rank.
        peers: the connections to all other ranks' watchers (on rank 0), or to rank 0's watcher (on the others).
        signals: becomes readable when the rank receives a signal.
        launcher: the process id of the rank's launcher.
        stop_timeout: seconds that the rank may continue after a signal.
    """
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    watcher = _Watcher(own, peers, launcher, rank_process=os.getppid())
    deadline = float("inf")
    while True:
        wait = None if deadline == float("inf") else max(0.0, deadline - time.monotonic())
        # Peers come first, because another rank's error message explains more than the end of our own rank.
        sources: list[Any] = [*peers, signals, own]
        ready = select.select(sources, [], [], wait)[0]
        if time.monotonic() >= deadline:
            watcher.end(
                f"still running {stop_timeout:g} s after the stop signal; --resume continues from the last checkpoint."
            )
        for source in ready:
            if source is not signals:
                watcher.handle(source)
            elif signals.recv(64):
                deadline = min(deadline, time.monotonic() + stop_timeout)


@dataclass
class _Watcher:
    """The state of a watcher; the arguments are those of `watch`."""

    own: Connection
    peers: list[Connection]
    launcher: int
    rank_process: int
    leaving: bool = False

    def handle(self, connection: Connection) -> None:
        """Handles the messages that have arrived on a connection."""
        try:
            messages = connection.receive()
        except OSError:
            self._handle_closed(connection)
            return
        for message in messages:
            kind, sentence = message.get("kind"), str(message.get("sentence"))
            if kind == "error" and connection is self.own and rank():
                self.end(f"rank {rank()} on {socket.gethostname()}: {sentence}")
            elif kind == "error":
                self.end(self._own_error() or sentence)
            elif kind == "stopped" and not self.leaving:
                self.end(
                    f"rank {rank()} on {socket.gethostname()} was stopped by {message.get('signal')} while it was not "
                    "training; --resume continues from the last checkpoint."
                )
            elif kind == "done":
                connection.done = True
            elif kind == "leave":
                self._leave()
        if rank() == 0 and all(each.done for each in (self.own, *self.peers)):
            self._leave()
        elif rank() and connection is self.own and connection.done:
            self.peers[0].send(kind="done")

    def _handle_closed(self, connection: Connection) -> None:
        if self.leaving and connection is self.own:
            os._exit(0)
        if self.leaving:
            self.peers.remove(connection)
            return
        self.end(
            f"rank {connection.rank} ({connection.where}) is lost: it was killed, it crashed, or its host cannot be "
            "reached; --resume continues from the last checkpoint.",
            # If rank 0's watcher is lost, no other process prints the sentence.
            prints=rank() == 1 and connection is not self.own,
        )

    def _own_error(self) -> str | None:
        # If all ranks have the same wrong flag, rank 0 reports its own error.
        if self.own.fileno() in select.select([self.own.fileno()], [], [], 0.5)[0]:
            with contextlib.suppress(OSError):
                for message in self.own.receive():
                    if message.get("kind") == "error":
                        return str(message.get("sentence"))
        return None

    def _leave(self) -> None:
        self.leaving = True
        for connection in (self.own, *self.peers) if rank() == 0 else (self.own,):
            connection.send(kind="leave")

    def end(self, sentence: str, prints: bool = False) -> NoReturn:
        """Tells the other watchers, ends the launcher and the rank, and prints the sentence once per host."""
        for peer in self.peers:
            peer.send(kind="error", sentence=sentence)
        launcher = terminate_launcher(self.launcher)
        with contextlib.suppress(OSError):
            if os.getppid() == self.rank_process:
                os.kill(self.rank_process, signal.SIGKILL)
        wait_for_launcher(launcher)
        if prints or os.environ.get("LOCAL_RANK", "0") == "0":
            print(f"error: {sentence}", file=sys.stderr, flush=True)
        os._exit(1)
