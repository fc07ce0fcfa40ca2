"""A small server that is an instance of a test's pool. It says in a ledger when it starts, when its port was taken, and when
two clients had it at once: GET /hold is answered without end, and who asks for it counts as a client until it goes.
GET /silent is answered with one byte and nothing more.

    small_instance.py PORT LEDGER ID
"""

import os
import selectors
import socket
import sys
import time

PORT, LEDGER, ID = int(sys.argv[1]), sys.argv[2], sys.argv[3]
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n"
# A replica may give a slot back a moment before it closes its own connection.
PATIENCE = 0.5


def note(word):
    ledger = os.open(LEDGER, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(ledger, f"{word} {ID} {PORT} {os.getpid()}\n".encode())
    os.close(ledger)


note("start")
listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
try:
    listener.bind(("127.0.0.1", PORT))
except OSError:
    note("taken")
    sys.exit(3)
listener.listen(64)
listener.setblocking(False)
selector = selectors.DefaultSelector()
selector.register(listener, selectors.EVENT_READ)
clients = {}  # socket: since when
told = set()


def drop(connection):
    clients.pop(connection, None)
    selector.unregister(connection)
    connection.close()


while True:
    for key, _ in selector.select(0.05):
        if key.fileobj is listener:
            connection, _ = listener.accept()
            connection.setblocking(False)
            selector.register(connection, selectors.EVENT_READ)
            continue
        connection = key.fileobj
        try:
            data = connection.recv(65536)
            if not data:
                drop(connection)
            elif data.startswith(b"GET /hold"):
                connection.send(HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\n%05d\r\n" % (PORT % 100000))
                clients[connection] = time.monotonic()
            elif data.startswith(b"GET /silent"):
                connection.send(HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\n.\r\n")
            else:
                connection.send(HEAD + b"Content-Length: 3\r\n\r\nok\n")
        except BlockingIOError:
            pass
        except OSError:
            drop(connection)
    for connection in list(clients):
        try:
            connection.send(b"1\r\n.\r\n")
        except BlockingIOError:
            pass
        except OSError:
            drop(connection)
    if len(clients) > 1 and time.monotonic() - max(clients.values()) > PATIENCE:
        pair = frozenset(id(connection) for connection in clients)
        if pair not in told:
            told.add(pair)
            note("shared")
