"""Messages over a socket, whole or in pieces, and what is refused."""

import socket

import pytest

from launch.connection import LONGEST_MESSAGE, Connection, listen
from utils.errors import UserError


@pytest.fixture
def pair():
    first, second = socket.socketpair()
    with first, second:
        yield Connection(first, 0, "first"), Connection(second, 1, "second")


def test_messages_arrive_in_order_and_split_messages_are_joined(pair):
    ours, theirs = pair
    ours.send(kind="hello", rank=3)
    ours.socket.sendall(b'{"kind": "do')
    assert theirs.receive() == [{"kind": "hello", "rank": 3}]
    ours.socket.sendall(b'ne"}\n[7]\n')
    assert theirs.next() == {"kind": "done"}


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\n", b"x" * (LONGEST_MESSAGE + 5000)])
def test_other_data_counts_as_a_closed_connection(pair, data):
    ours, theirs = pair
    ours.socket.sendall(data)
    with pytest.raises(OSError):
        theirs.next()


def test_a_closed_connection_is_noticed_by_the_reader_only(pair):
    ours, theirs = pair
    theirs.socket.close()
    ours.send(kind="done")
    with pytest.raises(OSError):
        ours.receive()


def test_a_port_in_use_and_an_unknown_host_are_named():
    with listen("127.0.0.1", 0) as taken, pytest.raises(UserError, match="--master_port"):
        listen("127.0.0.1", taken.getsockname()[1])
    with pytest.raises(UserError, match=r"--master_addr nowhere\.invalid"):
        listen("nowhere.invalid", 0)
