"""An instance for the tests of real clients, on aiohttp's server: says what reached it, streams, compresses, echoes
WebSocket messages. It holds streams open until it is told, so that a proxy which keeps bytes back is found out.

    instance.py PORT
"""

import asyncio
import gzip
import hashlib
import random
import sys

from aiohttp import WSMsgType, web

TEXT = "what compresses well, and has to arrive as it was sent. " * 2_000
# Always the same bytes, so that clients can compare what came, not what they unpack.
COMPRESSED = gzip.compress(TEXT.encode(), mtime=0)

received = {}  # bytes that have come so far, by name of the upload
codes = {}  # close codes that have come, by name of the socket
gates = {}  # streams that wait, by name


def gate(request):
    return gates.setdefault(request.match_info["name"], asyncio.Event())


async def echo(request):
    digest, size, name = hashlib.sha256(), 0, request.query.get("name")
    async for piece in request.content.iter_any():
        digest.update(piece)
        size += len(piece)
        if name:
            received[name] = size
    return web.json_response(
        {
            "method": request.method,
            "target": request.raw_path,
            "version": f"{request.version.major}.{request.version.minor}",
            "fields": [[name.lower(), value] for name, value in request.headers.items()],
            "size": size,
            "sha256": digest.hexdigest(),
        }
    )


async def seen(request):
    return web.json_response({"size": received.get(request.match_info["name"], 0)})


async def data(request):
    """`size` bytes that random.Random(size) gives; in chunks, or with their length."""
    size = int(request.match_info["size"])
    body = random.Random(size).randbytes(size)
    fields = {"X-SHA256": hashlib.sha256(body).hexdigest()}
    if "chunked" not in request.query:
        return web.Response(body=body, headers=fields)
    response = web.StreamResponse(headers=fields)
    await response.prepare(request)
    for start in range(0, size, 50_000):
        await response.write(body[start : start + 50_000])
    await response.write_eof()
    return response


async def stream(request):
    """Says "first", and the rest only after /open."""
    response = web.StreamResponse()
    await response.prepare(request)
    await response.write(b"first")
    await gate(request).wait()
    await response.write(b" second")
    await response.write_eof()
    return response


async def open_gate(request):
    gate(request).set()
    return web.Response(status=204)


async def compressed(request):
    return web.Response(body=COMPRESSED, headers={"Content-Encoding": "gzip", "Content-Type": "text/plain"})


async def login(request):
    response = web.HTTPFound("/echo")
    response.set_cookie("first", "one")
    response.set_cookie("second", "two")
    raise response


async def refuse(request):
    return web.Response(status=403, text="no sockets here")


async def expect_refused(request):
    raise web.HTTPRequestEntityTooLarge(max_size=1, actual_size=2, text="too much")


async def socket(request):
    """Sends every message back. "info" tells what was agreed on; "ping X" pings, and the pong is told; "close N WHY"
    closes with that code; "code of NAME" tells with which code the socket `?name=NAME` was closed."""
    ws = web.WebSocketResponse(autoping=False, max_msg_size=16 << 20, protocols=("echo",))
    await ws.prepare(request)
    async for message in ws:
        if message.type == WSMsgType.PING:
            await ws.pong(message.data)
        elif message.type == WSMsgType.PONG:
            await ws.send_str("pong " + message.data.decode())
        elif message.type == WSMsgType.BINARY:
            await ws.send_bytes(message.data)
        elif message.data == "info":
            await ws.send_json(
                {
                    "compress": ws.compress,
                    "protocol": ws.ws_protocol,
                    "origin": request.headers.get("Origin"),
                }
            )
        elif message.data.startswith("code of "):
            await ws.send_json(codes.get(message.data[8:]))
        elif message.data.startswith("ping "):
            await ws.ping(message.data[5:].encode())
        elif message.data.startswith("close "):
            _, code, reason = message.data.split(" ", 2)
            await ws.close(code=int(code), message=reason.encode())
        else:
            await ws.send_str(message.data)
    codes[request.query.get("name")] = ws.close_code
    return ws


app = web.Application(client_max_size=64 << 20)
app.router.add_route("*", "/echo", echo)
app.router.add_route("*", "/plain/echo", echo)
app.router.add_get("/seen/{name}", seen)
app.router.add_get("/data/{size}", data)
app.router.add_get("/stream/{name}", stream)
app.router.add_post("/open/{name}", open_gate)
app.router.add_get("/compressed", compressed)
app.router.add_get("/login", login)
app.router.add_get("/refuse", refuse)
app.router.add_post("/small", echo, expect_handler=expect_refused)
app.router.add_get("/socket", socket)
web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=None, access_log=None, shutdown_timeout=0.1)
