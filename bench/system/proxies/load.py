"""Sends load with h2load, curl and `bench-system pace`, and reads what they say."""
import contextlib
import json
import os
import re
import socket
import subprocess
import tempfile
import time

CONNECTIONS = 64
IDLE = 10_000
# Loopback addresses from which idle connections come: what a proxy allows one source is not the matter here.
SOURCES = 64


def percentile(values, share):
    """Nearest rank."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else None


def tasks(pids):
    """Threads of processes, by number."""
    for pid in pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            yield from map(int, os.listdir(f"/proc/{pid}/task"))


def move(task, processors):
    """Lets a thread run on these processors only; some of the kernel's cannot be moved, and some are gone."""
    with contextlib.suppress(OSError):
        os.sched_setaffinity(task, processors)


@contextlib.contextmanager
def apart(running):
    """Gives what runs (processes by number) one processor, and says which one is left for the generator of load.

    Everything else that can be moved, the kernel's own threads too, leaves that one meanwhile.
    """
    free = sorted(os.sched_getaffinity(0))
    if len(free) < 2:
        raise RuntimeError("latency is measured with two processors, one of them for the load")
    ours, before = set(tasks(running)), {}
    for task in tasks(int(name) for name in os.listdir("/proc") if name.isdigit()):
        with contextlib.suppress(OSError):
            before[task] = os.sched_getaffinity(task)
    for task, processors in before.items():
        if task in ours:
            move(task, {free[0]})
        elif free[0] in processors and len(processors) > 1:
            move(task, processors - {free[0]})
    try:
        yield free[-1]
    finally:
        # Threads that were started meanwhile have what their process was given.
        for task, processors in {**dict.fromkeys(tasks(running), set(free)), **before}.items():
            move(task, processors)


def on(processor):
    """Starts a command on that processor."""
    return ["taskset", "-c", str(processor)] if processor is not None else []


def pace(binary, side, http2, secs, rate, processor):
    """The same requests, so many a second, spaced evenly: percentiles of their latency in ms."""
    command = [*on(processor), str(binary), "pace", "--to", f"127.0.0.1:{side.http2 if http2 else side.http1}", "--path", "/1k",
               "--connections", str(CONNECTIONS), "--rate", f"{rate:.1f}", "--secs", str(secs), *(["--http2"] if http2 else [])]
    for name, value in side.headers.items():
        command += ["--header", f"{name}: {value}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=secs + 60, check=False)
    if done.returncode:
        raise RuntimeError(f"{side.name}: {done.stderr.strip()}")
    told = json.loads(done.stdout)
    if told["rate"] < rate * 0.95:
        raise RuntimeError(f"{side.name}: {told['rate']} requests/s were sent instead of {rate:.0f}")
    return {"rate": told["rate"], "p50": told["p50_us"] / 1000, "p99": told["p99_us"] / 1000}


def h2load(side, http2, secs, processor=None):
    """Requests for 1 KiB over 64 connections, one at a time on each, as fast as they are answered.

    Answers requests a second, processor seconds of the proxy a request, and percentiles in ms.
    """
    port = side.http2 if http2 else side.http1
    command = [*on(processor), "h2load", "-c", str(CONNECTIONS), "-m", "1", "-t", "1", "-D", str(secs),
               *(["-p", "h2c"] if http2 else ["--h1"])]
    for name, value in side.headers.items():
        command += ["-H", f"{name}: {value}"]
    with tempfile.NamedTemporaryFile() as log:
        before, began = side.processor(), time.monotonic()
        done = subprocess.run([*command, "--log-file", log.name, f"http://127.0.0.1:{port}/1k"],
                              capture_output=True, text=True, timeout=secs + 60, check=True)
        used, took = side.processor() - before, time.monotonic() - began
        rows = [line.split() for line in log.read().decode().splitlines()]
    good = [int(row[2]) / 1000 for row in rows if len(row) >= 3 and row[1] == "200"]
    bad = len(rows) - len(good)
    finished = re.search(r"finished in [^,]*, ([0-9.]+) req/s", done.stdout)
    if not finished or not good or bad > len(rows) / 1000:
        raise RuntimeError(f"{side.name}: {bad} of {len(rows)} requests failed\n{done.stdout}{done.stderr}")
    return {"rate": float(finished.group(1)), "cpu_us": used / len(rows) * 1e6, "took": took,
            "p50": percentile(good, 0.5), "p99": percentile(good, 0.99)}


def bulk(side):
    """One answer of 1 GiB: Gbit/s, and processor seconds of the proxy for it."""
    command = ["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code} %{size_download} %{time_total}"]
    for name, value in side.headers.items():
        command += ["-H", f"{name}: {value}"]
    before = side.processor()
    done = subprocess.run([*command, f"http://127.0.0.1:{side.http1}/1g"], capture_output=True, text=True, timeout=120, check=True)
    code, size, took = done.stdout.split()
    if code != "200" or int(size) != 1 << 30:
        raise RuntimeError(f"{side.name}: {code}, {size} bytes")
    return {"gbit": int(size) * 8 / float(took) / 1e9, "cpu": side.processor() - before}


def idle(side):
    """Memory of one connection that has sent a request and idles, in KiB."""
    request = "GET /1k HTTP/1.1\r\nHost: 127.0.0.1\r\n" + "".join(f"{k}: {v}\r\n" for k, v in side.headers.items()) + "\r\n"
    held = []
    try:
        before = side.memory()
        for number in range(IDLE):
            client = socket.create_connection(("127.0.0.1", side.http1), 10, (f"127.0.1.{1 + number % SOURCES}", 0))
            held.append(client)
            client.sendall(request.encode())
            answer = b""
            while b"\r\n\r\n" not in answer or len(answer.partition(b"\r\n\r\n")[2]) < 1024:
                piece = client.recv(65536)
                if not piece:
                    raise RuntimeError(f"{side.name} closed connection {number}: {answer[:200]!r}")
                answer += piece
            if not answer.startswith(b"HTTP/1.1 200"):
                raise RuntimeError(f"{side.name} answered connection {number}: {answer[:200]!r}")
        time.sleep(3)
        return (side.memory() - before) / IDLE / 1024
    finally:
        for client in held:
            client.close()
