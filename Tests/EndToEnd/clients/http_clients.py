"""Python's HTTP libraries against clients/instance.py, through a proxy; see checks.py.

    http_clients.py requests|httpx|aiohttp URL ADMIN_URL      the authority of https comes from SSL_CERT_FILE
"""

import asyncio
import contextlib
import gzip
import hashlib
import os
import random
import re
import ssl
import sys
import threading
import time
import urllib.request

import aiohttp
import httpx
import requests

from checks import check, equal, finish

library, base, admin = sys.argv[1:4]
authority = os.environ.get("SSL_CERT_FILE")
TEN_MEGABYTES = 10_000_000
SECONDS = 60


def sent(size):
    """The body that the instance, too, makes of that size."""
    return random.Random(size).randbytes(size)


def digest(body):
    return hashlib.sha256(body).hexdigest()


def accepted():
    """How many connections of clients the proxy has taken so far."""
    with urllib.request.urlopen(admin + "/metrics", timeout=SECONDS) as answer:
        counted = re.findall(r"^berth_connections_accepted_total\S* (\d+)$", answer.read().decode(), re.MULTILINE)
    equal(len(counted) > 0, True, "the metric of accepted connections")
    return sum(map(int, counted))


def pieces(size):
    body = sent(size)
    return (body[start : start + 40_000] for start in range(0, size, 40_000))


def fields(answer):
    """Fields as the instance saw them; a name that came twice has both values."""
    seen = {}
    for name, value in answer["fields"]:
        seen[name] = seen[name] + ", " + value if name in seen else value
    return seen


# One way to say the same to each library.


class Requests:
    def __init__(self):
        self.session = requests.Session()
        self.session.verify = authority or True
        self.session.trust_env = False

    def call(self, method, path, **options):
        answer = self.session.request(method, base + path, timeout=SECONDS, **options)
        return answer.status_code, answer.headers, answer.content

    def json(self, method, path, **options):
        return self.session.request(method, base + path, timeout=SECONDS, **options).json()

    def raw(self, path):
        """The body as it came, with its coding."""
        with self.session.get(base + path, stream=True, timeout=SECONDS) as answer:
            return answer.headers, answer.raw.read(decode_content=False)

    def stream(self, path):
        with self.session.get(base + path, stream=True, timeout=SECONDS) as answer:
            yield from answer.iter_content(None)

    def close(self):
        self.session.close()

    body = "data"


class HTTPX:
    def __init__(self):
        self.session = httpx.Client(
            verify=ssl.create_default_context(cafile=authority), timeout=SECONDS, follow_redirects=True, trust_env=False
        )

    def call(self, method, path, **options):
        answer = self.session.request(method, base + path, **options)
        return answer.status_code, answer.headers, answer.content

    def json(self, method, path, **options):
        return self.session.request(method, base + path, **options).json()

    def raw(self, path):
        with self.session.stream("GET", base + path) as answer:
            return answer.headers, b"".join(answer.iter_raw())

    def stream(self, path):
        with self.session.stream("GET", base + path) as answer:
            yield from answer.iter_raw()

    def close(self):
        self.session.close()

    body = "content"


class Aiohttp:
    """On a loop in a thread of its own, so that its calls block like the others'."""

    def __init__(self):
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()
        self.session = self.wait(self.make())

    def wait(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(SECONDS)

    async def make(self):
        context = ssl.create_default_context(cafile=authority)
        # Cookies of addresses are refused unless the jar is told otherwise.
        jar = aiohttp.CookieJar(unsafe=True)
        timeout = aiohttp.ClientTimeout(total=SECONDS)
        return aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context), cookie_jar=jar, timeout=timeout)

    async def ask(self, method, path, data=None, **options):
        if data is not None and not isinstance(data, bytes):
            data = self.asynchronous(iter(data))
        async with self.session.request(method, base + path, data=data, **options) as answer:
            return answer.status, answer.headers, await answer.read(), await self.as_json(answer)

    @staticmethod
    async def as_json(answer):
        return await answer.json() if answer.content_type == "application/json" else None

    async def asynchronous(self, pieces):
        while (piece := await self.loop.run_in_executor(None, next, pieces, None)) is not None:
            yield piece

    def call(self, method, path, **options):
        return self.wait(self.ask(method, path, **options))[:3]

    def json(self, method, path, **options):
        return self.wait(self.ask(method, path, **options))[3]

    def raw(self, path):
        async def read():
            async with self.session.get(base + path, auto_decompress=False) as answer:
                return answer.headers, await answer.read()

        return self.wait(read())

    def stream(self, path):
        answer = self.wait(self.session.get(base + path).__aenter__())
        try:
            while piece := self.wait(answer.content.readany()):
                yield piece
        finally:
            self.loop.call_soon_threadsafe(answer.close)

    def close(self):
        self.wait(self.session.close())
        self.loop.call_soon_threadsafe(self.loop.stop)

    body = "data"


@contextlib.contextmanager
def another(client):
    """One with connections of its own, of the same library."""
    made = type(client)()
    try:
        yield made
    finally:
        made.close()


def keep_alive(client):
    client.call("GET", "/echo")
    before = accepted()
    for _ in range(50):
        equal(client.call("GET", "/data/1000")[2], sent(1000))
    equal(accepted() - before, 0, "new connections for 50 requests")


def methods(client):
    for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "QUERY"]:
        answer = client.json(method, "/echo?a=%20b&c=%C3%BC", headers={"X-Own": "a value, and more"}, **{client.body: b"body"})
        equal((answer["method"], answer["target"], answer["size"]), (method, "/echo?a=%20b&c=%C3%BC", 4))
        equal(fields(answer)["x-own"], "a value, and more")
    status, headers, content = client.call("HEAD", "/data/1234")
    equal((status, headers["Content-Length"], content), (200, "1234", b""))


def bodies_of_ten_megabytes(client):
    answer = client.json("POST", "/echo", **{client.body: sent(TEN_MEGABYTES)})
    equal((answer["size"], answer["sha256"]), (TEN_MEGABYTES, digest(sent(TEN_MEGABYTES))))
    equal(fields(answer)["content-length"], str(TEN_MEGABYTES))
    for path in [f"/data/{TEN_MEGABYTES}", f"/data/{TEN_MEGABYTES}?chunked"]:
        status, headers, content = client.call("GET", path)
        equal((status, digest(content)), (200, digest(sent(TEN_MEGABYTES))), path)
        equal("Content-Length" in headers, "chunked" not in path, path)


def upload_in_chunks(client):
    answer = client.json("POST", "/echo", **{client.body: pieces(TEN_MEGABYTES)})
    equal((answer["size"], answer["sha256"]), (TEN_MEGABYTES, digest(sent(TEN_MEGABYTES))))
    equal(fields(answer)["transfer-encoding"], "chunked")


def upload_arrives_as_it_is_sent(client):
    name = f"upload-{os.getpid()}"

    def body():
        yield b"x" * 1_000
        # The rest is sent only when the instance has the beginning.
        end = time.monotonic() + SECONDS / 2
        with another(client) as other:
            while other.json("GET", f"/seen/{name}")["size"] < 1_000:
                equal(time.monotonic() < end, True, "the beginning has arrived in time")
        yield b"y" * 1_000

    equal(client.json("POST", f"/echo?name={name}", **{client.body: body()})["size"], 2_000)


def download_arrives_as_it_is_sent(client):
    name = f"download-{os.getpid()}"
    stream = client.stream(f"/stream/{name}")
    equal(next(stream), b"first")
    with another(client) as other:
        other.call("POST", f"/open/{name}")
    equal(b"".join(stream), b" second")


def compressed_answers_pass_untouched(client):
    headers, raw = client.raw("/compressed")
    equal(headers["Content-Encoding"], "gzip")
    equal(int(headers["Content-Length"]), len(raw))
    text = gzip.decompress(raw)
    # The very bytes of the instance, not the same text compressed once more.
    equal(raw, gzip.compress(text, mtime=0))
    equal(client.call("GET", "/compressed")[2], text)
    equal(len(text), 112_000)


def cookies_and_redirects(client):
    answer = client.json("GET", "/login")
    equal(answer["target"], "/echo")
    equal(sorted(fields(answer)["cookie"].split("; ")), ["first=one", "second=two"])


def a_download_that_is_given_up(client):
    stream = client.stream(f"/data/{TEN_MEGABYTES}?chunked")
    next(stream)
    stream.close()
    equal(client.call("GET", "/data/10")[2], sent(10))


def many_at_once(client):
    right, wrong = [], []

    def one(number):
        with another(client) as own:
            for round in range(5):
                size = 20_000 + number * 100 + round
                is_right = own.call("GET", f"/data/{size}?chunked")[2] == sent(size)
                (right if is_right else wrong).append(size)

    threads = [threading.Thread(target=one, args=[number]) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    equal(wrong, [])
    equal(len(right), 60)


client = {"requests": Requests, "httpx": HTTPX, "aiohttp": Aiohttp}[library]()
for function in [
    keep_alive,
    methods,
    bodies_of_ten_megabytes,
    upload_in_chunks,
    upload_arrives_as_it_is_sent,
    download_arrives_as_it_is_sent,
    compressed_answers_pass_untouched,
    cookies_and_redirects,
    a_download_that_is_given_up,
    many_at_once,
]:
    check(function, client)
client.close()
finish()
