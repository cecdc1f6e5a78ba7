"""Finds what is compared: our own programs, the peers, the probe. What is missing is named, with the reason."""
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

INSTALL_LIMIT_SECS = 1800
# Our own programs are built twice, the second time by what the first did (packaging/release).
RELEASE_LIMIT_SECS = 7200

# Programs that the harness runs, and the Debian package that holds each.
TOOLS = {"ip": "iproute2", "iperf3": "iperf3", "wg": "wireguard-tools", "ping": "iputils-ping", "ss": "iproute2",
         "ethtool": "ethtool", "sysctl": "procps"}


class Missing(Exception):
    """Something cannot be run; the text says why."""


def run(command, limit=60, **more):
    """The output of a program that has to succeed."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False, **more)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Missing(f"{command[0]}: {error}") from error
    if done.returncode:
        lines = (done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}").splitlines()
        raise Missing(f"{' '.join(map(str, command[:3]))}: {lines[-1]}")
    return done.stdout


def first_line(command):
    """The first line that a program prints, or nothing."""
    try:
        return run(command).strip().splitlines()[0]
    except (Missing, IndexError):
        return ""


def missing_tools():
    """Debian packages of tools that are not there."""
    return sorted({package for tool, package in TOOLS.items() if not shutil.which(tool)})


def debian_version(package):
    """Version of an installed Debian package, or nothing."""
    if not shutil.which("dpkg-query"):
        return ""
    return first_line(["dpkg-query", "--show", "--showformat=${Version}", package])


def from_path(program, package, extra=()):
    """A program of PATH and the version of its package."""
    for name in (program, *extra):
        if not shutil.which(name):
            raise Missing(f"{name} is not installed (Debian package {package})")
    version = debian_version(package)
    return f"Debian {version}" if version else "of PATH"


def from_crates(variable, crate, version, program, cache, may_build, say):
    """A program named by an environment variable, or installed from crates.io into the cache."""
    given = os.environ.get(variable)
    path = Path(given) if given else cache / "bin" / program
    if not path.is_file():
        if given:
            raise Missing(f"{variable} names {given}, which is no file")
        if not may_build:
            raise Missing(f"not in {path.parent}, and --no-build was given; or name it by {variable}")
        say(f"installing {crate} {version} (once)")
        run(["cargo", "install", "--locked", "--quiet", "--version", version, "--root", cache, crate], INSTALL_LIMIT_SECS)
    os.environ[variable] = str(path)
    said = re.search(r"\d+\.\d+\.\d+", first_line([path, "--version"]))
    return said.group() if said else version


def probe(harness, cache, may_build, say):
    """The harness's own probe."""
    given = os.environ.get("WB_PROBE")
    path = Path(given) if given else cache / "target/release/probe"
    if not path.is_file():
        if given or not may_build:
            raise Missing(f"{path} is no file")
        say("building the probe of the harness (once)")
        run(["cargo", "build", "--release", "--locked", "--quiet", "--manifest-path", harness / "probe/Cargo.toml",
             "--target-dir", cache / "target"], INSTALL_LIMIT_SECS)
    os.environ["WB_PROBE"] = str(path)
    return "of the harness"


def find(harness, cache, may_build, say):
    """Everything that could be compared: [{name, version} or {name, missing}]."""
    ways = {
        "wireguard-go": lambda: from_path("wireguard-go", "wireguard-go"),
        "boringtun": lambda: from_crates("WB_BORINGTUN", "boringtun-cli", "0.7.1", "boringtun-cli", cache, may_build, say),
        "gotatun": lambda: from_crates("WB_GOTATUN", "gotatun-cli", "0.10.2", "gotatun", cache, may_build, say),
        "probe": lambda: probe(harness, cache, may_build, say),
        "openvpn": lambda: from_path("openvpn", "openvpn", ["openssl"]),
        "nebula": lambda: from_path("nebula", "nebula", ["nebula-cert"]),
        "plain": lambda: "no tunnel",
    }
    found = []
    for name, way in ways.items():
        try:
            found.append({"name": name, "version": way()})
        except Missing as why:
            found.append({"name": name, "missing": str(why)})
    return found


def packaged_folder(project):
    """Where our own programs lie, as packages have them."""
    told = run(["cargo", "metadata", "--no-deps", "--offline", "--format-version", "1"], cwd=project)
    return Path(json.loads(told)["target_directory"]) / "packaged"


def ours(project, may_build, say):
    """Our own programs: ({name, version} or {name, missing}, their folder)."""
    entry = {"name": "blueprint"}
    try:
        folder = packaged_folder(project)
        if may_build:
            say("building our programs as packages have them")
            run([project / "packaging/release", folder], RELEASE_LIMIT_SECS, cwd=project)
        for program in ("blueprint-hub", "blueprint-agent"):
            if not (folder / program).is_file():
                raise Missing(f"{program} is not built: packaging/release {folder}")
        entry["version"] = version_of_ours(project, folder)
        if not re.search(r"^#?\s*interface\s*=", run([folder / "blueprint-hub", "config", "default"]), re.M):
            raise Missing("this build has no TUN mode (no key tunnel.interface)")
    except Missing as why:
        entry["missing"] = str(why)
        return entry, None
    os.environ["WB_BLUEPRINT_BIN"] = str(folder)
    return entry, folder


def version_of_ours(project, folder):
    """Version and commit."""
    words = first_line([folder / "blueprint-hub", "--version"]).split()
    commit = first_line(["git", "-C", project, "describe", "--always", "--dirty", "--exclude=*"])
    return f"{words[-1] if words else 'unknown'} ({commit or 'no commit known'})"


def machine():
    """The machine that the figures belong to."""
    def read(path):
        try:
            return Path(path).read_text()
        except OSError:
            return ""
    model = re.search(r"^model name\s*:\s*(.+)$", read("/proc/cpuinfo"), re.M)
    memory = re.search(r"^MemTotal:\s+(\d+)", read("/proc/meminfo"), re.M)
    return {"kernel": read("/proc/sys/kernel/osrelease").strip() or "unknown", "cpus": os.cpu_count() or 0,
            "cpu": model.group(1) if model else "unknown",
            "memory_gb": round(int(memory.group(1)) / 1e6) if memory else "unknown"}
