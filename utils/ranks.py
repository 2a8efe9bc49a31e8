"""The processes of one job: how they find each other, and how they end together.

The framework waits without limit for a rank that never comes, and a rank whose neighbour is gone may wait for minutes.
So, before the framework is imported, every rank connects to the first one at the launcher's address and port, and the
connections stay: whoever fails says so on them, a closed one is a rank that was lost, and the kernel's keep-alive
notices a host that vanished. A thread in each rank listens. It needs no cooperation of a main thread that is stuck.

Messages are lines of JSON: hello (a rank to the first), start (back, when all are there), error (both ways, ends the
job), done (a rank to the first), leave (back, when all are done).
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import json
import os
import select
import signal
import socket
import sys
import threading
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

from utils.errors import UserError

LAUNCHER = b"oneflow.distributed.launch"
LONGEST_MESSAGE = 8192  # bytes


def rank() -> int:
    """This process's number in its job."""
    return max(0, int(os.environ.get("RANK", "0")))  # alone, the framework sets it to -1


def size() -> int:
    """The number of processes in the job."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def meet(join_timeout: float, stop_timeout: float) -> None:
    """Connects the ranks of the job that the launcher (or Slurm) started; alone it does nothing.

    To be called in the main thread, before the framework is imported.

    Args:
        join_timeout: seconds to wait for the others.
        stop_timeout: seconds that a process may live on after SIGTERM, Ctrl-C or its launcher's end.

    Raises:
        UserError: the others did not come in time, the port is taken, or the ranks do not fit together.
    """
    global _job
    if size() == 1:
        return
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    peers = _gather(host, port, join_timeout) if rank() == 0 else {0: _reach(host, port, join_timeout)}
    _job = _Job(peers, stop_timeout)
    sys.excepthook = _fail_with_traceback
    # The launcher's end is a SIGTERM to its ranks, however it came about.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    # The framework's import waits for the other ranks and lets no thread run meanwhile: bounded from outside.
    faulthandler.dump_traceback_later(max(join_timeout, 1), exit=True)


def joined() -> None:
    """To be called when the framework is imported."""
    faulthandler.cancel_dump_traceback_later()


def fail(sentence: str, code: int) -> None:
    """Ends the whole job with one sentence; alone, or before the ranks have met, it does nothing."""
    if _job:
        _job.fail(sentence, code)


def leave(code: int) -> None:
    """Ends this process with `code` when all ranks have come here; alone it does nothing.

    The framework takes the end of one rank, however orderly, for a failure in those that still work.
    """
    if _job:
        _job.leave(code)


_PR_SET_PDEATHSIG = 1
_SIG_IGN = 1
_job: _Job | None = None


@dataclass
class _Peer:
    rank: int
    where: str
    socket: socket.socket
    buffer: bytes = b""
    done: bool = False

    def send(self, **message: Any) -> None:
        with contextlib.suppress(OSError):  # whoever is gone is noticed by reading
            self.socket.sendall(json.dumps(message).encode() + b"\n")

    def receive(self) -> list[dict[str, Any]]:
        """What has come; raises OSError when the connection is closed, or talks nonsense."""
        data = self.socket.recv(4096)
        if not data or len(self.buffer) > LONGEST_MESSAGE:
            raise ConnectionResetError
        *lines, self.buffer = (self.buffer + data).split(b"\n")
        try:
            messages = [json.loads(line) for line in lines]
        except ValueError:
            raise ConnectionResetError from None
        return [message for message in messages if isinstance(message, dict)]


class _Job:
    def __init__(self, peers: dict[int, _Peer], stop_timeout: float) -> None:
        self.peers, self.stop_timeout = peers, stop_timeout
        self.done = False
        self.all_done, self.ended = threading.Event(), threading.Event()
        self._ending = threading.Lock()
        signals, wakeup = socket.socketpair()
        for end in (signals, wakeup):
            end.setblocking(False)
        self._signals, self._wakeup = signals, wakeup
        signal.set_wakeup_fd(wakeup.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=self._listen, daemon=True, name="ranks").start()

    def fail(self, sentence: str, code: int) -> NoReturn:
        if rank() == 0:
            self._end(sentence, code)
        self.peers[0].send(kind="error", sentence=f"rank {rank()} on {socket.gethostname()}: {sentence}"[:4096])
        if not self.ended.wait(2):  # normally the first rank says it, and ends this one
            self._end(sentence, code, speaks=True)
        time.sleep(5)  # until the listening thread has ended the process
        os._exit(code)

    def leave(self, code: int) -> NoReturn:
        sys.stdout.flush()
        sys.stderr.flush()
        self.done = True
        if rank() == 0:
            self._see_who_is_done()
        else:
            self.peers[0].send(kind="done")
        self.all_done.wait()
        os._exit(code)

    def _listen(self) -> None:
        deadline = float("inf")
        while True:
            sources: dict[socket.socket, _Peer] = {peer.socket: peer for peer in self.peers.values()}
            wait = None if deadline == float("inf") else max(0.0, deadline - time.monotonic())
            ready, _, _ = select.select([*sources, self._signals], [], [], wait)
            if time.monotonic() >= deadline:
                self._end(f"no checkpoint within {self.stop_timeout:g} s of the signal to stop.", 128 + signal.SIGTERM)
            for source in ready:
                if source is self._signals:
                    self._signals.recv(64)
                    deadline = min(deadline, time.monotonic() + self.stop_timeout)
                else:
                    self._hear(sources[source])

    def _hear(self, peer: _Peer) -> None:
        try:
            messages = peer.receive()
        except OSError:
            if peer.done or self.all_done.is_set():
                del self.peers[peer.rank]
                return
            self._end(
                f"rank {peer.rank} ({peer.where}) is gone: it was killed, it crashed, or its host cannot be reached. "
                "--resume goes on from the last checkpoint.",
                1,
                speaks=rank() <= 1 or os.environ.get("LOCAL_RANK") == "0",  # the first rank may be the one that is gone
            )
        for message in messages:
            kind = message.get("kind")
            if kind == "error":
                self._end(str(message.get("sentence")), 1)
            elif kind == "done":
                peer.done = True
                self._see_who_is_done()
            elif kind == "leave":
                self.all_done.set()

    def _see_who_is_done(self) -> None:
        if self.done and all(peer.done for peer in self.peers.values()):
            for peer in self.peers.values():
                peer.send(kind="leave")
            self.all_done.set()

    def _end(self, sentence: str, code: int, speaks: bool | None = None) -> NoReturn:
        """Tells the others, waits for the launcher's last words, and (by default the first rank) says the last ones."""
        if not self._ending.acquire(blocking=False):
            time.sleep(60)  # another thread is at it, and ends the process
        self.ended.set()
        ctypes.CDLL(None).signal(signal.SIGTERM, _SIG_IGN)  # the launcher is about to send it
        if rank() == 0:
            for peer in self.peers.values():
                peer.send(kind="error", sentence=sentence)
        _end_launcher()
        if rank() == 0 if speaks is None else speaks:
            print(f"error: {sentence}", file=sys.stderr, flush=True)
        os._exit(code)


def _end_launcher() -> None:
    # Asked to stop it leaves at once, and without a traceback of its own below the rank's error.
    parent = os.getppid()
    try:
        if LAUNCHER not in Path(f"/proc/{parent}/cmdline").read_bytes():
            return
        os.kill(parent, signal.SIGTERM)
    except OSError:
        return
    patience = time.monotonic() + 3
    while os.getppid() == parent and time.monotonic() < patience:
        time.sleep(0.01)


def _fail_with_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    traceback.print_exception(kind, error, trace)
    sys.stderr.flush()
    fail("".join(traceback.format_exception_only(kind, error)).strip(), 1)


def _gather(host: str, port: int, timeout: float) -> dict[int, _Peer]:
    """The first rank's part: waits for all others."""
    deadline = time.monotonic() + timeout
    peers: dict[int, _Peer] = {}
    with _listening_socket(host, port) as listener:
        while len(peers) < size() - 1:
            listener.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                connection, address = listener.accept()
            except TimeoutError:
                missing = ", ".join(str(r) for r in range(1, size()) if r not in peers)
                raise UserError(
                    f"rank {missing} of {size()} did not come to {host}:{port} within {timeout:g} s: start the "
                    "launcher on every host, with the same --nnodes, --master_addr and --master_port."
                ) from None
            try:
                connection.settimeout(5)
                peer = _Peer(-1, "", connection)
                (hello,) = peer.receive()
                peer.rank, peer.where = int(hello["rank"]), f"pid {int(hello['pid'])} on {address[0]}"
                if hello["size"] != size() or not 0 < peer.rank < size() or peer.rank in peers:
                    raise UserError(
                        f"rank {peer.rank} of {hello['size']} from {address[0]} does not fit into this job of "
                        f"{size()}: give every host the same --nnodes and --nproc_per_node, and its own --node_rank."
                    )
            except (OSError, ValueError, KeyError, TypeError):
                connection.close()  # a stranger
                continue
            peers[peer.rank] = peer
    for peer in peers.values():
        _keep_alive(peer.socket)
        peer.send(kind="start")
    return peers


def _listening_socket(host: str, port: int) -> socket.socket:
    # With SO_REUSEADDR the framework can listen on the same port while our connections live on.
    for address in (host, ""):
        try:
            return socket.create_server((address, port), backlog=128)
        except socket.gaierror:
            raise UserError(f"the launcher's --master_addr {host} is not a known host.") from None
        except OSError as error:
            reason = error.strerror
    raise UserError(f"the launcher's --master_port {port} cannot be used here ({reason}): give it another one.")


def _reach(host: str, port: int, timeout: float) -> _Peer:
    """Another rank's part: tries until the first one answers."""
    start, reason = time.monotonic(), "no answer"
    peer: _Peer | None = None
    while (left := timeout - (time.monotonic() - start)) > 0:
        try:
            connection = socket.create_connection((host, port), timeout=min(left, 5))
            if peer:
                # This was the framework, listening in the first rank: whoever knocks before waits ten seconds or more.
                connection.close()
                return peer
            candidate = _Peer(0, f"{host}:{port}", connection)
            candidate.send(kind="hello", rank=rank(), size=size(), pid=os.getpid())
            connection.settimeout(left)
            if candidate.receive()[0].get("kind") == "start":
                _keep_alive(connection)
                peer = candidate
        except OSError as error:
            reason = error.strerror or str(error) or "the connection was closed"
            time.sleep(min(0.05, left))
    raise UserError(
        f"rank {rank()} could not reach the first rank at {host}:{port} within {timeout:g} s ({reason}): check the "
        "launcher's --master_addr and --master_port, and that it runs on the first host."
    )


def _keep_alive(connection: socket.socket) -> None:
    connection.settimeout(None)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    # A host that vanished is noticed after 3 + 4 * 1 seconds.
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 3)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 7000)
