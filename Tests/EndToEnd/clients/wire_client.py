"""Bytes as no library sends them. Prints one JSON object: what came back, decoded leniently, and whether it was closed.

    wire_client.py HOST PORT TEXT      sends TEXT (with \\r\\n and \\xNN as in a Python string) and reads to the end
    wire_client.py HOST PORT --tls     a TLS handshake against a port that may not speak TLS
"""

import json
import socket
import ssl
import sys

host, port, text = sys.argv[1], int(sys.argv[2]), sys.argv[3]
TIMEOUT_SECONDS = 20

with socket.create_connection((host, port), timeout=TIMEOUT_SECONDS) as plain:
    if text == "--tls":
        try:
            context = ssl.create_default_context()
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            context.wrap_socket(plain)
            print(json.dumps({"handshake": "done"}))
        except ssl.SSLError as error:
            print(json.dumps({"handshake": "refused", "reason": error.reason or str(error)}))
        except (ConnectionError, socket.timeout) as error:
            print(json.dumps({"handshake": "refused", "reason": type(error).__name__}))
        sys.exit()
    plain.sendall(text.encode().decode("unicode_escape").encode("latin-1"))
    received, ended = b"", "closed"
    try:
        while chunk := plain.recv(65536):
            received += chunk
    except socket.timeout:
        ended = "still open"
    except ConnectionError:
        ended = "reset"
    print(json.dumps({"received": received.decode("latin-1"), "ended": ended}))
