#!/usr/bin/env python3
"""Counts what Berth's workers allocate, retain, release and ask of the kernel while they serve, per request or chunk.

  BERTH=path/to/berth-data allocations.py [NAME...] [--write FOLDER] [--frames N]

Allocations/count.c is preloaded: it counts calls on threads that poll, and keeps where each came from. The load runs for
a second before counting begins, so that what is made once (buffers, kept connections) is there. Counts that come from the
work of each second (Worker.everySecond) are told apart, and so is what OpenSSL allocates (its buffers and packet writers).
Exit status 1: Berth's own code allocated or counted references per request or chunk.
"""
import argparse, collections, http.client, importlib.util, json, mmap, os, signal, socket, struct, subprocess, sys, tempfile, threading, time

HERE = os.path.dirname(os.path.abspath(__file__))


def module(name, path):
    spec = importlib.util.spec_from_file_location(name, os.path.join(HERE, path))
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


bench, targets = module("bench", "Proxies/bench.py"), module("targets", "targets.py")

MEMORY = ["allocObject", "retain", "release", "beginAccess", "malloc", "free", "mmap", "mutex"]
CALLS = ["epoll_wait", "epoll_ctl", "recv", "send", "sendmsg", "splice", "accept4", "socket", "connect", "close", "shutdown", "sockopt", "read", "write"]
KINDS = MEMORY + CALLS
DEPTH, PLACES = 24, 4096
NAMES = {"REQUESTS": "berth_requests_total", "BYTES": 'berth_bytes_total{direction="from_clients"}'}
HEAD = 16 + 8 * len(KINDS) + 8
PLACE = 32 + 8 * DEPTH
# Arguments of the load generator, the counter of Berth that tells the units, and its share of one.
LOADS = {
    "GET, keep-alive": ("-c 64 -b 256", "REQUESTS", 1),
    "GET, TLS": ("-t -c 64 -b 256", "REQUESTS", 1),
    "POST of 1 KiB": ("post-small", "REQUESTS", 1),
    "POST of 1 MiB": ("post-large", "REQUESTS", 1),
    "POST of 1 MiB, chunked": ("post-chunked", "REQUESTS", 1),
    "WebSocket message of 1 KiB": ("-W -s 1024 -c 64", "BYTES", 1032),
    "WebSocket message of 16 KiB": ("-W -s 16384 -c 64", "BYTES", 16392),
    "WebSocket message of 1 KiB, TLS": ("-t -W -s 1024 -c 64", "BYTES", 1032),
    "GET of 1 MiB": ("-c 8 -P /bytes/1048576 -b 1048576", "REQUESTS", 1),
    "GET of 1 MiB, TLS": ("-t -c 8 -P /bytes/1048576 -b 1048576", "REQUESTS", 1),
    "connection and GET": ("-k -c 64 -b 256", "REQUESTS", 1),
    "TLS handshake and GET": ("-t -k -c 32 -b 256", "REQUESTS", 1),
}

# Callers of everything.
LEFT_OUT = {"closure #1 in closure #1 in Engine.start(coordinator:log:accessLog:)", "closure #1 in static Thread.start(_:_:)", "swift_slowAlloc", "__swift_allocObject_"}


class Counts:
    """The file that the preloaded library writes to."""

    def __init__(self, folder):
        self.path = os.path.join(folder, "counts")
        self.size = HEAD + PLACES * PLACE
        with open(self.path, "wb") as f: f.truncate(self.size)
        os.chmod(self.path, 0o666)
        self.file = open(self.path, "r+b")
        self.map = mmap.mmap(self.file.fileno(), self.size)

    def begin(self, traced):
        self.map[0:8] = bytes(8)
        self.map[16:self.size] = bytes(self.size - 16)
        self.map[8:16] = struct.pack("<Q", traced)
        self.map[0:8] = struct.pack("<Q", 1)

    def end(self): self.map[0:8] = bytes(8)

    def totals(self):
        return dict(zip(KINDS, struct.unpack_from(f"<{len(KINDS)}Q", self.map, 16)))

    def places(self):
        """(kind, count, addresses) of each place that was traced."""
        found = []
        for i in range(PLACES):
            _, count, kind, depth = struct.unpack_from("<4Q", self.map, HEAD + i * PLACE)
            if count: found.append((KINDS[kind], count, struct.unpack_from(f"<{depth}Q", self.map, HEAD + i * PLACE + 32)))
        return found


class Symbols:
    """Addresses of a process as names."""

    def __init__(self, pid):
        self.ranges = []
        for line in open(f"/proc/{pid}/maps"):
            parts = line.split()
            if len(parts) > 5 and parts[5].startswith("/") and "x" in parts[1]:
                low, high = (int(x, 16) for x in parts[0].split("-"))
                self.ranges.append((low, high, int(parts[2], 16), parts[5]))
        self.tables, self.known, self.lines = {}, {}, {}

    def table(self, path):
        if path not in self.tables:
            symbols, segments = [], []
            for flag in ("", "-D"):
                out = subprocess.run(["nm", "--defined-only"] + ([flag] if flag else []) + [path], capture_output=True, text=True).stdout
                for line in out.splitlines():
                    parts = line.split()
                    if len(parts) >= 3 and parts[1] in "tTwWiV": symbols.append((int(parts[0], 16), parts[2]))
            out = subprocess.run(["readelf", "-lW", path], capture_output=True, text=True).stdout
            for line in out.splitlines():
                parts = line.split()
                if parts and parts[0] == "LOAD": segments.append((int(parts[1], 16), int(parts[2], 16), int(parts[4], 16)))
            symbols.sort()
            self.tables[path] = (symbols, [a for a, _ in symbols], segments)
        return self.tables[path]

    def name(self, address):
        import bisect
        for low, high, offset, path in self.ranges:
            if low <= address < high:
                symbols, starts, segments = self.table(path)
                at = address - low + offset
                for o, v, size in segments:
                    if o <= at < o + size:
                        at = at - o + v
                        break
                self.lines.setdefault(path, {})[address] = at - 1
                i = bisect.bisect_right(starts, at - 1) - 1
                return os.path.basename(path), symbols[i][1] if i >= 0 else "?"
        return "?", "?"

    def source(self, address):
        """Where in the source an address of Berth's is, inlined calls from the inside out."""
        self.name(address)
        for path, known in self.lines.items():
            if address in known and os.path.basename(path) == "berth-data":
                out = subprocess.run(["llvm-symbolizer", "--inlines", "-s", f"--obj={path}", hex(known[address])], capture_output=True, text=True).stdout.split("\n")
                lines = [l.rsplit(":", 1)[0] for l in out[1::2] if "swift:" in l and "compiler-generated" not in l]
                return " in ".join(lines[:4])
        return ""

    def names(self, addresses):
        new = [a for a in addresses if a not in self.known]
        raw = [self.name(a) for a in new]
        if raw:
            out = subprocess.run(["swift", "demangle", "--simplified", "--compact"], input="\n".join(n for _, n in raw), capture_output=True, text=True).stdout.splitlines()
            for a, (image, _), text in zip(new, raw, out): self.known[a] = (image, text)
        return [self.known[a] for a in addresses]


class Instance(threading.Thread):
    """Reads bodies to their end, which benchkit's backend does not, and answers each request with 200."""

    def __init__(self):
        super().__init__(daemon=True)
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self.listener.getsockname()[1]
        self.start()

    def run(self):
        while True:
            connection = self.listener.accept()[0]
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        reader = connection.makefile("rb")
        while True:
            length, line = 0, reader.readline()
            if not line: return
            while line not in (b"\r\n", b""):
                if line.lower().startswith(b"content-length:"): length = int(line.split(b":")[1])
                if line.lower().startswith(b"transfer-encoding:"): length = -1
                line = reader.readline()
            if length >= 0: reader.read(length)
            while length < 0:
                size = int(reader.readline(), 16)
                reader.read(size + 2)
                if size == 0: break
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


class Load:
    """Work that goes on until it ends by itself after some seconds, or is stopped."""

    def __init__(self, kit, proxy, arguments):
        self.stopping, self.thread = False, None
        if arguments.startswith("post"):
            self.thread = threading.Thread(target=self.post, args=(proxy.port, arguments))
            self.thread.start()
            return
        port = proxy.tls_port if "-t" in arguments.split() else proxy.port
        self.process = subprocess.Popen([kit, "load", "-p", str(port), "-d", "2.5", "-w", "0.2"] + arguments.split(), stdout=subprocess.PIPE, text=True)
        bench.kids.append(self.process)

    def post(self, port, kind):
        connection = socket.create_connection(("127.0.0.1", port))
        head = "POST /posts HTTP/1.1\r\nHost: bench.test\r\n"
        if kind == "post-chunked": request = head + "Transfer-Encoding: chunked\r\n\r\n" + ("10000\r\n" + "x" * 65536 + "\r\n") * 16 + "0\r\n\r\n"
        else: request = head + f"Content-Length: {1024 if kind == 'post-small' else 1048576}\r\n\r\n" + "x" * (1024 if kind == "post-small" else 1048576)
        request = request.encode()
        reader = connection.makefile("rb")
        while not self.stopping:
            connection.sendall(request)
            line = reader.readline()
            if b" 200 " not in line: raise SystemExit(f"{kind}: {line}")
            while line != b"\r\n": line = reader.readline()
            reader.read(2)

    def end(self):
        if self.thread:
            self.stopping = True
            return self.thread.join()
        out, _ = self.process.communicate(timeout=60)
        result = json.loads(out)
        if result["bad"] or result["errors"]: raise SystemExit(f"the load failed: {result}")


class Admin:
    """Reads Berth's own counters."""

    def __init__(self, port): self.port = port

    def value(self, name):
        connection = http.client.HTTPConnection("127.0.0.1", self.port)
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
        return sum(float(l.split()[-1]) for l in text.splitlines() if l.startswith(name + " "))


def text_of(value):
    if value == 0: return "0"
    return f"{value:.4f}" if value < 0.01 else f"{value:.2f}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--write")
    parser.add_argument("--frames", type=int, default=7)
    a = parser.parse_args()
    berth = os.path.realpath(os.environ.get("BERTH", ""))
    if not os.access(berth, os.X_OK): raise SystemExit("BERTH must be the path of a berth-data")
    folder = tempfile.mkdtemp(prefix="berth-allocations-")
    os.chmod(folder, 0o755)
    kit, library = os.path.join(folder, "benchkit"), os.path.join(folder, "count.so")
    subprocess.check_call(["cc", "-O2", "-w", "-o", kit, os.path.join(HERE, "Proxies", "benchkit.c"), "-lssl", "-lcrypto"])
    subprocess.check_call(["cc", "-O2", "-w", "-shared", "-fPIC", "-o", library, os.path.join(HERE, "Allocations", "count.c"), "-ldl"])
    cert, key = os.path.join(folder, "cert.pem"), os.path.join(folder, "key.pem")
    subprocess.check_call(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", key, "-out", cert, "-days", "30", "-subj", "/CN=bench.test"], stderr=subprocess.DEVNULL)
    port = bench.free_port()
    backend = subprocess.Popen([kit, "backend", str(port)])
    bench.kids.append(backend)
    counts = Counts(folder)
    spec = json.load(open(os.path.join(HERE, "Proxies", "proxies.json")))["berth"]
    admin_port, posts = bench.free_port(), Instance()
    table = open(os.path.join(HERE, "Proxies", "conf", "berth.json")).read().replace("@backend_host@", "127.0.0.1").replace("@backend_port@", str(port))
    table = json.loads(table)
    table["pools"]["posts"] = table["pools"]["web"]
    table["routes"]["posts"] = dict(table["routes"]["all"], path="/posts", pool="posts")
    table["instances"]["posts-1"] = {"pool": "posts", "host": "127.0.0.1", "port": posts.port}
    routes = os.path.join(folder, "routes.json")
    json.dump(table, open(routes, "w"))
    spec["cmd"] = [berth] + [f"127.0.0.1:{admin_port}" if c == "127.0.0.1:0" else routes if c == "{dir}/berth.json" else c for c in spec["cmd"][1:]]
    spec["env"] = {"LD_PRELOAD": library, "BERTH_COUNTS": counts.path}
    proxy = bench.Proxy("berth", spec, {"tmp": folder, "cert": cert, "key": key, "backend_host": "127.0.0.1", "backend_port": str(port)})
    parts, rows, good = [], [], True
    try:
        proxy.start()
        symbols = Symbols(proxy.p.pid)
        admin = Admin(admin_port)
        for name, (arguments, counter, share) in LOADS.items():
            if a.names and not any(n in name for n in a.names): continue
            load = Load(kit, proxy, arguments)
            time.sleep(1)
            # The figures are counted without traces, which slow the worker; then the places are.
            first = admin.value(NAMES[counter])
            counts.begin(False)
            time.sleep(1)
            counts.end()
            units = (admin.value(NAMES[counter]) - first) / share
            totals = counts.totals()
            load.end()
            load = Load(kit, proxy, arguments)
            time.sleep(1)
            counts.begin(True)
            time.sleep(0.5)
            counts.end()
            places = counts.places()
            load.end()
            found = collections.Counter()
            each = collections.Counter()
            for kind, count, addresses in places:
                names = symbols.names(addresses)
                if any("everySecond" in n or "readMailbox" in n for _, n in names): each[kind] += count
                else: found[(kind, tuple(n for _, n in names[:a.frames]), next((x for x, (i, _) in zip(addresses, names) if i == "berth-data"), 0))] += count
            rows.append((name, units, totals))
            berths = collections.Counter()
            lines = []
            for (kind, names, address), count in found.most_common():
                openssl = any("@@OPENSSL" in n for n in names)
                if not openssl: berths[kind] += count
                if count >= 5 and not openssl: lines.append(f"{count:8} {kind}: " + " < ".join(n for n in names if n not in LEFT_OUT) + f" [{symbols.source(address)}]")
            # A handshake is no request: OpenSSL allocates hundreds of times in it, and its connection is an object.
            if berths and "handshake" not in name: good = False
            parts.append(f"== {name}: {units:,.0f} in a second; once a second: {dict(each) or 'nothing'}\n" + ("\n".join(lines[:30]) or "no place") + "\n")
            bench.say(parts[-1])
    finally:
        proxy.stop()
        for k in bench.kids: bench.stop(k) if k.poll() is None and k is not backend else None
        backend.terminate()
    head = ["per unit"] + MEMORY
    table = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for name, units, totals in rows: table.append(f"| {name} | " + " | ".join(text_of(totals[k] / max(units, 1)) for k in MEMORY) + " |")
    head = ["per unit"] + CALLS
    calls = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for name, units, totals in rows: calls.append(f"| {name} | " + " | ".join(text_of(totals[k] / max(units, 1)) for k in CALLS) + " |")
    print("\n".join(table) + "\n\n" + "\n".join(calls) + "\n")
    if a.write:
        os.makedirs(a.write, exist_ok=True)
        with open(os.path.join(a.write, "allocations.txt"), "w") as f:
            f.write("\n".join(parts) + "\n" + "\n".join(table) + "\n\n" + "\n".join(calls) + "\n")
    return 0 if good else 1


if __name__ == "__main__":
    bench.own_netns()
    # Its children are in sessions of their own, so they are ended by the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    sys.exit(main())
