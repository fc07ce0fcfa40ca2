"""The WebSocket library `websockets` against clients/instance.py, through a proxy; see checks.py.

    websocket_client.py URL        ws://… or wss://…; the authority comes from SSL_CERT_FILE
"""

import asyncio
import json
import random
import sys

import websockets
from websockets.asyncio.client import connect

from checks import check_async, equal, finish

url = sys.argv[1]
SECONDS = 60


def socket(path="/socket", **options):
    # No pings of the library's own: the pong of a later one would count as the answer to ours.
    return connect(url + path, max_size=16 << 20, open_timeout=SECONDS, ping_interval=None, **options)


async def answer(ws, message):
    await ws.send(message)
    return await asyncio.wait_for(ws.recv(), SECONDS)


async def text_and_binary():
    async with socket() as ws:
        for message in ["short", "", "Grüße, 世界 🌍", "x" * 125, "x" * 126, "x" * 65_535, "x" * 65_536, b"", bytes(range(256))]:
            equal(await answer(ws, message), message)


async def compression_is_agreed_between_the_ends():
    async with socket() as ws:
        equal(json.loads(await answer(ws, "info"))["compress"], 15, "the instance's window bits")
        equal([type(extension).__name__ for extension in ws.protocol.extensions], ["PerMessageDeflate"])
        text = "compresses well " * 100_000
        equal(await answer(ws, text), text)
    async with socket(compression=None) as ws:
        equal(json.loads(await answer(ws, "info"))["compress"], 0)
        equal(ws.protocol.extensions, [])


async def fields_of_the_handshake():
    async with socket(subprotocols=["other", "echo"], origin="http://page.example") as ws:
        info = json.loads(await answer(ws, "info"))
        equal((ws.subprotocol, info["protocol"]), ("echo", "echo"))
        equal(info["origin"], "http://page.example")


async def large_messages():
    for compression in ["deflate", None]:
        async with socket(compression=compression) as ws:
            for size in [1 << 20, 1_000_001]:
                message = random.Random(size).randbytes(size)
                equal(await answer(ws, message) == message, True, f"{size} bytes")
                text = message.hex()[:size]
                equal(await answer(ws, text) == text, True, f"{size} characters")


async def fragments():
    async with socket() as ws:
        equal(await answer(ws, ["one ", "two ", "three"]), "one two three")


async def many_messages_under_way():
    async with socket() as ws:
        messages = [f"{number} " + "y" * (number * 7 % 3_000) for number in range(1_000)]

        async def send():
            for message in messages:
                await ws.send(message)

        sending = asyncio.create_task(send())
        for message in messages:
            equal(await asyncio.wait_for(ws.recv(), SECONDS), message)
        await sending


async def pings_of_both_sides():
    async with socket() as ws:
        await asyncio.wait_for(await ws.ping(b"from here"), SECONDS)
        equal(await answer(ws, "ping from-there"), "pong from-there")


async def close_codes_of_both_sides():
    for code, reason in [(1000, "done"), (1001, ""), (4321, "why: Grüße")]:
        async with socket() as ws:
            await ws.send(f"close {code} {reason}")
            try:
                await asyncio.wait_for(ws.recv(), SECONDS)
                raise AssertionError("a message instead of the close")
            except websockets.ConnectionClosed as closed:
                equal((closed.rcvd.code, closed.rcvd.reason), (code, reason))
        async with socket(f"/socket?name=closed-{code}") as ws:
            await ws.close(code, reason)
            # aiohttp answers every close with 1000.
            equal((ws.close_code, ws.close_reason), (1000, ""), "the instance's answer")
        async with socket() as ws:
            while (seen := json.loads(await answer(ws, f"code of closed-{code}"))) is None:
                await asyncio.sleep(0.01)
            equal(seen, code, "the code that the instance saw")


async def refusals():
    for path, status, text in [("/refuse", 403, b"no sockets here"), ("/no-such-page", 404, b"404: Not Found")]:
        try:
            async with socket(path):
                raise AssertionError("it was let in")
        except websockets.InvalidStatus as refused:
            equal((refused.response.status_code, refused.response.body), (status, text))


async def many_sockets_at_once():
    async def one(number):
        async with socket() as ws:
            for round in range(5):
                equal(await answer(ws, f"{number} {round}"), f"{number} {round}")

    await asyncio.gather(*(one(number) for number in range(30)))


async def main():
    for function in [
        text_and_binary,
        compression_is_agreed_between_the_ends,
        fields_of_the_handshake,
        large_messages,
        fragments,
        many_messages_under_way,
        pings_of_both_sides,
        close_codes_of_both_sides,
        refusals,
        many_sockets_at_once,
    ]:
        await check_async(function)


asyncio.run(main())
finish()
