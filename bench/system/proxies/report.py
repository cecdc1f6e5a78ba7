"""The page, and which promises were kept."""
import load

HEAD = """# Performance of the auth proxy

Beside nginx and HAProxy, which check the same credential (a header compared with the one known key; nginx also by
`auth_request`), in front of the same service on loopback, in one run. `bench/proxy` writes this page; `bench/README.md`
says how, and what a figure means.

"""


def add_latency(binary, figures, fronts, secs, say):
    """Latency at half of the load that the slowest proxy takes, so that all get the same.

    The generator has one processor for itself, everything else shares one: else what is measured is which of them the
    kernel lets run first.
    """
    with load.apart([pid for side in fronts for pid in side.pids()]) as processor:
        for kind in ("h1", "h2"):
            sides = [side for side in fronts if kind in figures[side.name]]
            alone = [side for side in sides if side is not fronts[0] and "tunnel" not in side.name]
            say(f"half load, {kind}: what each takes on one processor")
            half = min(load.h2load(side, kind == "h2", 1, processor)["rate"] for side in alone) / 2
            for side in sides:
                say(f"half load, {kind}: {half:,.0f}/s to {side.name}")
                figures[side.name][f"{kind}_half"] = load.pace(binary, side, kind == "h2", secs, half, processor)


def median(values):
    """The middle one."""
    ordered = sorted(values)
    return ordered[len(ordered) // 2] if ordered else None


def short(value):
    """Three digits or so."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}" if abs(value) >= 1 else f"{value:.3f}"


def table(head, lines):
    """A Markdown table."""
    return "\n".join("| " + " | ".join(str(cell) for cell in row) + " |" for row in [head, ["---"] * len(head), *lines]) + "\n"


def of(record, name, *path):
    """Median over the rounds of one figure; None where it was not taken."""
    found = []
    for figures in record["rounds"]:
        value = figures.get(name)
        for key in path:
            value = value.get(key) if isinstance(value, dict) else None
        if value is not None:
            found.append(value)
    return median(found)


def ratio(record, name, other, *path):
    """Median of the ratios inside each round."""
    found = []
    for figures in record["rounds"]:
        pair = []
        for which in (name, other):
            value = figures.get(which)
            for key in path:
                value = value.get(key) if isinstance(value, dict) else None
            pair.append(value)
        if all(pair):
            found.append(pair[0] / pair[1])
    return median(found)


def promises(record):
    """Rows: what, value, limit, kept."""
    rows = []
    for kind, words in (("h1", "HTTP/1.1"), ("h2", "HTTP/2")):
        for other in ("nginx", "nginx, auth_request", "haproxy"):
            cost = ratio(record, other, "blueprint", kind, "cpu_us")
            limit = 0.8 if other != "haproxy" else None
            rows.append([f"{words}: requests per processor second, against {other}", cost, limit, ">="])
        for which in ("p50", "p99"):
            ours, direct = of(record, "blueprint", f"{kind}_half", which), of(record, "direct", "h1_half", which)
            added = None if ours is None or direct is None else ours - direct
            rows.append([f"{words}: added latency {which} at half load, ms", added, 1.0 if which == "p99" else None, "<="])
    rows.append(["memory of an idle connection, KiB", of(record, "blueprint", "idle_kib"), 20, "<="])
    rows.append(["1 GiB body: rate against nginx", ratio(record, "blueprint", "nginx", "bulk", "gbit"), None, ">="])
    rows.append(["1 GiB body: rate against haproxy", ratio(record, "blueprint", "haproxy", "bulk", "gbit"), None, ">="])
    lines, kept = [], True
    for what, value, limit, sign in rows:
        if limit is None:
            verdict = "target met" if sign == ">=" and value is not None and value >= 1 else ""
        else:
            is_kept = value is not None and (value >= limit if sign == ">=" else value <= limit)
            kept, verdict = kept and is_kept, "kept" if is_kept else "MISSED"
        lines.append([what, f"**{short(value)}**", "" if limit is None else f"{sign} {limit}", verdict])
    return lines, kept


def page(record):
    """The page, and whether every promise was kept."""
    settings = record["settings"]
    lines, kept = promises(record)
    facts = [["date", record["date"]], ["kernel", record["machine"]["kernel"]], ["processors", record["machine"]["cpus"]],
             ["rounds", f"{settings['reps']}, interleaved; {settings['secs']} s each test"],
             *([name, version] for name, version in record["versions"].items())]
    names = list(record["rounds"][0])
    parts = [HEAD, table(["what", "value"], facts), "\n## What was promised\n\n", table(["what", "value", "limit", "verdict"], lines),
             "\n## Medians\n\nLoad generator, proxy and service share the processors, so the rate is that of the whole machine; the processor "
             "time is that of the proxy alone (with tunnel: hub and agent together). At half load the generator has one processor and "
             "proxy and service share the other; it is half of what the slowest proxy takes so, sent at an even pace.\n\n"]
    rows = []
    for kind, words in (("h1", "HTTP/1.1"), ("h2", "HTTP/2")):
        for path, what in (((kind, "rate"), "requests/s"), ((kind, "cpu_us"), "us of a processor each"), ((kind, "p50"), "p50 at full load, ms"),
                           ((kind, "p99"), "p99 at full load, ms"), ((f"{kind}_half", "p50"), "p50 at half load, ms"),
                           ((f"{kind}_half", "p99"), "p99 at half load, ms")):
            rows.append([f"{words}, {what}", *(short(of(record, name, *path)) for name in names)])
    rows.append(["1 GiB body, Gbit/s", *(short(of(record, name, "bulk", "gbit")) for name in names)])
    rows.append(["1 GiB body, processor seconds", *(short(of(record, name, "bulk", "cpu")) for name in names)])
    rows.append(["memory of an idle connection, KiB", *(short(of(record, name, "idle_kib")) for name in names)])
    parts.append(table(["figure", *names], rows))
    return "".join(parts), kept
