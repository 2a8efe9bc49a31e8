"""Ends the ranks of a job together: `fail` ends all of them with one message, `leave` waits for all of them."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
import time
import traceback
from types import FrameType, TracebackType
from typing import NoReturn

from launch.connection import LOOPBACK, Connection, listen
from launch.launcher import terminate_launcher, wait_for_launcher
from launch.ranks import rank, size
from launch.watcher import watch
from utils.errors import UserError

_TELL_OTHER_HOSTS_FOR = 3  # seconds
_watched_rank: _WatchedRank | None = None
_meeting = False


def fail(sentence: str, code: int) -> None:
    """Ends the whole job with one message. Does nothing in a job of one process; does not return otherwise."""
    if size() == 1:
        return
    sys.stdout.flush()
    sys.stderr.flush()
    if _watched_rank:
        _watched_rank.fail(sentence)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    parent = os.getppid()
    if os.environ.get("LOCAL_RANK", "0") != "0":
        time.sleep(1)  # a wrong flag affects every rank: let the first rank of this host report it
        if os.getppid() != parent:
            os._exit(code)
    wait_for_launcher(terminate_launcher(parent))
    print(f"error: {sentence}", file=sys.stderr, flush=True)
    if not _meeting or rank() == 0:
        _tell_other_hosts(sentence)
    os._exit(code)


def leave(code: int) -> None:
    """Ends this process with `code` once all ranks have called this. Does nothing in a job of one process.

    The framework treats the end of one rank, even a normal one, as a failure in the ranks that still run.
    """
    if _watched_rank:
        _watched_rank.leave(code)


def announce_meeting() -> None:
    """Records that this rank takes part in the meeting, so that the others are told if it fails there."""
    global _meeting
    _meeting = True


def is_watched() -> bool:
    """Whether this rank has met the others and has a watcher."""
    return _watched_rank is not None


def start_watcher(peers: list[Connection], stop_timeout: float) -> None:
    """Forks this rank's watcher, and reports uncaught exceptions to it.

    Args:
        peers: connections to the other ranks, which the watcher takes over.
        stop_timeout: seconds that this rank may continue after a signal.
    """
    global _watched_rank
    _watched_rank = _WatchedRank(*_fork_watcher(peers, stop_timeout))
    _watched_rank.start()
    sys.excepthook = _fail_with_traceback


def _fork_watcher(peers: list[Connection], stop_timeout: float) -> tuple[Connection, socket.socket]:
    """Starts the watcher; returns the connection to it and the socket that wakes it on a signal."""
    ours, theirs = socket.socketpair()
    wakeup, signals = socket.socketpair()
    launcher, pid = os.getppid(), os.getpid()
    if os.fork() == 0:
        try:
            ours.close()
            wakeup.close()
            own = Connection(theirs, rank(), f"pid {pid} on {socket.gethostname()}")
            watch(own, peers, signals, launcher, stop_timeout)
        finally:
            os._exit(1)  # in any case, the child must not continue as a second rank
    theirs.close()
    signals.close()
    for peer in peers:
        peer.socket.close()
    return Connection(ours, rank(), "watcher"), wakeup


class _WatchedRank:
    """The rank's side of the connection to its watcher."""

    def __init__(self, watcher: Connection, wakeup: socket.socket) -> None:
        self._watcher, self._wakeup = watcher, wakeup
        self._all_done = threading.Event()

    def start(self) -> None:
        """Sends signals to the watcher and listens to it."""
        self._wakeup.setblocking(False)
        signal.set_wakeup_fd(self._wakeup.fileno(), warn_on_full_buffer=False)
        # Training installs its own handler, which saves a checkpoint (training/stopping.py).
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._report_signal)
        threading.Thread(target=self._listen, daemon=True, name="watcher").start()

    def _report_signal(self, number: int, frame: FrameType | None) -> None:
        self._watcher.send(kind="stopped", signal=signal.Signals(number).name)

    def fail(self, sentence: str) -> NoReturn:
        self._watcher.send(kind="error", sentence=sentence[:4096])
        time.sleep(20)  # the watcher ends this process
        os._exit(1)

    def leave(self, code: int) -> NoReturn:
        sys.stdout.flush()
        sys.stderr.flush()
        self._watcher.send(kind="done")
        self._all_done.wait()
        if code:
            terminate_launcher(os.getppid())
        os._exit(code)

    def _listen(self) -> None:
        try:
            while not any(message.get("kind") == "leave" for message in self._watcher.receive()):
                pass
            self._all_done.set()
        except OSError:
            os._exit(1)  # without the watcher, the other ranks treat this rank as lost


def _fail_with_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    traceback.print_exception(kind, error, trace)
    fail("".join(traceback.format_exception_only(kind, error)).strip(), 1)


def _tell_other_hosts(sentence: str) -> None:
    """Sends an error from before the meeting to ranks on other hosts that are waiting, or start within seconds."""
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    deadline = time.monotonic() + (0 if host in LOOPBACK else _TELL_OTHER_HOSTS_FOR)
    while (left := deadline - time.monotonic()) > 0:
        with contextlib.suppress(OSError, UserError):
            if rank():
                connection = socket.create_connection((host, port), timeout=left)
                Connection(connection, 0, host).send(kind="error", rank=rank(), pid=os.getpid(), sentence=sentence)
                return
            with listen(host, port) as listener:
                listener.settimeout(left)
                waiting = Connection(listener.accept()[0], -1, "")
                waiting.socket.settimeout(left)
                waiting.next()
                waiting.send(kind="error", sentence=f"rank 0 on {socket.gethostname()}: {sentence}")
                continue
        time.sleep(min(0.05, left))
