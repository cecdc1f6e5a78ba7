"""What is compared: each side is a proxy in front of the same service, with the same check of a credential."""
import json
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

KIB, GIB = 1 << 10, 1 << 30
TOKEN = "bench-0123456789abcdef0123456789abcdef"
START_SECS = 20

# One connection more per worker than the test of idle connections opens.
NGINX = """
worker_processes 2; daemon off; pid {folder}/{name}.pid; error_log {folder}/{name}.err error;
worker_rlimit_nofile 19000;
events {{ worker_connections 16384; }}
http {{
  access_log off; sendfile on; tcp_nopush on; keepalive_requests 100000000; keepalive_timeout 600s;
  client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder}; uwsgi_temp_path {folder};
  scgi_temp_path {folder};
  {body}
}}
"""

SERVICE = """
  server {{
    listen 127.0.0.1:{port};
    location = /healthz {{ return 200 "ok"; }}
    location = /1k {{ root {folder}; }}
    location = /1g {{ root {folder}; }}
  }}
"""

CHECK_BY_KEY = """
  map $http_authorization $known { default 0; "Bearer %s" 1; }
""" % TOKEN

FRONT = """
  upstream service {{ server 127.0.0.1:{service}; keepalive 128; keepalive_requests 100000000; }}
  {map}
  server {{
    listen 127.0.0.1:{port}; listen 127.0.0.1:{port2} http2;
    location / {{
      {check}
      proxy_pass http://service; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_set_header Host $host; proxy_set_header X-Request-Id $request_id; proxy_buffering {buffering};
    }}
    location = /auth {{ internal; if ($known = 0) {{ return 401; }} return 204; }}
  }}
"""

HAPROXY = """
global
  maxconn 16384
  no strict-limits
  nbthread 2
defaults
  mode http
  timeout connect 3s
  timeout client 600s
  timeout server 600s
  timeout http-keep-alive 600s
  option http-keep-alive
  http-reuse always
frontend front
  bind 127.0.0.1:{port}
  bind 127.0.0.1:{port2} proto h2
  unique-id-format %[uuid()]
  unique-id-header X-Request-Id
  http-request deny deny_status 401 unless {{ req.hdr(authorization) -m str "Bearer {token}" }}
  default_backend service
backend service
  server one 127.0.0.1:{service} maxconn 4096 pool-max-conn 128
"""


def free_port():
    """A port that nobody has at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def ticks(pid):
    """Processor seconds of one process since its start (proc_pid_stat(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident(pid):
    """Bytes of one process that are its own: what workers share counts once (proc_pid_smaps(5))."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * KIB
    return 0


class Side:
    """A running proxy."""

    def __init__(self, name, process, http1, http2, headers, pids):
        self.name, self.process, self.http1, self.http2 = name, process, http1, http2
        self.headers, self._pids = headers, pids

    def pids(self):
        """Its processes; those that it has started count too."""
        found = list(self._pids)
        for pid in self._pids:
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            found.extend(int(child) for child in children)
        return found

    def processor(self):
        """Processor seconds of all of it."""
        return sum(ticks(pid) for pid in self.pids())

    def memory(self):
        """Bytes of all of it."""
        return sum(resident(pid) for pid in self.pids())

    def end(self):
        """Ends it."""
        if self.process is None:
            return
        if self.process.stdin:
            self.process.stdin.close()
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def wait_for(port, process, what):
    """Waits until somebody listens."""
    deadline = time.monotonic() + START_SECS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"{what} ended with {process.returncode}")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    process.kill()
    process.wait()
    raise RuntimeError(f"{what} does not listen after {START_SECS} s")


def nginx(folder, name, body):
    """Starts one nginx."""
    name = name.replace(", ", "-")
    file = folder / f"{name}.conf"
    file.write_text(NGINX.format(folder=folder, name=name, body=body))
    return subprocess.Popen(["nginx", "-p", str(folder), "-c", str(file), "-e", str(folder / f"{name}.err")])


def service(folder):
    """The service behind all of them; also a side of its own, without any proxy."""
    (folder / "1k").write_bytes(b"x" * KIB)
    with open(folder / "1g", "wb") as file:
        file.truncate(GIB)
    folder.chmod(0o755)
    port = free_port()
    process = nginx(folder, "service", SERVICE.format(port=port, folder=folder))
    wait_for(port, process, "nginx as the service")
    return Side("direct", process, port, None, {}, [process.pid])


def nginx_side(folder, name, behind, check):
    """nginx, which checks by a map in the configuration or by a subrequest."""
    port, port2 = free_port(), free_port()
    body = FRONT.format(service=behind.http1, port=port, port2=port2, check=check, map=CHECK_BY_KEY, buffering="on")
    process = nginx(folder, name, body)
    wait_for(port, process, name)
    return Side(name, process, port, port2, {"authorization": f"Bearer {TOKEN}"}, [process.pid])


def haproxy_side(folder, behind):
    """HAProxy, which compares the header."""
    port, port2 = free_port(), free_port()
    file = folder / "haproxy.cfg"
    file.write_text(HAPROXY.format(service=behind.http1, port=port, port2=port2, token=TOKEN))
    process = subprocess.Popen(["haproxy", "-db", "-q", "-f", str(file)])
    wait_for(port, process, "haproxy")
    return Side("haproxy", process, port, port2, {"authorization": f"Bearer {TOKEN}"}, [process.pid])


def blueprint_side(program, behind, tunnel):
    """Our proxy alone, or a hub and an agent."""
    name = "blueprint, tunnel" if tunnel else "blueprint"
    command = [str(program), "front", "--upstream", f"127.0.0.1:{behind.http1}", *(["--tunnel"] if tunnel else [])]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"{name} does not start")
    told = json.loads(line)
    port = int(told["listen"].rpartition(":")[2])
    return Side(name, process, port, port, told["headers"], list(told["pids"].values()))
