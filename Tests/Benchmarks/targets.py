#!/usr/bin/env python3
"""Compares results of Proxies/bench.py (its -o files) with the targets, and prints a table that says met or not met.

  targets.py RUN.json [RUN.json ...] [--write FILE]

Each file is one run; a target is met when every run meets it. --write replaces what stands between the lines
`<!-- figures: begin -->` and `<!-- figures: end -->` of a Markdown file. Exit status 1: a target was missed or not measured.
"""
import json, os, platform, statistics, subprocess, sys, time

# Scenario, unit, then the conditions: (compared with, at most). None: the figure itself.
TARGETS = [
    ("S1", "µs/request", [("haproxy26", 0.75)]),
    ("S1r", "µs/request", [("haproxy26", 0.85)]),
    ("S2", "µs/request", [("haproxy26", 0.75)]),
    ("S2r", "µs/request", [("haproxy26", 0.85)]),
    ("S3", "µs/handshake", [("haproxy26", 0.90)]),
    ("S4a", "µs/MiB", [("haproxy26", 0.62), ("nginx", 1.0)]),
    ("S4b", "µs/MiB", [("haproxy26", 0.50)]),
    ("S5a", "µs/MiB", [("haproxy26", 0.58)]),
    ("S5b", "µs/MiB", [("haproxy26", 0.58)]),
    ("S6a", "µs/message", [("haproxy26", 0.95)]),
    ("S6b", "µs/message", [("haproxy26", 0.36), ("haproxy26-splice", 0.80)]),
    ("S7", "bytes/tunnel", [(None, 1024)]),
    ("S7t", "bytes/tunnel", [("haproxy26", 0.75)]),
    ("S8", "µs/connection", [("haproxy26", 0.85)]),
]
SHOWN = ["floor", "haproxy26", "haproxy26-splice", "nginx", "caddy"]


def cost(run, scenario, proxy):
    rows = run.get(scenario, {}).get(proxy)
    return statistics.median(r["cost"] for r in rows) if rows else None


def faults(run, scenario):
    return sum(r["bad"] + r["errors"] for r in run.get(scenario, {}).get("berth", []))


def number(value):
    if value is None: return "–"
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def judge(runs):
    """Rows of the table, and whether all targets are met."""
    rows, good = [], True
    for scenario, unit, conditions in TARGETS:
        measured = [r for r in runs if cost(r, scenario, "berth") is not None]
        if not measured: continue
        figures = [statistics.median(c) if (c := [x for r in measured if (x := cost(r, scenario, p)) is not None]) else None
                   for p in ["berth"] + SHOWN]
        verdicts, ratios, wanted = [], [], []
        for other, most in conditions:
            values = []
            for r in measured:
                mine, theirs = cost(r, scenario, "berth"), 1 if other is None else cost(r, scenario, other)
                if theirs: values.append(mine / theirs)
            verdicts.append(bool(values) and len(values) == len(runs) and all(v <= most for v in values))
            text = (lambda v: f"{v:.0f}") if other is None else (lambda v: f"{v:.2f}")
            ratios.append(" ".join(text(v) for v in values) or "–")
            wanted.append(f"< {most}" if other is None else f"≤ {most:.2f} × {other}")
        wrong = sum(faults(r, scenario) for r in measured)
        met = all(verdicts) and wrong == 0
        good &= met
        word = "met" if met else f"not met ({wrong} faults)" if wrong else "not met"
        rows.append([scenario, unit] + [number(f) for f in figures] + ["<br>".join(ratios), "<br>".join(wanted), word])
    return rows, good


def machine():
    model = next((l.split(":")[1].strip() for l in open("/proc/cpuinfo") if l.startswith("model name")), platform.machine())
    def version(*command):
        try:
            out = subprocess.run(command, capture_output=True, text=True)
            return (out.stdout + out.stderr).split("\n")[0].strip()
        except OSError: return "none"
    congestion = open("/proc/sys/net/ipv4/tcp_congestion_control").read().strip()
    return [f"{os.cpu_count()} × {model}, Linux {os.uname().release}, congestion control {congestion}",
            f"{version('haproxy', '-v')}; {version('nginx', '-v')}; {version('openssl', 'version')}"]


def report(files, command):
    runs = [json.load(open(f)) for f in files]
    rows, good = judge(runs)
    head = ["scenario", "unit", "Berth"] + SHOWN + ["ratio, run by run", "target", ""]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(r) + " |" for r in rows]
    lines += ["", f"- {time.strftime('%Y-%m-%d')}, {len(runs)} run{'s' if len(runs) > 1 else ''}: `{command}`"]
    lines += [f"- {l}" for l in machine()]
    return "\n".join(lines) + "\n", good


def write(path, text, name):
    """Replaces what stands between two marks of a page."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    page = open(path).read()
    if begin not in page or end not in page: raise SystemExit(f"{path} has no lines {begin} and {end}")
    before, after = page.split(begin)[0], page.split(end)[1]
    open(path, "w").write(f"{before}{begin}\n\n{text}\n{end}{after}")


def main():
    arguments, target = sys.argv[1:], None
    if "--write" in arguments:
        at = arguments.index("--write"); target = arguments[at + 1]; del arguments[at:at + 2]
    if not arguments or arguments[0].startswith("-"): raise SystemExit(__doc__)
    text, good = report(arguments, os.environ.get("BENCH_COMMAND", "make bench"))
    print(text)
    if target: write(target, text, "figures")
    sys.exit(0 if good else 1)


if __name__ == "__main__": main()
