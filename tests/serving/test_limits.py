"""What the service refuses, what it does not compute, and how it ends."""

import json
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

TEXT = {"inputs": "the old river ran to the town"}


def raw(service, content):
    """Sends bytes and gives what comes back until the service closes the connection."""
    with service.connect() as connection:
        connection.sendall(content)
        received = b""
        while chunk := connection.recv(65536):
            received += chunk
    return received


def wait(condition):
    """Waits until something is true."""
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def head(length, *lines):
    return "\r\n".join(
        [
            "POST /embed HTTP/1.1",
            "Host: a",
            "Content-Type: application/json",
            f"Content-Length: {length}",
            *lines,
            "",
            "",
        ]
    ).encode()


def test_overload_returns_429_and_recovers(start):
    service = start("--max_queue_tokens", 60, "--max_wait_ms", 300)
    with ThreadPoolExecutor(24) as pool:
        answers = list(pool.map(lambda _: service.post("/embed", TEXT), range(96)))
    assert {answer.status for answer in answers} == {200, 429}
    refused = next(answer for answer in answers if answer.status == 429)
    assert int(refused.headers["retry-after"]) >= 1
    assert refused.json() == {"error": "Model is overloaded", "error_type": "Overloaded"}
    assert service.post("/embed", TEXT).status == 200


def test_concurrent_requests_are_limited(start):
    service = start("--max_concurrent_requests", 2, "--max_wait_ms", 500)
    with ThreadPoolExecutor(6) as pool:
        statuses = sorted(pool.map(lambda _: service.post("/embed", TEXT).status, range(6)))
    assert statuses[:2] == [200, 200] and statuses[-1] == 429
    assert service.get("/health").status == 200


def test_bodies_are_limited(start):
    service = start("--payload_limit", 1000, "--max_client_batch_size", 2)
    for length in (1000, 5_000_000):
        assert service.post("/embed", {"inputs": "a" * length}).status == 413
    assert service.post("/embed", {"inputs": ["a", "b", "c"]}).status == 413
    assert service.post("/embed", {"inputs": ["a", "b"]}).status == 200
    assert b" 413 " in raw(service, head(1 << 40))  # refused by what the header says
    chunks = b"".join(b"%x\r\n%s\r\n" % (200, b" " * 200) for _ in range(9)) + b"0\r\n\r\n"
    request = head(0).replace(b"Content-Length: 0", b"Transfer-Encoding: chunked") + chunks
    assert b" 413 " in raw(service, request)


def test_a_client_that_trickles_does_not_block_others(start):
    service = start("--body_timeout", 1.5)
    stop = threading.Event()
    ends = []

    def trickle(start_of_request):
        with service.connect() as connection:
            started = time.monotonic()
            connection.sendall(start_of_request)
            connection.settimeout(0.2)
            received = b""
            while not stop.is_set():
                try:
                    connection.sendall(b"x")
                    chunk = connection.recv(65536)
                except TimeoutError:
                    continue
                except OSError:
                    break
                if not chunk:
                    break
                received += chunk
            ends.append((time.monotonic() - started, received))

    threads = [threading.Thread(target=trickle, args=(content,)) for content in (head(1000), b"POST /embed HT")]
    for thread in threads:
        thread.start()
    assert service.post("/embed", TEXT).status == 200
    for thread in threads:
        thread.join(20)
    stop.set()
    assert all(seconds < 15 for seconds, _ in ends) and len(ends) == 2
    assert any(b" 408 " in received for _, received in ends)


def test_requests_of_disconnected_clients_are_not_computed(start):
    service = start("--max_wait_ms", 3000)
    body = json.dumps(TEXT).encode()
    with service.connect() as connection:
        connection.sendall(head(len(body)) + body)
        wait(lambda: service.metric("bert_queued_tokens") > 0)
    with service.connect() as connection:  # leaves in the middle of the body
        connection.sendall(head(1000) + body)
    wait(lambda: sum(line.get("status") == 499 for line in service.lines) == 2)
    time.sleep(3)
    assert service.metric("bert_batch_rows_count") == 0
    assert service.metric("bert_queued_tokens") == 0


def test_an_answer_that_takes_too_long(start):
    service = start("--request_timeout", 0.3, "--max_wait_ms", 1000)
    assert service.post("/embed", TEXT).status == 504
    assert service.metric("bert_queued_tokens") == 0


def test_the_api_key_is_required(start):
    service = start(env={"API_KEY": "secret"})
    for path in ("/health", "/metrics", "/", "/docs"):
        assert service.get(path).status == 200
    for headers in ({}, {"Authorization": "Bearer other"}, {"Authorization": "secret"}):
        answer = service.post("/embed", TEXT, **headers)
        assert answer.status == 401 and answer.headers["www-authenticate"] == "Bearer"
        assert service.get("/info", **headers).status == 401
    assert service.post("/embed", TEXT, Authorization="Bearer secret").status == 200


def test_other_pages_may_call_only_where_asked(start, service):
    origin = {"Origin": "https://example.org"}
    assert "access-control-allow-origin" not in service.post("/embed", TEXT, **origin).headers
    allowing = start("--cors_origin", "https://example.org")
    assert allowing.post("/embed", TEXT, **origin).headers["access-control-allow-origin"] == "https://example.org"
    other = allowing.post("/embed", TEXT, Origin="https://example.com")
    assert "access-control-allow-origin" not in other.headers


def test_the_log_has_one_line_for_each_request_and_no_text(service):
    before = len(service.lines)
    service.post("/embed", {"inputs": "marmalade"})
    service.get("/marmalade?marmalade")
    time.sleep(0.5)
    lines = service.lines[before:]
    assert [line["status"] for line in lines] == [200, 404]
    assert lines[0]["model"] == "pretraining" and lines[0]["tokens"] > 2 and lines[0]["duration_ms"] > 0
    assert "marmalade" not in json.dumps(lines[0])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_requests_finish_and_refuses_new_ones(start, number):
    service = start("--max_wait_ms", 3000)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(service.post, "/embed", TEXT)
        wait(lambda: service.metric("bert_requests_in_flight") == 1)
        service.process.send_signal(number)
        time.sleep(0.5)
        with pytest.raises(OSError):
            service.connect()
        assert answer.result().status == 200
    assert service.process.wait(30) == (0 if number == signal.SIGTERM else 130)


def test_several_processes_share_the_port(start):
    service = start("--num_workers", 2)
    with ThreadPoolExecutor(8) as pool:
        answers = [answer.json() for answer in pool.map(lambda _: service.post("/embed", TEXT), range(40))]
    assert all(answer == answers[0] for answer in answers)
    assert service.metric("bert_requests_total") >= 40
    assert service.stop() == 0
