"""Writes artefacts that no node may take into a folder, packed as the usual programs pack them."""

import gzip
import io
import os
import sys
import tarfile
import zipfile

INTO, MARK = sys.argv[1:]
PROGRAM = b"#!/bin/sh\nsleep 600\n"
FILE, LINK, HARD = tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE


def write(name, data):
    with open(os.path.join(INTO, name), "wb") as file:
        file.write(data)


def tar(name, entries, mode="w"):
    with tarfile.open(os.path.join(INTO, name), mode) as archive:
        for path, kind, content in entries:
            info = tarfile.TarInfo(path)
            info.type, info.mode = kind, 0o755
            if kind == FILE:
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
            else:
                info.linkname = content
                archive.addfile(info)


def packed(name, entries):
    with zipfile.ZipFile(os.path.join(INTO, name), "w", zipfile.ZIP_DEFLATED) as archive:
        for path, mode, content in entries:
            info = zipfile.ZipInfo(path)
            info.create_system, info.external_attr = 3, mode << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, content)


good = ("bin/program", FILE, PROGRAM)
tar("parent.tar", [good, (f"../../{MARK}", FILE, b"x")])
tar("absolute.tar.gz", [good, (f"/tmp/{MARK}", FILE, b"x")], "w:gz")
tar("symlink.tar.xz", [good, ("out", LINK, "/tmp"), (f"out/{MARK}", FILE, b"x")], "w:xz")
tar("hardlink.tar", [good, ("passwd", HARD, "/etc/passwd")])
tar("bomb.tar.gz", [good, ("zeros", FILE, bytes(64 << 20))], "w:gz")
tar("text.tar", [("readme", FILE, b"not a program\n")])
tar("two.tar", [good, ("bin/other", FILE, PROGRAM)])
packed("parent.zip", [("bin/program", 0o100755, PROGRAM), (f"../../{MARK}", 0o100644, b"x")])
packed("symlink.zip", [("bin/program", 0o100755, PROGRAM), ("out", 0o120777, b"/tmp"), (f"out/{MARK}", 0o100644, b"x")])
packed("bomb.zip", [("bin/program", 0o100755, PROGRAM), ("zeros", 0o100644, bytes(64 << 20))])
write("cut.tar.gz", gzip.compress(PROGRAM * 9000)[:-40])
write("text", b"this is no program\n")
write("script", b"#!/nonexistent/interpreter\n")
with open(os.path.realpath("/bin/true"), "rb") as true:
    elf = true.read()
# The number of the processor, and the name of what loads its libraries.
write("arch", elf[:18] + b"\xb7\x00" + elf[20:])
loader = elf.replace(b"/ld-linux", b"/ld-other")
assert loader != elf
write("loader", loader)
write("good", PROGRAM)
# For a small disk: what has no room as it comes, what has none once it is unpacked, and what grows too large on the way.
write("large", PROGRAM + bytes(32 << 20))
noise = os.urandom(9 << 20)
tar("noise.tar", [good, ("noise", FILE, noise)])
tar("grows.tar.gz", [good, ("text", FILE, b"".join(noise[at : at + 64] * 160 for at in range(0, 2048 * 64, 64)))], "w:gz")
