"""A Debian for the suite: systemd as its process 1, booted from a read-only tree.

It runs in namespaces together with the suite, with their own loopback, and ends with the suite. This module makes no
assertions, and leaves only the tree behind.
"""

import contextlib
import fcntl
import json
import os
import re
import socket
import struct
import subprocess
import sys
from pathlib import Path

from harness import HERE, SIDEGATE, await_that, need, run

TOP = HERE.parent.parent
TREE = Path(os.environ.get("SYSTEM_DEBIAN", TOP / "target/system/debian"))
CHECKOUT = "root/sidegate"  # what an operator has of the project, inside
CGROUPS = Path("/sys/fs/cgroup")
SIOCSIFFLAGS, SIOCSIFADDR = 0x8914, 0x8916
UP_AND_RUNNING = 0x1 | 0x40


def alone(*addresses):
    """Goes on in namespaces of the suite's own for network, mounts and processes; there, the loopback has these addresses too."""
    if os.environ.get("SYSTEM_ALONE"):
        with socket.socket() as any_socket:
            fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh", b"lo", UP_AND_RUNNING))
            for number, address in enumerate(addresses, 1):
                name, address = f"lo:{number}".encode(), socket.inet_aton(address)
                fcntl.ioctl(any_socket, SIOCSIFADDR, struct.pack("16sHxx4s8x", name, socket.AF_INET, address))
        return
    os.environ["SYSTEM_ALONE"] = "yes"
    namespaces = ["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    os.execvp("unshare", ["unshare", *namespaces, sys.executable, *sys.argv])


class Debian:
    """The booted system; `root` is its file system as seen from here."""

    def __init__(self, place):
        self.place, self.layers = place, place.dir / "debian"
        self.root = self.layers / "root"
        self.cgroup = CGROUPS / f"sidegate-{place.dir.name}"

    def __enter__(self):
        with contextlib.ExitStack() as undo:
            self.assemble(undo)
            shown = {TOP / "systemd": "systemd", Path(SIDEGATE): "target/dist/sidegate"}
            self.nspawn = self.place.start(
                "debian", "sh", "-c", 'echo $$ >"$0/cgroup.procs" && exec "$@"', self.cgroup,
                "systemd-nspawn", "--quiet", "--boot", f"--directory={self.root}", "--machine=sidegate-suite",
                "--register=no", "--keep-unit", "--link-journal=no", "--console=pipe",
                # Without these, IPAddressDeny= is let pass silently.
                "--capability=CAP_BPF,CAP_NET_ADMIN", "--system-call-filter=bpf",
                *(f"--bind-ro={path}:/{CHECKOUT}/{name}" for path, name in shown.items()),
            )  # fmt: skip
            self.leader = await_that("systemd is process 1 of a container", self.systemd, 30)
            await_that("systemd has booted", self.booted, 60, every=0.1)
            self.undo = undo.pop_all()
            return self

    def __exit__(self, *why):
        if why[0] and why[0] is not SystemExit:
            journal = self.ask("journalctl", "--lines=60", "--output=short-monotonic")
            print("--- the journal, its end", journal.stdout, sep="\n", flush=True)
        return self.undo.__exit__(*why)

    def assemble(self, undo):
        """The tree below a layer of memory, which takes what is written; and a control group of its own."""
        self.layers.mkdir()
        run("mount", "-t", "tmpfs", "none", self.layers)
        undo.callback(run, "umount", "--recursive", self.layers)
        for name in ("root", "written", "work"):
            (self.layers / name).mkdir()
        options = f"lowerdir={TREE},upperdir={self.layers}/written,workdir={self.layers}/work"
        run("mount", "-t", "overlay", "none", "-o", options, self.root)
        # What nspawn notes about its containers; and one hierarchy of groups, whichever the host has.
        run("mount", "-t", "tmpfs", "none", "/run")
        run("mount", "-t", "cgroup2", "none", CGROUPS)
        self.cgroup.mkdir()
        undo.callback(self.leave_no_group)

    def leave_no_group(self):
        (self.cgroup / "cgroup.kill").write_text("1")
        await_that("nothing runs any more", lambda: "populated 0" in (self.cgroup / "cgroup.events").read_text(), 10)
        for folder, _, _ in os.walk(self.cgroup, topdown=False):
            os.rmdir(folder)

    def systemd(self):
        """The process id, as seen from here, of the container's process 1 once that is systemd."""
        self.nspawn.alive()
        for pid in Path(f"/proc/{self.nspawn.pid}/task/{self.nspawn.pid}/children").read_text().split():
            with contextlib.suppress(OSError):
                if Path(f"/proc/{pid}/comm").read_text().strip() == "systemd":
                    return int(pid)

    def booted(self):
        """True once nothing is left to be started; a unit of Debian's own that failed is a failure."""
        state = self.ask("systemctl", "is-system-running").stdout.strip()
        need(state != "degraded", f"Debian boots whole\n{self.ask('systemctl', '--failed').stdout}")
        return state == "running"

    def inside(self, *argv):
        clean = ["env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8"]
        enter = ["nsenter", f"--target={self.leader}", "--all", f"--wd=/proc/{self.leader}/root/{CHECKOUT}"]
        return [*enter, *clean, *map(str, argv)]

    def run(self, *argv, code=0):
        """Runs a command inside, in the checkout; what it printed. Another exit code than `code` is a failure."""
        return run(*self.inside(*argv), code=code)

    def ask(self, *argv):
        """Runs a command inside, whatever its exit code."""
        return subprocess.run(self.inside(*argv), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60)

    def type(self, script):
        """Runs lines as they would be typed in a root shell; the first that fails is a failure."""
        return self.run("sh", "-eux", "-c", script)

    def write(self, path, text):
        path = self.root / path.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def read(self, path):
        return (self.root / path.lstrip("/")).read_text()

    def drop_in(self, unit, text):
        """What `systemctl edit` would leave, and systemd has read it."""
        self.write(f"/etc/systemd/system/{unit}.d/suite.conf", text)
        self.run("systemctl", "daemon-reload")

    def unit(self, name):
        """What `systemctl show` says about a unit."""
        lines = self.run("systemctl", "show", name).splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line)

    def cursor(self):
        """Here and now in the journal."""
        return re.search(r"-- cursor: (.*)", self.run("journalctl", "--lines=0", "--show-cursor"))[1]

    def journal(self, unit, since):
        """The entries by and about a unit since a cursor."""
        lines = self.run("journalctl", "--output=json", "--all", f"--unit={unit}", f"--after-cursor={since}").splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]


def typed(document, heading):
    """What a document tells its reader to type: the `sh` blocks below a heading, up to the next one."""
    section = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^##|\Z)", (TOP / document).read_text(), re.M | re.S)
    blocks = re.findall(r"^```sh\n(.*?)^```$", section[1] if section else "", re.M | re.S)
    need(blocks, f"{document} says what to type below `{heading}`")
    return "".join(blocks)
