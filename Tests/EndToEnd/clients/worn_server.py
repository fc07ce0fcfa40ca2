"""An instance for the recycling tests: answers every request, and tells at its end what it had served and what was cut off.

    worn_server.py PORT REPORT

GET /health says that it lives. Paths that end with /slow take a while. SIGTERM ends it at once, as rudely as a server can:
whoever is connected is cut off. REPORT then gets a line of JSON: the port, the requests that came (without /health), those
that were under way, and the connections that were open after having carried such a request.
"""

import json
import os
import signal
import socket
import sys
import threading
import time

port, report = int(sys.argv[1]), sys.argv[2]
lock = threading.Lock()
figures = {"port": port, "requests": 0, "underway": 0, "connections": 0}
carried = set()


def count(name, change):
    with lock:
        figures[name] += change


def is_open(connection):
    """Whether the other side has not ended it. The thread that reads it may not have run since it has."""
    try:
        return connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False


def end(signum, frame):
    figures["connections"] = sum(is_open(connection) for connection in list(carried))
    out = os.open(report, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(out, json.dumps(figures).encode() + b"\n")
    os._exit(0)


def serve(connection):
    buffer = b""
    try:
        while True:
            while b"\r\n\r\n" not in buffer:
                piece = connection.recv(65_536)
                if not piece:
                    return
                buffer += piece
            head, _, buffer = buffer.partition(b"\r\n\r\n")
            length = 0
            for line in head.split(b"\r\n")[1:]:
                name, _, value = line.partition(b":")
                if name.lower() == b"content-length":
                    length = int(value)
            while len(buffer) < length:
                piece = connection.recv(65_536)
                if not piece:
                    return
                buffer += piece
            body, buffer = buffer[:length], buffer[length:]
            path = head.split(b" ")[1]
            if path == b"/health":
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                continue
            carried.add(connection)
            count("requests", 1)
            count("underway", 1)
            if path.endswith(b"/slow"):
                time.sleep(0.4)
            answer = b"served " + body
            # Before its client has it: that one's replica may say at once that nothing is under way. One that is cut off
            # in between is its client's failure.
            count("underway", -1)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(answer) + answer)
    except OSError:
        pass
    finally:
        carried.discard(connection)
        connection.close()


signal.signal(signal.SIGTERM, end)
listener = socket.create_server(("127.0.0.1", port), backlog=128)
while True:
    connection, _ = listener.accept()
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    threading.Thread(target=serve, args=(connection,), daemon=True).start()
