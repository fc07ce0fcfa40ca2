#!/usr/bin/env python3
"""How Berth's cost per request changes with the size of what it holds: instances and routes in the table, open
connections, workers. Uses the measuring of Proxies/bench.py: proxy CPU of its cgroup, interleaved, checked responses.

  BERTH=path/to/berth-data curves.py [instances routes tunnels connections workers] [-n REPEATS] [-d SECONDS] [--write FILE]

--write replaces what stands between `<!-- curves: begin -->` and `<!-- curves: end -->` of a Markdown file.
"""
import argparse, importlib.util, json, os, resource, signal, statistics, subprocess, sys, tempfile, time

HERE = os.path.dirname(os.path.abspath(__file__))
spec = importlib.util.spec_from_file_location("bench", os.path.join(HERE, "Proxies", "bench.py"))
bench = importlib.util.module_from_spec(spec)
spec.loader.exec_module(bench)
spec = importlib.util.spec_from_file_location("targets", os.path.join(HERE, "targets.py"))
targets = importlib.util.module_from_spec(spec)
spec.loader.exec_module(targets)

ROUTE = {
    "path": "/", "pool": "web", "connectTimeoutMilliseconds": 5000, "firstByteTimeoutMilliseconds": 60000,
    "bodyTimeoutMilliseconds": 60000, "requestsPerSecond": 1000000, "connectionsPerClient": 1000000,
}


class World:
    """The backend, the load generator and a folder; proxies are started in it."""

    def __init__(self):
        self.folder = tempfile.mkdtemp(prefix="berth-curves-")
        os.chmod(self.folder, 0o755)
        self.kit = os.path.join(self.folder, "benchkit")
        subprocess.check_call(["cc", "-O2", "-w", "-o", self.kit, os.path.join(HERE, "Proxies", "benchkit.c"), "-lssl", "-lcrypto"])
        if bench.TOOLS: os.makedirs(bench.TOOLS, exist_ok=True)
        self.port = bench.free_port()
        self.backend = subprocess.Popen([self.kit, "backend", str(self.port)], preexec_fn=self.as_tool())
        bench.kids.append(self.backend)
        self.proxies = []
        time.sleep(0.2)

    def as_tool(self): return bench.pinned(bench.LCPU, [bench.TOOLS] if bench.TOOLS else [])

    def proxy(self, name, instances=1, routes=None, strategy="round_robin", workers=1, cpus=None):
        table = {
            "pools": {"web": {"kind": "http", "slots": 0}},
            "routes": routes or {"all": dict(ROUTE, strategy=strategy)},
            "instances": {f"web-{i}": {"pool": "web", "host": "127.0.0.1", "port": self.port} for i in range(instances)},
        }
        path = os.path.join(self.folder, f"{name}.json")
        json.dump(table, open(path, "w"))
        command = ["$BERTH", "--listen", "127.0.0.1:{port}", "--admin", "127.0.0.1:0", "--workers", str(workers),
                   "--routes", path, "--access-log", "{dir}/access.log"]
        made = bench.Proxy(name, {"cmd": command, **({"cpus": cpus} if cpus else {})}, {"tmp": self.folder})
        made.start()
        made.check(False)
        self.proxies.append(made)
        return made

    def hold(self, proxy, count):
        """Idle WebSockets through a proxy until the returned function is called."""
        command = [self.kit, "load", "-p", str(proxy.port), "-I", "1", "-c", str(count)]
        holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, preexec_fn=self.as_tool())
        bench.kids.append(holder)
        held = json.loads(holder.stdout.readline())
        if held["held"] != count: raise SystemExit(f"{proxy.name}: {count} tunnels were wanted: {held}")
        def release():
            out, _ = holder.communicate()
            if json.loads(out.splitlines()[-1])["alive"] != count: raise SystemExit(f"{proxy.name}: tunnels were lost")
        return release

    def stop_proxies(self):
        for p in self.proxies: p.stop()
        self.proxies = []

    def stop(self):
        self.stop_proxies()
        for k in bench.kids: bench.stop(k)
        if bench.TOOLS:
            time.sleep(0.1)
            try: os.rmdir(bench.TOOLS)
            except OSError: pass


def measure(world, points, scenarios, a):
    """Cost by point and scenario: points take turns, medians of the repeats."""
    costs = {}
    for scenario in scenarios:
        for repeat in range(a.n):
            for name, proxy in points:
                got = bench.run_load(world.kit, proxy, scenario, a.d, 0.5)
                if got["bad"] or got["errors"]: raise SystemExit(f"{name} {scenario}: {got}")
                costs.setdefault((name, scenario), []).append(got["cost"])
                bench.say(f"  {scenario} {name}: {got['cost']:.2f} µs, {got['rps']:.0f}/s")
    return {key: statistics.median(values) for key, values in costs.items()}


def table(title, unit, points, columns, costs):
    """Each column's figures with their ratio to the first point's."""
    lines = [f"### {title}", "", "| " + " | ".join([unit] + [label for _, label in columns]) + " |", "|" + "---|" * (len(columns) + 1)]
    for name in points:
        cells = []
        for scenario, _ in columns:
            value, first = costs.get((name, scenario)), costs.get((points[0], scenario))
            cells.append("–" if value is None else f"{value:.1f} µs ({value / first:.2f})")
        lines.append("| " + " | ".join([name] + cells) + " |")
    return "\n".join(lines) + "\n"


SIZES = [10, 100, 1000, 10000]


def instances(world, a):
    """Round robin goes to all of them, so that its connections grow too; ip_hash to a few, so that only the table does."""
    costs = {}
    for strategy in ["ip_hash", "round_robin", "least_connections"]:
        points = [(f"{n:,}", world.proxy(f"{strategy}-{n}", instances=n, strategy=strategy)) for n in SIZES]
        # Round robin over 10,000 makes 10,000 connections before it reuses any.
        for name, proxy in points: bench.run_load(world.kit, proxy, "S1", 0.2, 1)
        for (name, _), cost in measure(world, points, ["S1"], a).items(): costs[(name, strategy)] = cost
        world.stop_proxies()
    columns = [("ip_hash", "`ip_hash` (40 clients)"), ("round_robin", "`round_robin`: every one is used"), ("least_connections", "`least_connections`")]
    return table("Instances in the table", "instances", [f"{n:,}" for n in SIZES], columns, costs)


def routes(world, a):
    """The route that matches is one of many with hosts and paths of their own."""
    points = []
    for n in [1, 10, 100, 1000]:
        many = {f"r{i}": dict(ROUTE, host=f"host-{i}.test", path=f"/path/{i}") for i in range(n - 1)}
        many["all"] = ROUTE
        points.append((f"{n:,}", world.proxy(f"routes-{n}", routes=many)))
    costs = measure(world, points, ["S1"], a)
    world.stop_proxies()
    return table("Routes in the table", "routes", [n for n, _ in points], [("S1", "the last one matches")], costs)


def held():
    """SIZES, as far as descriptors go: a client has two of the proxy's, its own and an instance's."""
    most = (resource.getrlimit(resource.RLIMIT_NOFILE)[1] - 264) // 2
    return [min(n, most) for n in SIZES]


def tunnels(world, a):
    """Idle tunnels beside 64 busy connections."""
    points = [(f"{n:,}", world.proxy(f"tunnels-{n}")) for n in held()]
    releases = [world.hold(proxy, int(name.replace(",", ""))) for name, proxy in points]
    costs = measure(world, points, ["S1"], a)
    for release in releases: release()
    world.stop_proxies()
    return table("Idle tunnels beside 64 busy connections", "tunnels", [n for n, _ in points], [("S1", "S1")], costs)


def connections(world, a):
    """Busy keep-alive connections at a fixed rate, and as fast as they go."""
    proxy = world.proxy("connections")
    costs = {}
    for n in held():
        for key, arguments in [("fixed", f"-c {n} -b 256 -r 10000"), ("fast", f"-c {n} -b 256")]:
            bench.SC["C"] = (f"{n} connections", "req", arguments)
            costs[(f"{n:,}", key)] = measure(world, [(f"{n:,}", proxy)], ["C"], a)[(f"{n:,}", "C")]
    world.stop_proxies()
    columns = [("fast", "as fast as they go"), ("fixed", "10,000 requests a second")]
    return table("Busy connections", "connections", [f"{n:,}" for n in held()], columns, costs)


def workers(world, a):
    """Both may use the same two processors, which load and backend use as well."""
    points = [(f"{n}", world.proxy(f"workers-{n}", workers=n, cpus=[0, 1])) for n in (1, 2)]
    costs = measure(world, points, ["S1", "S1r", "S6a", "S8"], a)
    world.stop_proxies()
    columns = [("S1", "S1"), ("S1r", "S1r"), ("S6a", "S6a"), ("S8", "S8")]
    return table("Workers (target: 2 cost at most 1.04 of 1)", "workers", ["1", "2"], columns, costs)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    curves = {f.__name__: f for f in (instances, routes, tunnels, connections, workers)}
    parser.add_argument("curves", nargs="*", default=[], metavar="CURVE")
    parser.add_argument("-n", type=int, default=5)
    parser.add_argument("-d", type=float, default=1)
    parser.add_argument("--write")
    a = parser.parse_args()
    if not os.access(os.environ.get("BERTH", ""), os.X_OK): raise SystemExit("BERTH must be the path of a berth-data")
    os.environ["BERTH"] = os.path.realpath(os.environ["BERTH"])
    unknown = [c for c in a.curves if c not in curves]
    if unknown: raise SystemExit(f"no curve {unknown[0]}; there are {', '.join(curves)}")
    world = World()
    try: parts = [curves[c](world, a) for c in a.curves or curves]
    finally: world.stop()
    notes = [f"- {time.strftime('%Y-%m-%d')}: `make curves` (medians of {a.n} × {a.d:g} s)"] + [f"- {l}" for l in targets.machine()]
    text = "\n".join(parts) + "\n" + "\n".join(notes) + "\n"
    print(text)
    if a.write: targets.write(a.write, text, "curves")


if __name__ == "__main__":
    bench.own_netns()
    # Its children are in sessions of their own, so they are ended by the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    main()
