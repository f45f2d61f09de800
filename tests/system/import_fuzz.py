"""Random nginx configurations, and the output of `sidegate import nginx` for them, side by side in front of one backend.

No request that nginx refuses may reach the backend through Sidegate, unless a line OPENS is about it. None may be
redirected to a slash without a line about it, unless nginx does so; and a carried value keeps its value. Without an OPENS
the imported files are used; else those of --accept-opens. A failing configuration is reduced, and printed.

IMPORT_FUZZ_SECONDS sets the duration (50), IMPORT_FUZZ_SEED the run (`SEED`) or one configuration of it (`SEED:7`).
"""

import concurrent.futures
import contextlib
import importlib
import itertools
import json
import os
import pathlib
import random
import re
import socket
import struct
import subprocess
import sys
import threading
import time
import tomllib
import urllib.parse
from collections import Counter
from dataclasses import dataclass

import random_nginx
from harness import SIDEGATE, Place, await_that, figure, listening, need, note

suite = importlib.import_module("import")  # a word that `import` doesn't take

PROBES = 120  # for each configuration
SHRINKING = 120  # seconds
KEY = "dGhlIHNhbXBsZSBub25jZQ=="
MARK = b"X-Backend: reached"
MAIN = "daemon off; user root; worker_processes 1; pid {dir}/nginx.pid; error_log stderr crit;"


class Ports:
    """Free ports, below those that the kernel gives to thousands of clients meanwhile."""

    def __init__(self):
        self.numbers, self.lock = itertools.count(os.getpid() % 900 * 20), threading.Lock()

    def __next__(self):
        with self.lock:
            return next(port for port in map(self.port, self.numbers) if port)

    @staticmethod
    def port(number):
        port = 12000 + number % 20000
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


PORTS = Ports()
USUAL_SEED = "2026"


class Backend:
    """Answers every request alike, so that who reads the answer knows that it was reached."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port = self.listener.getsockname()[1]
        for _ in range(8):
            threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            with contextlib.suppress(OSError), self.listener.accept()[0] as connection:
                connection.settimeout(5)
                head = b""
                while b"\r\n\r\n" not in head:
                    more = connection.recv(65536)
                    if not more:
                        break
                    head += more
                if head:
                    connection.sendall(b"HTTP/1.1 203 Reached\r\n" + MARK + b"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")


@dataclass(frozen=True)
class Answer:
    """How one side answered; 0 where it closed the connection."""

    status: int
    reached: bool
    to: str = ""

    def adds_slash(self, probe):
        return 300 < self.status < 400 and urllib.parse.unquote(urllib.parse.urlsplit(self.to).path) == suite.canonical(probe.path) + "/"

    @property
    def admits(self):
        # 504: it was passed on, and the time for the backend was too short.
        return self.reached or 200 <= self.status < 300 or self.status == 504


def connected(probe, port, unix):
    if not probe.unix:
        return socket.create_connection((probe.to, port), 10, source_address=(probe.client, 0))
    wire = socket.socket(socket.AF_UNIX)
    wire.settimeout(10)
    wire.connect(str(unix))
    return wire


def ask(probe, port, unix):
    upgrade = f"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n"
    fields = "".join(f"{name}: {value}\r\n" for name, value in probe.fields)
    method = "GET" if probe.upgrade else probe.method
    more = upgrade if probe.upgrade else "Connection: close\r\n"
    body = "Content-Length: 0\r\n" if method == "POST" else ""
    head = f"{probe.proxied}{method} {probe.path} HTTP/1.1\r\nHost: {probe.host}\r\n{more}{body}{fields}\r\n"
    answer = b""
    with contextlib.suppress(OSError), connected(probe, port, unix) as wire:
        wire.sendall(head.encode())
        while b"\r\n\r\n" not in answer:
            more = wire.recv(65536)
            if not more:
                break
            answer += more
        if not probe.unix:
            # Reset: thousands of probes would leave each its port for a minute, which other suites need.
            wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    status = re.match(rb"HTTP/1\.[01] (\d{3})", answer)
    to = re.search(rb"(?mi)^Location: *([^\r\n]*)", answer)
    return Answer(int(status[1]) if status else 0, MARK in answer, to[1].decode() if to else "")


def allowed(probe, nginx, sidegate):
    """The words one of which must be about this difference; nothing where there is none to tell."""
    if sidegate.reached and not nginx.admits:
        return {"opens"}
    # A connection that nginx closed for its PROXY header was answered nothing: what Sidegate serves then is told above.
    if nginx.status and sidegate.adds_slash(probe) and not nginx.adds_slash(probe):
        return {"differs", "closes", "opens"}
    # The report says of `forwarded` as a whole that an element is an address, or the request is 400.
    if sidegate.status == 400 and any("unknown" in value for _, value in probe.fields):
        return set()
    # A line feed at the end of a path is told where it opens something (docs/decisions/018-import-opens.md).
    if nginx.admits and not sidegate.admits and "%0A" not in probe.path:
        # Of paths that servers read in more than one way docs/from-nginx.md says that they may be 400.
        return set() if sidegate.status == 400 and MANIFOLD.search(probe.path) else {"closes", "differs", "opens"}
    return set()


MANIFOLD = re.compile(r"[;\\]|%(25|20|2[eEfF]|3[bBfF]|5[cC]|23)|\.(/|$|\?)")
UNITS = {"w": 604_800_000, "d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1, "": 1000}


def milliseconds(text):
    return sum(int(number) * UNITS[unit] for number, unit in re.findall(r"(\d+)(ms|[wdhms]|)", text))


def untold_value(report):
    """A duration that is carried, and that no route and no policy has as it was."""
    written = set()
    for path in map(pathlib.Path, report["written"]):
        table = tomllib.loads(path.read_text()) if path.suffix == ".toml" else {}
        timeouts = [time for route in table.get("route", []) for time in route.get("timeouts", {}).values()]
        written |= {milliseconds(time) for time in [*timeouts, table.get("limits", {}).get("idle", "0")]}
    for line in report["lines"]:
        name, _, value = line["directive"].partition(" ")
        if name in random_nginx.TIMED and line["word"] == "carried" and milliseconds(value) not in written:
            return line
    return None


class Session:
    """One configuration in nginx and in Sidegate; `None` where nginx doesn't take it or nothing is to import."""

    def __init__(self, place, backend, name, nodes):
        self.place, self.name, self.processes = place, name, []
        self.dir = place.dir / name
        self.dir.mkdir()
        self.ports = {"nginx": next(PORTS), "sidegate": next(PORTS)}
        self.sockets = {side: self.dir / f"{side}.sock" for side in self.ports}
        self.files = {}
        for side, port in self.ports.items():
            self.files[side] = self.dir / f"{side}.conf"
            self.files[side].write_text(random_nginx.text(nodes, port, backend.port, self.sockets[side]))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.processes:
            process.end()
            self.place.processes.remove(process)
        for path in sorted(self.dir.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
        self.dir.rmdir()

    def start(self, side, *argv):
        process = self.place.start(f"{self.name}/{side}", *argv)
        self.processes.append(process)
        await_that(f"{side} listens", lambda: not process.running() or listening(self.ports[side]), seconds=30)
        return process.running()

    def run_nginx(self):
        """Whether nginx takes it."""
        text = self.files["nginx"].read_text()
        temporary = suite.TEMPORARY.format(dir=self.dir)
        text = text.replace("http {", "http { access_log off; " + temporary, 1)
        self.files["nginx"].write_text("events {}\n" + text)
        main = MAIN.format(dir=self.dir)
        return self.start("nginx", "nginx", "-p", self.dir, "-c", self.files["nginx"], "-e", "stderr", "-g", main)

    def imported(self):
        """The report, and whether it was written without leave; nothing where there is nothing to import."""
        words = [SIDEGATE, "import", "nginx", self.files["sidegate"], "--out", self.dir / "out", "--json"]
        for more in ([], ["--accept-opens"]):
            done = subprocess.run([*map(str, words), *more], capture_output=True, text=True, timeout=60)
            if done.returncode == 0:
                return json.loads(done.stdout), not more
            need("OPENS" in done.stderr or "nothing to import" in done.stderr, f"the import failed: {done.stderr}")
            if "nothing to import" in done.stderr:
                return None, False
            need(not (self.dir / "out").exists(), "nothing is written where something opens")
        need(False, f"--accept-opens failed: {done.stderr}")

    def run_sidegate(self, report):
        need(len(report["configs"]) == 1, "sockets with the same servers are one configuration")
        config = report["configs"][0]
        with open(config["file"]) as file:
            text = file.read()
        off = 'schema = 1\n[metrics]\nlisten = "off"\n[admin]\nsocket = "off"\n'
        with open(config["file"], "w") as file:
            file.write(text.replace("schema = 1\n", off, 1))
        need(self.start("sidegate", SIDEGATE, "run", "--config", config["file"]), "Sidegate ended by itself")

    def play(self, probe):
        answers = {}
        for side, port in self.ports.items():
            for _ in range(probe.times):
                answers[side] = ask(probe, port, self.sockets[side])
        return answers["nginx"], answers["sidegate"]


class Fuzz:
    def __init__(self, place, seed, until):
        self.place, self.seed, self.until = place, seed, until
        self.backend, self.numbers = Backend(), itertools.count()
        self.counts, self.lock = Counter(), threading.Lock()
        self.failure = None

    def count(self, **more):
        with self.lock:
            self.counts.update(more)

    def violation(self, name, nodes, probes, counts=None):
        """The first probe that Sidegate admits without a word, and how both answered."""
        with Session(self.place, self.backend, name, nodes) as session:
            if not session.run_nginx():
                return None
            report, silent = session.imported()
            if report is None:
                return None
            session.run_sidegate(report)
            told = suite.Report(report)
            need(not (line := untold_value(report)), f"a value that is carried is written otherwise: {line}")
            if counts is not None:
                words = Counter(line["word"] for line in report["lines"])
                named = {word: words[word] for word in ("opens", "closes", "upgrades", "fails_open")}
                self.count(configs=1, silent=silent, **named)
            for probe in probes:
                nginx, sidegate = session.play(probe)
                opens = sidegate.reached and not nginx.admits
                if counts is not None:
                    told_of = {
                        "probes": 1, "admitted": nginx.admits and sidegate.admits,
                        "refused": not nginx.admits and not sidegate.reached, "opened": opens,
                        "shut": nginx.admits and not sidegate.admits,
                    }  # fmt: skip
                    self.count(**told_of)
                words = allowed(probe, nginx, sidegate)
                if not words or words & told.words(probe, session.ports["sidegate"]):
                    continue
                if opens or sidegate.adds_slash(probe):
                    return probe, nginx, sidegate
                # What is shut without a word fails safe: a figure, which should fall.
                if counts is not None:
                    self.count(untold=1)
        return None

    def one(self, number):
        generator = random_nginx.Generator(random.Random(f"{self.seed}:{number}"))
        nodes = generator.configuration()
        probes = list(generator.probes(PROBES))
        try:
            found = self.violation(f"c{number}", nodes, probes, self.counts)
        except AssertionError as fault:
            fault.add_note(f"IMPORT_FUZZ_SEED={self.seed}:{number}\n{random_nginx.text(nodes, 8080, 9000)}")
            raise
        if found:
            with self.lock:
                self.failure = self.failure or (number, nodes, found)

    def work(self):
        while time.monotonic() < self.until and not self.failure:
            self.one(next(self.numbers))

    def smallest(self, number, nodes, found):
        """The same failure in a configuration from which nothing can be taken."""
        probe, until, before = found[0], time.monotonic() + SHRINKING, None
        while before != nodes:
            before, at = nodes, 0
            while at < len(places := list(random_nginx.places(nodes))) and time.monotonic() < until:
                fewer, again = random_nginx.without(nodes, places[at]), None
                with contextlib.suppress(AssertionError):
                    again = self.violation(f"s{number}", fewer, [probe])
                nodes, found, at = (fewer, again, at) if again else (nodes, found, at + 1)
        return nodes, found


def main():
    long = os.environ.get("IMPORT_FUZZ_SECONDS")
    # The usual run is the same each time, so that a failure is the change's; a long one looks for what is new.
    usual = str(random.randrange(1 << 32)) if long else USUAL_SEED
    seed, _, only = os.environ.get("IMPORT_FUZZ_SEED", usual).partition(":")
    seconds = float(long or 50)
    note(f"IMPORT_FUZZ_SEED={seed}{':' + only if only else ''}")
    with Place() as place:
        fuzz = Fuzz(place, seed, time.monotonic() + seconds)
        if only:
            fuzz.one(int(only))
        else:
            with concurrent.futures.ThreadPoolExecutor(2) as pool:
                for done in [pool.submit(fuzz.work) for _ in range(2)]:
                    done.result()
        counts = fuzz.counts
        if fuzz.failure:
            number, nodes, found = fuzz.failure
            nodes, (probe, nginx, sidegate) = fuzz.smallest(number, nodes, found)
            text = random_nginx.text(nodes, 8080, 9000)
            need(False, f"otherwise without a word, IMPORT_FUZZ_SEED={seed}:{number}\n{text}\n{probe}: nginx {nginx}, Sidegate {sidegate}")
        need(only or counts["refused"] > 10 and counts["admitted"] > 10, f"that shows little: {counts}")
    figure(f"seed {seed}: {counts['configs']} configurations ({counts['silent']} open nothing), {counts['probes']} probes")
    figure(f"{counts['admitted']} admitted and {counts['refused']} refused by both, {counts['shut']} shut ({counts['untold']} of them untold), {counts['opened']} opened and told")
    figure(f"{counts['opens']} OPENS, {counts['closes']} CLOSES, {counts['upgrades']} UPGRADES, no request admitted or redirected without a word")


if __name__ == "__main__":
    sys.exit(main())
