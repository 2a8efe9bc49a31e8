"""serve.py as a process that tests ask."""

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FIXTURES = ROOT / "tests" / "fixtures" / "huggingface"


class Answer:
    """The answer to one request."""

    def __init__(self, response):
        self.status, self.headers, self.body = response.status, response.headers, response.read()

    def json(self):
        return json.loads(self.body)


class RunningService:
    """serve.py in a process of its own."""

    def __init__(self, *flags, models=("pretraining",), env=None):
        paths = [model if "=" in str(model) else str(FIXTURES / model) for model in models]
        command = [sys.executable, "serve.py", "--model_path", *paths, "--port", "0", *map(str, flags)]
        env = {**os.environ, "PYTHONPATH": str(ROOT), **(env or {})}
        self.process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True)
        self.lines, self._ready = [], threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        assert self._ready.wait(120) and self.process.poll() is None, self.lines
        self.url = next(line["url"] for line in self.lines if line["message"] == "starting")
        self.port = int(self.url.rsplit(":", 1)[1])

    def _read(self):
        for line in self.process.stdout:
            self.lines.append(json.loads(line))
            if self.lines[-1]["message"] == "ready":
                self._ready.set()
        self._ready.set()

    def request(self, method, path, body=None, headers=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        with contextlib.closing(connection):
            connection.request(method, path, body, headers or {})
            return Answer(connection.getresponse())

    def get(self, path, **headers):
        return self.request("GET", path, headers=headers)

    def post(self, path, content, **headers):
        """Posts JSON, or bytes as they are."""
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        return self.request("POST", path, body, {"Content-Type": "application/json", **headers})

    def connect(self):
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)

    def metric(self, name):
        """The sum of a metric over its labels."""
        lines = self.get("/metrics").body.decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.split("{")[0].split(" ")[0] == name)

    def stop(self, number=signal.SIGTERM):
        """Ends the service and gives its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(60)
        self._reader.join(10)
        return code


@contextlib.contextmanager
def running(*flags, **options):
    service = RunningService(*flags, **options)
    try:
        yield service
    finally:
        service.stop()
