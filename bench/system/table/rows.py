"""The table of promises: what is measured, against whom, and whether it is kept.

Knows nothing of processes or files. A run is a dict with `offload` and `results`, a result is one implementation in
one round: `impl`, `topo` (nodes), `rep` (round) and `m`, the figures, or None where it failed.
"""
import os
import statistics

OURS = "blueprint"
QUIC, TLS = "blueprint-quic", "blueprint-tls"

TCP = ["tcp1_up_gbps", "tcp1_down_gbps", "tcp4_up_gbps", "tcp4_down_gbps"]
UDP = ["udp64_up_kpps", "udp64_down_kpps"]
TCP_CPU = [metric.replace("_gbps", "_cpu_s_per_GB") for metric in TCP]
UDP_CPU = [metric.replace("_kpps", "_cpu_us_per_pkt") for metric in UDP]
RETRANSMITS = [metric.replace("_gbps", "_retr") for metric in TCP]
SMALL = ["boringtun", "gotatun"]
# Neither is a product: the one is a program without a control plane, the other no tunnel at all.
NO_PEERS = ["probe", "plain", OURS, QUIC, TLS]
NODES = {2: "2 nodes", 3: "relay"}

HIGHER, LOWER = "higher", "lower"


class Row:
    """One promise: in each round our figure, divided by the reference's where there is one."""

    def __init__(self, name, metrics, topos, against, better, least, target, subject=OURS):
        self.name, self.metrics, self.topos, self.against = name, metrics, topos, against
        self.better, self.least, self.target, self.subject = better, least, target, subject

    def label(self):
        """The reference in words."""
        if self.against is None:
            return "-"
        if self.against == "peers":
            return "best peer"
        return "best of " + " and ".join(self.against) if len(self.against) > 1 else self.against[0]


class Figure:
    """A promise about a figure of `bench-system`."""

    def __init__(self, name, figure, better, least, target):
        self.name, self.figure, self.better, self.least, self.target = name, figure, better, least, target


ROWS = [
    Row("any throughput, 2 nodes and relay", TCP + UDP, [2, 3], ["probe"], HIGHER, 0.75, 0.90),
    Row("TCP, 2 nodes", TCP, [2], ["wireguard-go"], HIGHER, 7, 9),
    Row("TCP, 2 nodes", TCP, [2], ["boringtun"], HIGHER, 5, 6.5),
    Row("TCP, 2 nodes", TCP, [2], ["gotatun"], HIGHER, 4, 5.5),
    Row("TCP, relay", TCP, [3], ["wireguard-go"], HIGHER, 7, 10),
    Row("TCP, relay", TCP, [3], ["gotatun"], HIGHER, 5, 7),
    Row("UDP 64 B delivered, 2 nodes", UDP, [2], SMALL, HIGHER, 1.5, 2.0),
    Row("UDP 64 B delivered, relay", UDP, [3], SMALL, HIGHER, 1.5, 2.0),
    Row("daemon CPU per GB of TCP, 2 nodes", TCP_CPU, [2], ["wireguard-go"], LOWER, 0.14, 0.11),
    Row("daemon CPU per GB of TCP, relay", TCP_CPU, [3], ["wireguard-go"], LOWER, 0.11, 0.08),
    Row("daemon CPU per 64 B packet, 2 nodes", UDP_CPU, [2], SMALL, LOWER, 0.5, 0.32),
    Row("daemon CPU per 64 B packet, relay", UDP_CPU, [3], SMALL, LOWER, 0.35, 0.20),
    Row("idle ping p50", ["idle_p50_us"], [2, 3], ["boringtun"], LOWER, 1.2, 0.9),
    Row("ping p99 under one TCP stream", ["load_p99_us"], [2, 3], "peers", LOWER, 0.8, 0.3),
    Row("TCP retransmits", RETRANSMITS, [2, 3], None, LOWER, 0, 0),
    Row("hub memory with 2 peers, MB", ["rss_hub_MB"], [3], None, LOWER, 40, 20),
    Row("QUIC carrier, TCP 1 stream", TCP[:2], [2], [OURS], HIGHER, 0.5, 0.7, QUIC),
    Row("TLS carrier, TCP 1 stream", TCP[:2], [2], [OURS], HIGHER, 0.3, 0.5, TLS),
]

FIGURES = [
    Figure("hub memory with 10,000 peers, MB", "peers.memory", LOWER, 200, 140),
    Figure("data plane memory of a peer, KiB", "peers.memory_each", LOWER, 15, 15),
    Figure("idle cost of 10,000 peers, % of a core", "peers.idle_cpu", LOWER, 3, 3),
    Figure("10,000 peers back after a restart, s", "peers.back_after_restart", LOWER, 30, 30),
    Figure("responder handshakes per core-second", "handshake.responder_rate", HIGHER, 4000, 8000),
    Figure("netstack, TCP 1 stream, Gbit/s per core", "netstack.per_core", HIGHER, 1, 1),
]

MET, LEAST, MISSED, UNKNOWN = "target met", "at least met", "MISSED", "not measured"


def name_of(impl):
    """The name of an implementation that the harness was given as a name or as the path of an adapter."""
    return os.path.basename(impl).removesuffix(".sh")


def rounds_of(run):
    """Results by round: {(topo, rep): {implementation: figures}}, failed ones left out."""
    rounds = {}
    for result in run["results"]:
        if result["m"]:
            rounds.setdefault((result["topo"], result["rep"]), {})[name_of(result["impl"])] = result["m"]
    return rounds


def reference(row, figures, metric):
    """What our figure of this round is divided by; None where nobody has one."""
    names = [name for name in figures if name not in NO_PEERS] if row.against == "peers" else row.against
    values = [figures[name].get(metric) for name in names if name in figures]
    values = [value for value in values if value]
    best = max if row.better == HIGHER else min
    return best(values) if values else None


def values_of(row, rounds, topo, metric):
    """The row's value in every round that has both sides."""
    values = []
    for (nodes, _), figures in sorted(rounds.items()):
        ours = figures.get(row.subject, {}).get(metric)
        if nodes != topo or ours is None:
            continue
        divisor = 1 if row.against is None else reference(row, figures, metric)
        if divisor:
            values.append(ours / divisor)
    return values


def has_figure(name, rounds, topo, metric):
    """Whether an implementation gave a figure in any round."""
    return any(figures.get(name, {}).get(metric) is not None for (nodes, _), figures in rounds.items() if nodes == topo)


def verdict(value, row):
    """In words, for a value that there is."""
    def keeps(limit):
        return value >= limit if row.better == HIGHER else value <= limit
    return MET if keeps(row.target) else LEAST if keeps(row.least) else MISSED


def judge(row, run):
    """The row in one run: its worst median, where that is, and what is missing of it."""
    rounds = rounds_of(run)
    ran = {name for figures in rounds.values() for name in figures}
    if row.subject not in ran:
        return {"verdict": UNKNOWN, "why": f"{row.subject} was not run", "ours": True}
    wanted = [] if row.against in (None, "peers") else row.against
    absent = [name for name in wanted if name not in ran]
    if wanted and len(absent) == len(wanted):
        return {"verdict": UNKNOWN, "why": f"{' and '.join(absent)} missing"}
    cells = [(values_of(row, rounds, topo, metric), topo, metric) for topo in row.topos for metric in row.metrics]
    topos = {topo for topo, _ in rounds}
    lost = [f"{metric} ({NODES[topo]})" for _, topo, metric in cells
            if topo in topos and not has_figure(row.subject, rounds, topo, metric)]
    medians = [(statistics.median(values), values, topo, metric) for values, topo, metric in cells if values]
    if not medians:
        return {"verdict": MISSED if lost else UNKNOWN, "why": "no round with both sides"}
    pick = min if row.better == HIGHER else max
    value, values, topo, metric = pick(medians, key=lambda cell: cell[0])
    answer = {"value": value, "min": min(values), "max": max(values), "rounds": len(values), "topo": topo,
              "metric": metric, "verdict": verdict(value, row), "lost": lost, "absent": absent}
    # A figure that could not be taken keeps no promise.
    if lost:
        answer["verdict"] = MISSED
    return answer


def judge_figure(row, figures):
    """The same for a figure of `bench-system`; `figures` is {name: value}."""
    if row.figure not in figures:
        return {"verdict": UNKNOWN, "why": f"no figure {row.figure}", "ours": True}
    value = figures[row.figure]
    return {"value": value, "verdict": verdict(value, row)}


def netstack_figures(runs, figures):
    """The stream of netstack mode as a share of TUN mode's in the same run: [{name, unit, value}]."""
    shares = []
    for way in ("up", "down"):
        of_tun = [medians(run, 2)[1].get(f"tcp1_{way}_gbps", {}).get(OURS)
                  for run in runs if run["kind"] == "main" and run["offload"] == "on"]
        netstack = figures.get(f"netstack.tcp1_{way}")
        if of_tun and of_tun[0] and netstack is not None:
            shares.append({"name": f"netstack.tcp1_{way}_of_tun", "unit": "of TUN mode", "value": netstack / of_tun[0][0]})
    return shares


def carrier_rows():
    """The rows that need our own carriers, which is a run of its own."""
    return [row for row in ROWS if row.subject != OURS]


def main_rows():
    """All other rows of the harness."""
    return [row for row in ROWS if row.subject == OURS]


def verdicts(runs, figures):
    """Every verdict: [(row, {offload: answer})]; figures of `bench-system` stand under "-"."""
    table, none = [], {"results": []}
    offloads = list(dict.fromkeys(run["offload"] for run in runs))
    for rows, kind in ((main_rows(), "main"), (carrier_rows(), "carriers")):
        of_kind = {run["offload"]: run for run in runs if run["kind"] == kind}
        table += [(row, {offload: judge(row, of_kind.get(offload, none)) for offload in offloads}) for row in rows]
    table += [(row, {"-": judge_figure(row, figures)}) for row in FIGURES]
    return table


def is_kept(table):
    """Whether every promise was measured on our side and none was missed; an absent peer breaks none."""
    answers = [answer for _, by_offload in table for answer in by_offload.values()]
    return bool(answers) and not any(answer["verdict"] == MISSED or answer.get("ours") for answer in answers)


def medians(run, topo):
    """All figures of a topology: (implementations, {metric: {implementation: (median, min, max)}})."""
    names, table = [], {}
    for (nodes, _), figures in sorted(rounds_of(run).items()):
        if nodes != topo:
            continue
        for name, metrics in figures.items():
            if name not in names:
                names.append(name)
            for metric, value in metrics.items():
                if value is not None:
                    table.setdefault(metric, {}).setdefault(name, []).append(value)
    folded = {metric: {name: (statistics.median(v), min(v), max(v)) for name, v in row.items()}
              for metric, row in table.items()}
    return names, folded
