"""Connects the ranks of a job before the framework is imported.

The framework waits forever for a missing rank. If a rank is lost later, the others wait for a long time or abort with
unclear messages. Therefore every rank first connects to rank 0 at the launcher's address and port, rank 0 checks that
all of them belong to the same job, and each rank forks a watcher (launch/watcher.py) that keeps the connection open
until the end.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from launch import ending
from launch.connection import Connection, listen
from launch.launcher import is_launcher
from launch.ranks import rank, size
from utils.errors import UserError

_PR_SET_PDEATHSIG = 1


def meet(join_timeout: float, stop_timeout: float, flags: Mapping[str, Any] | None = None) -> None:
    """Connects the ranks of a job that the launcher (or Slurm) started. Does nothing in a job of one process.

    Call it in the main thread, before the framework is imported. Afterwards LOCAL_WORLD_SIZE holds the number of ranks
    that share this rank's cores.

    Args:
        join_timeout: seconds to wait for the other ranks.
        stop_timeout: seconds that this process may continue after SIGTERM, Ctrl-C or the end of its launcher.
        flags: the flags that must be equal on all ranks.

    Raises:
        UserError: the other ranks do not connect in time, the port is in use, or the ranks do not belong to one job.
    """
    if size() == 1 or ending.is_watched():
        return
    ending.announce_meeting()
    # The kernel sends this process SIGTERM when the launcher ends for any reason; it may have ended already.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() == 1 and "local_rank_" in os.environ.get("GLOG_log_dir", "") and not is_launcher(1):
        raise UserError(f"the launcher of rank {rank()} has ended: start the job again.")
    os.environ.setdefault("grpc_proxy", "")  # otherwise the framework would contact other ranks through the web proxy
    deadline = time.monotonic() + join_timeout
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    signal.signal(signal.SIGTERM, _stop_meeting)  # the launcher sends it if another rank has ended
    gather_or_reach = _gather if rank() == 0 else _reach
    peers, sharing = gather_or_reach(host, port, join_timeout, json.loads(json.dumps(flags or {})))
    os.environ["LOCAL_WORLD_SIZE"] = str(sharing)  # OneFlow's launcher does not set it
    ending.start_watcher(peers, stop_timeout)
    if rank():
        _wait_for_framework(host, port, join_timeout, deadline)


def _stop_meeting(number: int, frame: FrameType | None) -> NoReturn:
    raise UserError(f"rank {rank()} was stopped by SIGTERM while it waited for the other ranks.")


def _gather(host: str, port: int, timeout: float, flags: dict[str, Any]) -> tuple[list[Connection], int]:
    """Rank 0's part: waits for all other ranks. Returns the connections to them, and how many ranks share its cores."""
    deadline = time.monotonic() + timeout
    peers: dict[int, Connection] = {}
    cores = {0: _cores()}
    with listen(host, port) as listener:
        try:
            while len(peers) < size() - 1:
                sources: list[Any] = [*peers.values(), listener]
                ready = select.select(sources, [], [], max(0.01, deadline - time.monotonic()))[0]
                if not ready:
                    missing = ", ".join(str(rank) for rank in range(1, size()) if rank not in peers)
                    raise UserError(
                        f"rank {missing} of {size()} did not connect to {host}:{port} within {timeout:g} s: start the "
                        "launcher on every host, with the same --nnodes, --master_addr and --master_port."
                    )
                for source in ready:
                    if source is not listener:
                        _forget_if_closed(source, peers)
                        continue
                    try:
                        peer, hello = _welcome(listener, flags, peers)
                        peers[peer.rank], cores[peer.rank] = peer, str(hello.get("cores"))
                    except (OSError, ValueError, KeyError, TypeError):
                        pass  # not one of our ranks
        except UserError as error:
            for peer in peers.values():
                peer.send(kind="error", sentence=f"rank 0 on {socket.gethostname()}: {error}")
            raise
    for peer in peers.values():
        peer.keep_alive()
        peer.send(kind="start", sharing=[*cores.values()].count(cores[peer.rank]))
    return [*peers.values()], [*cores.values()].count(cores[0])


def _welcome(
    listener: socket.socket, flags: dict[str, Any], peers: Mapping[int, Connection]
) -> tuple[Connection, dict[str, Any]]:
    """Accepts a rank; returns the connection and the rank's hello, or raises UserError on both sides."""
    connection, address = listener.accept()
    connection.settimeout(5)
    peer = Connection(connection, -1, "")
    hello = peer.next()
    peer.rank, peer.where = int(hello["rank"]), f"pid {int(hello['pid'])} on {address[0]}"
    if hello["kind"] == "error":
        raise UserError(f"rank {peer.rank} on {address[0]}: {hello['sentence']}")
    if hello["local_rank"] is not None:
        peer.host_and_local_rank = (address[0], hello["local_rank"])
    mistake = (
        _wrong_number(peer, hello, peers, address[0])
        or _two_launchers(peer, peers, connection.getsockname()[0])
        or _wrong_command(peer, hello, address[0])
        or _wrong_flags(peer, hello, flags, address[0])
    )
    if mistake:
        peer.send(kind="error", sentence=mistake)
        raise UserError(mistake)
    return peer, hello


def _wrong_number(peer: Connection, hello: dict[str, Any], peers: Mapping[int, Connection], host: str) -> str | None:
    if hello["size"] == size() and 0 < peer.rank < size() and peer.rank not in peers:
        return None
    return (
        f"rank {peer.rank} of {hello['size']} from {host} does not belong to this job of {size()}: give every "
        "host the same --nnodes and --nproc_per_node, and its own --node_rank."
    )


def _two_launchers(peer: Connection, peers: Mapping[int, Connection], own_host: str) -> str | None:
    """An error message if two ranks on one host have the same local rank, which would hang or crash the framework."""
    taken = {other.host_and_local_rank: other.rank for other in peers.values() if other.host_and_local_rank}
    taken[own_host, os.environ.get("LOCAL_RANK", "")] = 0
    if peer.host_and_local_rank not in taken:
        return None
    return (
        f"rank {taken[peer.host_and_local_rank]} and rank {peer.rank} were started by two launchers on one host, "
        f"{peer.host_and_local_rank[0]}: start one launcher on each host, and set the number of its ranks with "
        "--nproc_per_node."
    )


def _wrong_command(peer: Connection, hello: dict[str, Any], host: str) -> str | None:
    if hello["command"] == _command():
        return None
    return (
        f"rank {peer.rank} on {host} runs {hello['command']}, the first rank {_command()}: start the same command on "
        "every host."
    )


def _wrong_flags(peer: Connection, hello: dict[str, Any], flags: dict[str, Any], host: str) -> str | None:
    theirs = hello["flags"]
    differing = [name for name in {**flags, **theirs} if theirs.get(name) != flags.get(name)]
    if not differing:
        return None
    here, there = (" ".join(f"--{name} {each.get(name)}" for name in differing) for each in (flags, theirs))
    return (
        f"rank {peer.rank} on {host} was started with {there}, the first rank with {here}: give every host "
        "the same flags."
    )


def _forget_if_closed(peer: Connection, peers: dict[int, Connection]) -> None:
    try:
        peer.receive()
    except OSError:
        peer.socket.close()
        del peers[peer.rank]  # it may be restarted


def _reach(host: str, port: int, timeout: float, flags: dict[str, Any]) -> tuple[list[Connection], int]:
    """The other ranks' part: tries to connect until rank 0 answers. Returns the same as `_gather`."""
    start, reason = time.monotonic(), "no answer"
    while (left := timeout - (time.monotonic() - start)) > 0:
        try:
            connection = socket.create_connection((host, port), timeout=min(left, 5))
            peer = Connection(connection, 0, f"{host}:{port}")
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
            peer.keep_alive()
            return [peer], int(answer["sharing"])
        except (OSError, KeyError) as error:
            reason = getattr(error, "strerror", None) or str(error) or "the connection was closed"
            time.sleep(min(0.05, left))
    raise UserError(
        f"rank {rank()} could not reach the first rank at {host}:{port} within {timeout:g} s ({reason}): check the "
        "launcher's --master_addr and --master_port, and that it runs on the first host."
    )


def _wait_for_framework(host: str, port: int, timeout: float, deadline: float) -> None:
    # Next, the framework of rank 0 listens at the same address. A rank that connects earlier would wait 10 s or more.
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


def _cores() -> str:
    """An identifier of the cores this process may use; ranks with equal identifiers share them."""
    machine = Path("/proc/sys/kernel/random/boot_id").read_text().strip()  # host names need not be unique
    return f"{sum(1 << core for core in os.sched_getaffinity(0)):x} of {machine}"


def _command() -> str:
    return Path(sys.argv[0]).name
