#!/usr/bin/env python3
"""How long a client waits: from POST /api/session/create to the first answer of its browser over DevTools.

Starts a Redis, a control plane and a replica of its own on free ports and takes them down again. "warm": a spare Chrome is
ready; "cold": none is, each session starts one. Python's standard library only.

    Tests/Benchmarks/sessions.py [--count 100] [--build debug|release] [--mode warm|cold|both]
"""

import argparse
import base64
import http.client
import json
import os
import shutil
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from urllib.parse import urlsplit

CHECKOUT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Socket:
    """As much of a WebSocket client (RFC 6455) as one question needs."""

    def __init__(self, url):
        parts = urlsplit(url)
        self.socket = socket.create_connection((parts.hostname, parts.port), timeout=60)
        key = base64.b64encode(os.urandom(16)).decode()
        self.socket.sendall(
            f"GET {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        self.rest = b""
        while b"\r\n\r\n" not in self.rest:
            self.rest += self.more()
        head, self.rest = self.rest.split(b"\r\n\r\n", 1)
        if b" 101 " not in head.split(b"\r\n")[0]:
            raise OSError(f"no WebSocket: {head[:200]!r}")

    def more(self):
        data = self.socket.recv(65536)
        if not data:
            raise OSError("the WebSocket was closed")
        return data

    def take(self, count):
        while len(self.rest) < count:
            self.rest += self.more()
        data, self.rest = self.rest[:count], self.rest[count:]
        return data

    def call(self, method):
        payload = json.dumps({"id": 1, "method": method}).encode()
        mask = os.urandom(4)
        masked = bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))
        self.socket.sendall(bytes([0x81, 0x80 | len(payload)]) + mask + masked)
        while True:
            first, length = self.take(2)
            length &= 0x7F
            if length == 126:
                (length,) = struct.unpack(">H", self.take(2))
            elif length == 127:
                (length,) = struct.unpack(">Q", self.take(8))
            answer = self.take(length)
            if first & 0x0F == 1 and json.loads(answer).get("id") == 1:
                return json.loads(answer)

    def close(self):
        self.socket.close()


class Berth:
    def __init__(self, build, pool):
        self.directory = tempfile.mkdtemp(prefix="berth-bench-")
        self.programs = []
        self.control, self.data, admin, first = free_port(), free_port(), free_port(), 20_000 + os.getpid() % 8_000
        config = os.path.join(self.directory, "berth.json")
        with open(config, "w") as file:
            json.dump({"pools": {"chrome": pool}, "routes": {"all": {"path": "/", "pool": "chrome"}}}, file)
        redis = f"{self.directory}/redis.sock"
        programs = os.path.join(CHECKOUT, ".build", build)
        environment = dict(os.environ, REDIS_URL=f"unix:{redis}")
        self.start(["redis-server", "--port", "0", "--unixsocket", redis, "--save", "", "--dir", self.directory])
        while not os.path.exists(redis):
            time.sleep(0.01)
        self.start(
            [f"{programs}/berth-control", "--config", config, "--listen", f"127.0.0.1:{self.control}"]
            + ["--state-directory", f"{self.directory}/state", "--port-range-start", str(first)]
            + ["--port-range-end", str(first + 500), "--public-url", f"http://127.0.0.1:{self.data}"]
            + ["--stop-instances-on-exit", "--drain-seconds", "1"],
            environment,
        )
        self.start(
            [f"{programs}/berth-data", "--listen", f"127.0.0.1:{self.data}", "--admin", f"127.0.0.1:{admin}"]
            + ["--workers", "1", "--drain-seconds", "1"],
            environment,
        )

    def start(self, words, environment=None):
        log = open(os.path.join(self.directory, os.path.basename(words[0]) + ".log"), "w")
        self.programs.append(subprocess.Popen(words, stdout=log, stderr=log, env=environment))

    def ask(self, method, path, body=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.control, timeout=60)
        try:
            connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    def wait(self, what, condition, seconds=90):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                if condition():
                    return
            except OSError:
                pass
            time.sleep(0.01)
        raise SystemExit(f"{what}: not within {seconds} s; see {self.directory}")

    def pool(self):
        return self.ask("GET", "/api/pools")[1]["pools"][0]

    def stop(self):
        for program in reversed(self.programs[1:]):
            program.send_signal(signal.SIGTERM)
            program.wait(60)
        self.programs[0].kill()
        self.programs[0].wait()
        shutil.rmtree(self.directory)


def measure(build, mode, count):
    pool = {"min": 0, "spare": 0, "max": 8} if mode == "cold" else {"min": 2, "spare": 2, "max": 8}
    berth = Berth(build, pool)
    times = []
    try:
        berth.wait("the control plane answers", lambda: berth.ask("GET", "/api/pools")[0] == 200)
        for _ in range(count):
            if mode == "cold":
                # The one before has gone.
                berth.wait("no instance is left", lambda: sum(berth.pool()["instances"].values()) == 0)
            else:
                states = lambda: berth.pool()["instances"]
                berth.wait("spares are ready", lambda: berth.pool()["freeSlots"] >= 2 and sum(states().values()) == 2)
            start = time.perf_counter()
            status, session = berth.ask("POST", "/api/session/create", "{}")
            if status not in (200, 201):
                raise SystemExit(f"no session: {status} {session}")
            browser = Socket(session["wsEndpoint"])
            answer = browser.call("Browser.getVersion")
            times.append((time.perf_counter() - start) * 1_000)
            assert "product" in answer["result"], answer
            browser.close()
            berth.ask("DELETE", f"/api/session/{session['sessionId']}")
    finally:
        berth.stop()
    times.sort()
    print(
        f"{mode}: n = {len(times)}, p50 {statistics.median(times):.0f} ms, "
        f"p99 {times[min(len(times) - 1, int(len(times) * 0.99))]:.0f} ms, worst {times[-1]:.0f} ms ({build} build)",
        flush=True,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--build", default="release" if os.path.exists(f"{CHECKOUT}/.build/release/berth-data") else "debug")
    parser.add_argument("--mode", choices=["warm", "cold", "both"], default="both")
    arguments = parser.parse_args()
    for mode in ["warm", "cold"] if arguments.mode == "both" else [arguments.mode]:
        measure(arguments.build, mode, arguments.count)


if __name__ == "__main__":
    sys.exit(main())
