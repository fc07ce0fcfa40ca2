"""A CDP client without a library's habits: every DevTools request by hand. Prints one JSON object.

    raw_client.py BASE [--ca FILE]              discovery over BASE (http or https), then its browser and a page of it
    raw_client.py BASE --socket PATH [--ca …]   no discovery: a WebSocket to PATH, e.g. `/` for a Chrome per connection
    raw_client.py BASE --get PATH [--ca …]      only one GET: status and body
"""

import argparse
import asyncio
import json
import ssl
import urllib.error
import urllib.parse
import urllib.request

from websockets.asyncio.client import connect

# A DevTools answer may be large; a client that sets no limit is what Berth has to serve.
NO_LIMIT = None


class Browser:
    """One DevTools connection: numbered calls, and events that nobody waits for are dropped."""

    def __init__(self, socket):
        self.socket = socket
        self.number = 0

    async def call(self, method, session=None, **params):
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        if session:
            message["sessionId"] = session
        await self.socket.send(json.dumps(message))
        async for text in self.socket:
            answer = json.loads(text)
            if answer.get("id") == self.number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]
        raise RuntimeError(f"{method}: the connection ended before the answer")


def get(url, tls):
    try:
        with urllib.request.urlopen(url, timeout=30, context=tls) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


async def use(url, tls):
    async with connect(url, ssl=tls, max_size=NO_LIMIT, open_timeout=60, proxy=None) as socket:
        browser = Browser(socket)
        version = await browser.call("Browser.getVersion")
        target = (await browser.call("Target.createTarget", url="about:blank"))["targetId"]
        session = (await browser.call("Target.attachToTarget", targetId=target, flatten=True))["sessionId"]
        # Two megabytes there and back: more than any buffer on the way.
        big = await browser.call(
            "Runtime.evaluate", session=session, expression=f"'{'x' * 2_000_000}' + 'y'", returnByValue=True
        )
        targets = (await browser.call("Target.getTargets"))["targetInfos"]
        return {
            "product": version["product"],
            "target": target,
            "bytes": len(big["result"]["value"]),
            "pages": sum(info["type"] == "page" for info in targets),
        }


async def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("base")
    arguments.add_argument("--socket")
    arguments.add_argument("--get")
    arguments.add_argument("--ca")
    given = arguments.parse_args()
    secure = given.base.startswith("https")
    tls = ssl.create_default_context(cafile=given.ca) if secure else None
    if given.get:
        status, body = await asyncio.to_thread(get, given.base + given.get, tls)
        print(json.dumps({"status": status, "body": body}))
        return
    if given.socket:
        url = given.base.replace("http", "ws", 1) + given.socket
        print(json.dumps(await use(url, tls)))
        return
    status, body = await asyncio.to_thread(get, given.base + "/json/version", tls)
    if status != 200:
        raise RuntimeError(f"/json/version: {status} {body}")
    version = json.loads(body)
    print(json.dumps({"discovery": version, **await use(version["webSocketDebuggerUrl"], tls)}))


asyncio.run(main())
