"""`bench/performance`: finds everything, runs the harness, writes the page."""
import argparse
import datetime
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import page
import peers
import rows

PROJECT = Path(__file__).resolve().parents[3]
ADAPTERS = PROJECT / "bench/system/adapters"
# Its iperf3 stands before the real one, and says why.
SHIM = PROJECT / "bench/system/table/shim"
TUN_MTU, VETH_MTU = 1420, 1500
# Seconds that one implementation takes beside its tests: bring-up, servers, tear-down; seen on two busy cores.
BESIDE_SECS = 25
TESTS = 9
END_SECS = 60
SYSTEM_STAGES = "peers,handshake,netstack"
SYSTEM_LIMIT_SECS = 600

EXAMPLE = """example:
  bench/performance --harness DIR                             everything; writes docs/performance.md
  WGBENCH=DIR bench/performance --quick --no-build            one short round, printed, nothing written
  bench/performance --from figures.json                       the table of an earlier run once more

Needs root, and Debian's iproute2 iperf3 wireguard-tools iputils-ping ethtool procps. Peers: wireguard-go, openvpn
and nebula where installed; boringtun-cli and gotatun-cli by WB_BORINGTUN and WB_GOTATUN, else installed from
crates.io into the cache folder; the harness's probe by WB_PROBE, else built there.
exit code: 0 every "at least" was measured and kept, 1 one was not, 2 nothing could be measured"""


class Failed(Exception):
    """Nothing can be measured; the text says why."""


def say(text):
    """One line of progress."""
    print(f"performance: {text}", file=sys.stderr, flush=True)


def arguments(argv=None):
    """Parses the command line."""
    parser = argparse.ArgumentParser(prog="bench/performance", epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter,
                                     description="Measures the tunnel beside its peers and writes docs/performance.md.")
    parser.add_argument("--harness", metavar="DIR", help="folder of wgbench.py; else the variable WGBENCH names it")
    parser.add_argument("--quick", action="store_true", help="one round of one second, offload on, no page: for a look only")
    parser.add_argument("--reps", type=int, help="rounds, default 3")
    parser.add_argument("--secs", type=int, help="seconds of each test, default 3")
    parser.add_argument("--topo", default="2,3", help="nodes, default 2,3")
    parser.add_argument("--offload", help="settings of the veth, default on,wire")
    parser.add_argument("--boost", action="store_true", help="run ahead of other load on this machine")
    parser.add_argument("--only", metavar="NAMES", help="only these implementations, such as blueprint,probe")
    parser.add_argument("--no-build", action="store_true", help="build and install nothing; use what is there")
    parser.add_argument("--no-system", action="store_true", help="leave out the stages of bench-system")
    parser.add_argument("--out", metavar="FILE", help="keep every figure as JSON")
    parser.add_argument("--from", dest="record", metavar="FILE", help="measure nothing: use what --out kept")
    parser.add_argument("--page", metavar="FILE", help="page to write; default docs/performance.md, with --quick none")
    given = parser.parse_args(argv)
    given.reps = given.reps or (1 if given.quick else 3)
    given.secs = given.secs or (1 if given.quick else 3)
    given.offload = (given.offload or ("on" if given.quick else "on,wire")).split(",")
    if given.page is None and not given.quick:
        given.page = str(PROJECT / "docs/performance.md")
    return given


def harness_folder(given):
    """The folder of the harness, which is not part of this project."""
    named = given.harness or os.environ.get("WGBENCH")
    if not named:
        raise Failed("the harness is not part of this project: name its folder by --harness DIR or WGBENCH")
    folder = Path(named)
    if not (folder / "wgbench.py").is_file():
        raise Failed(f"no wgbench.py in {folder}: name the harness by --harness DIR or WGBENCH")
    return folder.resolve()


def cache_folder():
    """Where peers are kept between runs."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "blueprint-hub/peers"


def remove_namespaces(tag):
    """Removes what a killed harness left; gives the names."""
    listed = [line.split()[0] for line in peers.run(["ip", "netns", "list"]).splitlines() if line.strip()]
    left = [name for name in listed if name.startswith(tag) and name[len(tag):len(tag) + 1] in ("h", "s")]
    for name in left:
        subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
    return left


def end(child):
    """Ends the harness; it removes its namespaces and processes on the way out."""
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(END_SECS)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()


def run_harness(harness, impls, offload, given, tests, scratch):
    """One run of the harness: its results, and the last error of each implementation by round."""
    out = Path(scratch) / "out.json"
    rounds = given.reps * len(given.topo.split(",")) * len(impls)
    command = [sys.executable, "-B", harness / "wgbench.py", "--impls", ",".join(map(str, impls)), "--topo", given.topo,
               "--reps", str(given.reps), "--secs", str(given.secs), "--ping-secs", str(min(given.secs, 2)),
               "--veth-offload", offload, "--tun-mtu", str(TUN_MTU), "--veth-mtu", str(VETH_MTU), "--ref", "plain",
               "--max-secs", str(rounds * (TESTS * given.secs + BESIDE_SECS) + 120), "--out", out]
    command += ["--tests", tests] if tests else []
    command += ["--boost"] if given.boost else []
    out.unlink(missing_ok=True)
    errors = {}
    # A session of its own: it is told to end once, by us, and cleans up after itself.
    surroundings = {**os.environ, "PATH": f"{SHIM}:{os.environ['PATH']}", "IPERF3_REAL": shutil.which("iperf3")}
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
                             env=surroundings)
    try:
        for line in child.stderr:
            words = line.split()
            if len(words) > 5 and words[0] == "!":
                errors[f"{rows.name_of(words[1])} {words[3]} {words[5].rstrip(':')}"] = " ".join(words[6:])[-300:]
            print(f"  {line.rstrip().replace(str(ADAPTERS) + '/', '')}", file=sys.stderr, flush=True)
        child.wait()
    finally:
        end(child)
        left = remove_namespaces(f"wb{child.pid % 100000}")
        if left:
            say(f"removed what the harness left behind: {' '.join(left)}")
    if not out.is_file():
        raise Failed(f"the harness ended with code {child.returncode} and no figures")
    return {"offload": offload, "results": json.loads(out.read_text())["results"], "errors": errors}


def run_system(folder):
    """Figures of `bench-system`: [{name, unit, value}]."""
    program = folder / "bench-system"
    if not program.is_file():
        say("bench-system is not built: its figures are left out")
        return []
    say(f"bench-system: {SYSTEM_STAGES}")
    try:
        told = peers.run([program, "--only", SYSTEM_STAGES, "--output", "json"], SYSTEM_LIMIT_SECS)
        return json.loads(told)["figures"]
    except (peers.Missing, ValueError, KeyError) as why:
        say(f"bench-system gave no figures: {why}")
        return []


def measure(given):
    """Everything of one run, as it is kept by --out."""
    harness = harness_folder(given)
    if os.geteuid():
        raise Failed("needs root: the harness makes network namespaces and TUN devices")
    lacking = peers.missing_tools()
    if lacking:
        raise Failed(f"tools are missing: apt-get install {' '.join(lacking)}")
    own, folder = peers.ours(PROJECT, not given.no_build, say)
    found = [own, *peers.find(harness, cache_folder(), not given.no_build, say)]
    if given.only:
        names = given.only.split(",")
        for peer in found:
            if peer["name"] not in names:
                peer.setdefault("missing", "left out by --only")
    for peer in found:
        say(f"{peer['name']}: " + (f"MISSING: {peer['missing']}" if peer.get("missing") else peer["version"]))
    there = {peer["name"] for peer in found if not peer.get("missing")}
    impls = [ADAPTERS / "blueprint.sh" if peer["name"] == rows.OURS else peer["name"] for peer in found if peer["name"] in there]
    record = {"date": datetime.date.today().isoformat(), "machine": peers.machine(), "peers": found, "runs": [], "system": [],
              "settings": {"reps": given.reps, "secs": given.secs, "tun_mtu": TUN_MTU, "veth_mtu": VETH_MTU}}
    carriers = [ADAPTERS / f"{name}.sh" for name in (rows.OURS, rows.QUIC, rows.TLS)]
    with tempfile.TemporaryDirectory(prefix="blueprint-performance-") as scratch:
        for offload in given.offload:
            say(f"harness: {len(impls)} implementations, nodes {given.topo}, offload {offload}")
            record["runs"].append({"kind": "main", **run_harness(harness, impls, offload, given, None, scratch)})
            if rows.OURS in there and "2" in given.topo.split(","):
                say(f"harness: our carriers, offload {offload}")
                two = argparse.Namespace(**{**vars(given), "topo": "2"})
                run = run_harness(harness, carriers, offload, two, "tcp1_up,tcp1_down", scratch)
                record["runs"].append({"kind": "carriers", **run})
            keep(record, given)
    if folder and not given.no_system:
        system = run_system(folder)
        figures = {figure["name"]: figure["value"] for figure in system}
        record["system"] = system + rows.netstack_figures(record["runs"], figures)
        keep(record, given)
    return record


def keep(record, given):
    """Writes what is there so far to --out."""
    if given.out:
        Path(given.out).write_text(json.dumps(record, indent=1))


def publish(record, given):
    """Writes or prints the page; gives whether every promise is kept."""
    figures = {figure["name"]: figure["value"] for figure in record["system"]}
    verdicts = rows.verdicts(record["runs"], figures)
    generated = page.generate(record, verdicts)
    if given.page:
        path = Path(given.page)
        path.write_text(page.merge(path.read_text() if path.is_file() else "", generated))
        say(f"wrote {path}")
    else:
        print(generated)
    kept = rows.is_kept(verdicts)
    counts = {}
    for _, answers in verdicts:
        for answer in answers.values():
            counts[answer["verdict"]] = counts.get(answer["verdict"], 0) + 1
    say(", ".join(f"{count} x {text}" for text, count in sorted(counts.items())))
    return kept


def interrupted(number, _):
    """Leaves through every `finally`."""
    raise SystemExit(128 + number)


def main(argv=None):
    """Runs the command and gives its exit code."""
    given = arguments(argv)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupted)
    try:
        record = json.loads(Path(given.record).read_text()) if given.record else measure(given)
        return 0 if publish(record, given) else 1
    except (Failed, peers.Missing, OSError, ValueError) as why:
        say(str(why))
        return 2
