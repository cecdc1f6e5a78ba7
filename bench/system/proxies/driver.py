"""`bench/proxy`: starts each proxy, sends load in turns, writes the page."""
import argparse
import datetime
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import load
import report
import sides

PROJECT = Path(__file__).resolve().parents[3]

EXAMPLE = """example:
  bench/proxy                               everything; writes docs/performance-proxy.md
  bench/proxy --quick --no-build            one short round, printed, nothing written
  bench/proxy --from figures.json           the table of an earlier run once more

Needs Debian's nginx-light haproxy nghttp2-client curl. Nothing leaves loopback.
exit code: 0 every "at least" was kept, 1 one was not, 2 nothing could be measured"""


def say(text):
    """One line of progress."""
    print(f"proxy: {text}", file=sys.stderr, flush=True)


def arguments(argv=None):
    """Parses the command line."""
    parser = argparse.ArgumentParser(prog="bench/proxy", epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter,
                                     description="Measures the auth proxy beside nginx and HAProxy.")
    parser.add_argument("--quick", action="store_true", help="one round of one second, no page: for a look only")
    parser.add_argument("--reps", type=int, help="rounds, default 3")
    parser.add_argument("--secs", type=int, help="seconds of each test, default 4")
    parser.add_argument("--no-build", action="store_true", help="build nothing; use what is there")
    parser.add_argument("--no-tunnel", action="store_true", help="leave out hub and agent")
    parser.add_argument("--no-idle", action="store_true", help="leave out the 10,000 idle connections")
    parser.add_argument("--out", metavar="FILE", help="keep every figure as JSON")
    parser.add_argument("--from", dest="record", metavar="FILE", help="measure nothing: use what --out kept")
    parser.add_argument("--page", metavar="FILE", help="page to write; default docs/performance-proxy.md, with --quick none")
    given = parser.parse_args(argv)
    given.reps = given.reps or (1 if given.quick else 3)
    given.secs = given.secs or (1 if given.quick else 4)
    if given.page is None and not given.quick:
        given.page = str(PROJECT / "docs/performance-proxy.md")
    return given


def program(given):
    """What runs our side, built as packages are."""
    folder = Path(os.environ.get("CARGO_TARGET_DIR") or PROJECT / "target") / "packaged"
    if not given.no_build:
        say("building")
        subprocess.run([PROJECT / "packaging/release", folder], cwd=PROJECT, check=True)
    path = folder / "bench-system"
    if not path.is_file():
        raise RuntimeError(f"{path} is missing: leave out --no-build")
    return path


def versions():
    """What ran."""
    def first(command):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return ((done.stdout or done.stderr).splitlines() or ["-"])[0]
    commit = first(["git", "-C", str(PROJECT), "rev-parse", "--short", "HEAD"])
    return {"blueprint": f"commit {commit}, packaging/release", "nginx": first(["nginx", "-v"]).removeprefix("nginx version: "),
            "haproxy": first(["haproxy", "-v"]).partition(" - ")[0], "h2load": first(["h2load", "--version"])}


def measure(given):
    """All rounds; each proxy in turn within a round."""
    for tool in ("nginx", "haproxy", "h2load", "curl"):
        if not shutil.which(tool):
            raise RuntimeError(f"{tool} is missing: apt-get install nginx-light haproxy nghttp2-client curl")
    binary = program(given)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    rounds = []
    with tempfile.TemporaryDirectory(prefix="blueprint-bench-") as name:
        folder, started = Path(name), []
        try:
            def start(side):
                started.append(side)
                return side
            direct = start(sides.service(folder))
            fronts = [start(sides.nginx_side(folder, "nginx", direct, "if ($known = 0) { return 401; }")),
                      start(sides.nginx_side(folder, "nginx, auth_request", direct, "auth_request /auth;")),
                      start(sides.haproxy_side(folder, direct)), start(sides.blueprint_side(binary, direct, False))]
            if not given.no_tunnel:
                fronts.append(start(sides.blueprint_side(binary, direct, True)))
            for number in range(given.reps):
                rounds.append({side.name: one(side, given.secs, number, given) for side in [direct, *fronts]})
                report.add_latency(binary, rounds[-1], [direct, *fronts], given.secs, say)
        finally:
            for side in reversed(started):
                side.end()
    machine = {"kernel": platform.release(), "cpus": os.cpu_count()}
    settings = {"reps": given.reps, "secs": given.secs, "connections": load.CONNECTIONS, "idle": load.IDLE}
    return {"date": datetime.date.today().isoformat(), "machine": machine, "settings": settings, "versions": versions(), "rounds": rounds}


def one(side, secs, number, given):
    """Everything of one proxy in one round, but the latency at half load."""
    say(f"round {number + 1}: {side.name}")
    figures = {"h1": load.h2load(side, False, secs), "bulk": load.bulk(side)}
    if side.http2:
        figures["h2"] = load.h2load(side, True, secs)
    if number == 0 and not given.no_idle and side.name in ("nginx", "haproxy", "blueprint"):
        figures["idle_kib"] = load.idle(side)
    return figures


def main(argv=None):
    """Runs it; the exit code."""
    given = arguments(argv)
    try:
        record = json.loads(Path(given.record).read_text()) if given.record else measure(given)
    except (RuntimeError, OSError, subprocess.SubprocessError) as error:
        say(f"nothing measured: {error}")
        return 2
    if given.out:
        Path(given.out).write_text(json.dumps(record, indent=1))
    text, kept = report.page(record)
    if given.page:
        Path(given.page).write_text(text)
        say(f"wrote {given.page}")
    print(text)
    return 0 if kept else 1
