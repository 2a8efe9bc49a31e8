"""The processes of one job: how they find each other, and how they end together.

The framework waits without limit for a rank that never comes, and a rank whose neighbour is gone waits for long or
aborts with lines that explain nothing. So, before the framework is imported, every rank connects to the first one at
the launcher's address and port, and forks a small watcher that keeps the connection: whoever fails says so on it, a
closed one is a rank that was lost, and the kernel's keep-alive notices a host that vanished. The watcher of the first
rank has the last word. Being processes of their own, watchers act while a rank is stuck inside the framework.

Messages are lines of JSON: hello (a rank to the first), start (back, when all are there), error (ends the job, or the
meeting), done (towards the first), leave (back, when all are done).
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, NoReturn

from utils.errors import UserError

LAUNCHER = b"oneflow.distributed.launch"
LONGEST_MESSAGE = 1 << 16  # bytes


def rank() -> int:
    """This process's number in its job."""
    return max(0, int(os.environ.get("RANK", "0")))  # alone, the framework sets it to -1


def size() -> int:
    """The number of processes in the job."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def meet(join_timeout: float, stop_timeout: float, flags: Mapping[str, Any] | None = None) -> None:
    """Connects the ranks of the job that the launcher (or Slurm) started; alone it does nothing.

    To be called in the main thread, before the framework is imported. Afterwards LOCAL_WORLD_SIZE says how many ranks
    share this one's cores.

    Args:
        join_timeout: seconds to wait for the others.
        stop_timeout: seconds that a process may live on after SIGTERM, Ctrl-C or its launcher's end.
        flags: what all ranks must have been started with.

    Raises:
        UserError: the others did not come in time, the port is taken, or the ranks do not fit together.
    """
    global _job, _met
    if size() == 1 or _job:
        return
    _met = True
    # The launcher's end is a SIGTERM to its ranks, however it came about, or came about already.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() == 1 and "local_rank_" in os.environ.get("GLOG_log_dir", "") and not _is_launcher(1):
        raise UserError(f"the launcher of rank {rank()} is gone.")
    os.environ.setdefault("grpc_proxy", "")  # the framework would look for the other ranks behind the web's proxy
    deadline = time.monotonic() + join_timeout
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    signal.signal(signal.SIGTERM, _stop_meeting)  # the launcher's, where another rank ended already
    gather_or_reach = _gather if rank() == 0 else _reach
    peers, sharing = gather_or_reach(host, port, join_timeout, json.loads(json.dumps(flags or {})))
    os.environ["LOCAL_WORLD_SIZE"] = str(sharing)  # the launcher does not say it
    _job = _Job(peers, stop_timeout)
    sys.excepthook = _fail_with_traceback
    if rank():
        _wait_for_framework(host, port, join_timeout, deadline)


def fail(sentence: str, code: int) -> None:
    """Ends the whole job with one sentence; alone it does nothing, with others it does not return."""
    if size() == 1:
        return
    sys.stdout.flush()
    sys.stderr.flush()
    if _job:
        _job.fail(sentence)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    parent = os.getppid()
    if os.environ.get("LOCAL_RANK", "0") != "0":
        time.sleep(1)  # a wrong flag is every rank's, and the first one on this host says so
        if os.getppid() != parent:
            os._exit(code)
    launcher = _end_launcher(parent)
    if launcher is not None:
        select.select([launcher], [], [], 3)
    print(f"error: {sentence}", file=sys.stderr, flush=True)
    if not _met or rank() == 0:
        _tell_other_hosts(sentence)
    os._exit(code)


def leave(code: int) -> None:
    """Ends this process with `code` when all ranks have come here; alone it does nothing.

    The framework takes the end of one rank, however orderly, for a failure in those that still work.
    """
    if _job:
        _job.leave(code)


_PR_SET_PDEATHSIG = 1
_LOOPBACK = ("localhost", "127.0.0.1")
_TOLD_FOR = 3  # seconds
_met = False  # or tried to: who takes part in that hears of its failure there, but for those that come later
_job: _Job | None = None


class _Line:
    """A connection that carries messages."""

    def __init__(self, connection: socket.socket, rank: int, where: str) -> None:
        self.socket, self.rank, self.where = connection, rank, where
        self.buffer = b""
        self.done = False  # the rank at the other end is
        self.place: tuple[str, str] | None = None  # its host's address and its number there

    def fileno(self) -> int:
        return self.socket.fileno()

    def send(self, **message: Any) -> None:
        with contextlib.suppress(OSError):  # whoever is gone is noticed by reading
            self.socket.sendall(json.dumps(message).encode() + b"\n")

    def receive(self) -> list[dict[str, Any]]:
        """What has come; raises OSError where the connection is closed, or carries something else."""
        data = self.socket.recv(4096)
        if not data or len(self.buffer) > LONGEST_MESSAGE:
            raise ConnectionResetError
        *lines, self.buffer = (self.buffer + data).split(b"\n")
        try:
            messages = [json.loads(line) for line in lines]
        except ValueError:
            raise ConnectionResetError from None
        return [message for message in messages if isinstance(message, dict)]

    def next(self) -> dict[str, Any]:
        """The next message, waited for; raises as `receive` does."""
        while not (messages := self.receive()):
            pass
        return messages[0]


class _Job:
    """A rank's side: its line to its watcher, and the pipe by which its signals are known there."""

    def __init__(self, peers: list[_Line], stop_timeout: float) -> None:
        ours, theirs = socket.socketpair()
        wakeup, signals = socket.socketpair()
        launcher, me = os.getppid(), os.getpid()
        if os.fork() == 0:
            try:
                ours.close()
                wakeup.close()
                where = f"pid {me} on {socket.gethostname()}"
                _Watcher(_Line(theirs, rank(), where), signals, peers, launcher, stop_timeout)
            finally:
                os._exit(1)  # whatever happens, a second rank must not go on from here
        theirs.close()
        signals.close()
        for peer in peers:
            peer.socket.close()
        self._watcher = _Line(ours, rank(), "watcher")
        self._wakeup = wakeup
        wakeup.setblocking(False)
        signal.set_wakeup_fd(wakeup.fileno(), warn_on_full_buffer=False)
        # While training goes on, it has a handler of its own, and saves a checkpoint (training/loop.py).
        signal.signal(signal.SIGTERM, lambda number, frame: self._watcher.send(kind="stopped"))
        self._all_done = threading.Event()
        threading.Thread(target=self._listen, daemon=True, name="watcher").start()

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
            _end_launcher(os.getppid())
        os._exit(code)

    def _listen(self) -> None:
        try:
            while not any(message.get("kind") == "leave" for message in self._watcher.receive()):
                pass
            self._all_done.set()
        except OSError:
            os._exit(1)  # nobody watches any more: the others believe that this rank is gone


class _Watcher:
    """The process beside a rank that ends with it: `peers` are all other ranks' watchers, or the first one's."""

    def __init__(
        self, own: _Line, signals: socket.socket, peers: list[_Line], launcher: int, stop_timeout: float
    ) -> None:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        self.own, self.peers, self.launcher = own, peers, launcher
        self.rank_process = os.getppid()
        self.leaving = False
        deadline = float("inf")
        while True:
            wait = None if deadline == float("inf") else max(0.0, deadline - time.monotonic())
            sources: list[Any] = [*self.peers, signals, own]  # a word from another rank comes before this one's end
            ready = select.select(sources, [], [], wait)[0]
            if time.monotonic() >= deadline:
                self._end(
                    f"still busy {stop_timeout:g} s after the signal to stop; --resume goes on from the checkpoint."
                )
            for source in ready:
                if source is not signals:
                    self._hear(source)
                elif signals.recv(64):
                    deadline = min(deadline, time.monotonic() + stop_timeout)

    def _hear(self, line: _Line) -> None:
        try:
            messages = line.receive()
        except OSError:
            if self.leaving and line is self.own:
                os._exit(0)
            if self.leaving:
                self.peers.remove(line)
                return
            self._end(
                f"rank {line.rank} ({line.where}) is gone: it was killed, it crashed, or its host cannot be reached; "
                "--resume goes on from the last checkpoint.",
                speaks=rank() == 1 and line is not self.own,  # it is the first rank's watcher that is gone
            )
        for message in messages:
            kind, sentence = message.get("kind"), str(message.get("sentence"))
            if kind == "error" and line is self.own and rank():
                self._end(f"rank {rank()} on {socket.gethostname()}: {sentence}")
            elif kind == "error":
                self._end(self._own_mistake() or sentence)
            elif kind == "stopped" and not self.leaving:
                self._end(
                    f"rank {rank()} on {socket.gethostname()} was stopped by SIGTERM while it was not training; "
                    "--resume goes on from the last checkpoint."
                )
            elif kind == "done":
                line.done = True
            elif kind == "leave":
                self._leave()
        if rank() == 0 and all(each.done for each in (self.own, *self.peers)):
            self._leave()
        elif rank() and line is self.own and line.done:
            self.peers[0].send(kind="done")

    def _own_mistake(self) -> str | None:
        # Where all ranks were given the same wrong flag, the first one says so in its own name.
        if self.own.fileno() in select.select([self.own.fileno()], [], [], 0.5)[0]:
            with contextlib.suppress(OSError):
                for message in self.own.receive():
                    if message.get("kind") == "error":
                        return str(message.get("sentence"))
        return None

    def _leave(self) -> None:
        self.leaving = True
        for line in (self.own, *self.peers) if rank() == 0 else (self.own,):
            line.send(kind="leave")

    def _end(self, sentence: str, speaks: bool = False) -> NoReturn:
        """Tells the others, ends launcher and rank, and has the last word on its host (or where it `speaks`)."""
        for peer in self.peers:
            peer.send(kind="error", sentence=sentence)
        launcher = _end_launcher(self.launcher)
        with contextlib.suppress(OSError):
            if os.getppid() == self.rank_process:
                os.kill(self.rank_process, signal.SIGKILL)
        if launcher is not None:
            select.select([launcher], [], [], 3)
        if speaks or os.environ.get("LOCAL_RANK", "0") == "0":
            print(f"error: {sentence}", file=sys.stderr, flush=True)
        os._exit(1)


def _end_launcher(pid: int) -> int | None:
    """Asks the launcher to stop, which it does at once and without a traceback of its own; returns its pidfd."""
    with contextlib.suppress(OSError):
        handle = os.pidfd_open(pid)
        if _is_launcher(pid):
            signal.pidfd_send_signal(handle, signal.SIGTERM)
            return handle
    return None


def _is_launcher(pid: int) -> bool:
    return LAUNCHER in Path(f"/proc/{pid}/cmdline").read_bytes()


def _fail_with_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    traceback.print_exception(kind, error, trace)
    fail("".join(traceback.format_exception_only(kind, error)).strip(), 1)


def _stop_meeting(number: int, frame: FrameType | None) -> NoReturn:
    raise UserError(f"rank {rank()} was stopped by SIGTERM while it waited for the others to come.")


def _cores() -> str:
    """Names the cores that this process may use; all that say the same share them."""
    machine = Path("/proc/sys/kernel/random/boot_id").read_text().strip()  # a host's name may be others' as well
    return f"{sum(1 << core for core in os.sched_getaffinity(0)):x} of {machine}"


def _command() -> str:
    return Path(sys.argv[0]).name


def _gather(host: str, port: int, timeout: float, flags: dict[str, Any]) -> tuple[list[_Line], int]:
    """The first rank's part: waits for all others. Returns the lines to them, and how many ranks share its cores."""
    deadline = time.monotonic() + timeout
    peers: dict[int, _Line] = {}
    cores = {0: _cores()}
    with _listening_socket(host, port) as listener:
        try:
            while len(peers) < size() - 1:
                waited = max(0.01, deadline - time.monotonic())
                sources: list[Any] = [*peers.values(), listener]
                ready = select.select(sources, [], [], waited)[0]
                if not ready:
                    missing = ", ".join(str(rank) for rank in range(1, size()) if rank not in peers)
                    raise UserError(
                        f"rank {missing} of {size()} did not come to {host}:{port} within {timeout:g} s: start the "
                        "launcher on every host, with the same --nnodes, --master_addr and --master_port."
                    )
                for line in ready:
                    if line is not listener:
                        _forget_if_closed(line, peers)
                        continue
                    try:
                        peer, hello = _welcome(listener, flags, peers)
                        peers[peer.rank], cores[peer.rank] = peer, str(hello.get("cores"))
                    except (OSError, ValueError, KeyError, TypeError):
                        pass  # a stranger
        except UserError as error:
            for peer in peers.values():
                peer.send(kind="error", sentence=f"rank 0 on {socket.gethostname()}: {error}")
            raise
    for peer in peers.values():
        _keep_alive(peer.socket)
        peer.send(kind="start", sharing=[*cores.values()].count(cores[peer.rank]))
    return [*peers.values()], [*cores.values()].count(cores[0])


def _welcome(
    listener: socket.socket, flags: dict[str, Any], peers: Mapping[int, _Line]
) -> tuple[_Line, dict[str, Any]]:
    """A rank that has come, and its hello."""
    connection, address = listener.accept()
    connection.settimeout(5)
    peer = _Line(connection, -1, "")
    hello = peer.next()
    peer.rank, peer.where = int(hello["rank"]), f"pid {int(hello['pid'])} on {address[0]}"
    if hello["kind"] == "error":
        raise UserError(f"rank {peer.rank} on {address[0]}: {hello['sentence']}")
    mistake = None
    if hello["size"] != size() or not 0 < peer.rank < size() or peer.rank in peers:
        mistake = (
            f"rank {peer.rank} of {hello['size']} from {address[0]} does not fit into this job of {size()}: give every "
            "host the same --nnodes and --nproc_per_node, and its own --node_rank."
        )
    if hello["local_rank"] is not None:
        peer.place = (address[0], hello["local_rank"])
    taken = {line.place: line.rank for line in peers.values() if line.place}
    taken[connection.getsockname()[0], os.environ.get("LOCAL_RANK", "")] = 0
    if not mistake and peer.place in taken:  # the framework would hang, or abort without a word
        mistake = (
            f"rank {taken[peer.place]} and rank {peer.rank} come from two launchers on one host, {address[0]}: start "
            "one on each host, and say with --nproc_per_node how many ranks it has."
        )
    command, theirs = hello["command"], hello["flags"]
    if not mistake and command != _command():
        mistake = (
            f"rank {peer.rank} on {address[0]} runs {command}, the first rank {_command()}: start the same command on "
            "every host."
        )
    differing = [name for name in {**flags, **theirs} if theirs.get(name) != flags.get(name)]
    if not mistake and differing:
        here, there = (" ".join(f"--{name} {each.get(name)}" for name in differing) for each in (flags, theirs))
        mistake = (
            f"rank {peer.rank} on {address[0]} was started with {there}, the first rank with {here}: give every host "
            "the same flags."
        )
    if mistake:
        peer.send(kind="error", sentence=mistake)
        raise UserError(mistake)
    return peer, hello


def _forget_if_closed(line: _Line, peers: dict[int, _Line]) -> None:
    try:
        line.receive()
    except OSError:
        line.socket.close()
        del peers[line.rank]  # it may be started once more


def _listening_socket(host: str, port: int) -> socket.socket:
    # With SO_REUSEADDR the framework can listen on the same port while our connections live on.
    for address in (host, ""):
        try:
            # Many hosts call themselves 127.0.1.1, and are known to others under another address.
            if address and socket.gethostbyname(address).startswith("127.") and address not in _LOOPBACK:
                continue
            return socket.create_server((address, port), backlog=128)
        except socket.gaierror:
            raise UserError(f"the launcher's --master_addr {host} is not a known host.") from None
        except OSError as error:
            reason = error.strerror
    raise UserError(f"the launcher's --master_port {port} cannot be used here ({reason}): give it another one.")


def _reach(host: str, port: int, timeout: float, flags: dict[str, Any]) -> tuple[list[_Line], int]:
    """Another rank's part: tries until the first one answers. Returns what `_gather` does."""
    start, reason = time.monotonic(), "no answer"
    while (left := timeout - (time.monotonic() - start)) > 0:
        try:
            connection = socket.create_connection((host, port), timeout=min(left, 5))
            peer = _Line(connection, 0, f"{host}:{port}")
            peer.send(
                kind="hello",
                rank=rank(),
                size=size(),
                pid=os.getpid(),
                cores=_cores(),
                local_rank=os.environ.get("LOCAL_RANK"),
                command=_command(),
                flags=flags,
            )
            connection.settimeout(left)
            answer = peer.next()
            if answer.get("kind") == "error":
                raise UserError(str(answer.get("sentence")))
            _keep_alive(connection)
            return [peer], int(answer["sharing"])
        except (OSError, KeyError) as error:
            reason = getattr(error, "strerror", None) or str(error) or "the connection was closed"
            time.sleep(min(0.05, left))
    raise UserError(
        f"rank {rank()} could not reach the first rank at {host}:{port} within {timeout:g} s ({reason}): check the "
        "launcher's --master_addr and --master_port, and that it runs on the first host."
    )


def _tell_other_hosts(sentence: str) -> None:
    """What keeps this rank from meeting the others, for those on other hosts that wait for it, or will within
    seconds."""
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    deadline = time.monotonic() + (0 if host in _LOOPBACK else _TOLD_FOR)
    while (left := deadline - time.monotonic()) > 0:
        with contextlib.suppress(OSError, UserError):
            if rank():
                connection = socket.create_connection((host, port), timeout=left)
                _Line(connection, 0, host).send(kind="error", rank=rank(), pid=os.getpid(), sentence=sentence)
                return
            with _listening_socket(host, port) as listener:
                listener.settimeout(left)
                line = _Line(listener.accept()[0], -1, "")
                line.socket.settimeout(left)
                line.next()
                line.send(kind="error", sentence=f"rank 0 on {socket.gethostname()}: {sentence}")
                continue
        time.sleep(min(0.05, left))


def _wait_for_framework(host: str, port: int, timeout: float, deadline: float) -> None:
    # In the first rank it listens at the same place next; who asks before is told to wait for ten seconds and more.
    while True:
        try:
            socket.create_connection((host, port), timeout=5).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise UserError(
                    f"the first rank at {host}:{port} was not ready within {timeout:g} s: raise --join_timeout."
                ) from None
            time.sleep(0.05)


def _keep_alive(connection: socket.socket) -> None:
    connection.settimeout(None)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    # A host that vanished is noticed after 3 + 4 * 1 seconds.
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 3)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 7000)
