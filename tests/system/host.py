"""Sidegate as a unit of a booted Debian, and its clients: long-lived ones, and ones that connect and leave.

It runs the commands of a document, queries systemd and the journal, and counts. The assertions are in the suite.
"""

import collections
import contextlib
import json
import threading
import time
import urllib.request

from debian import typed
from harness import HERE, await_that, echo_backend, matches, need
from mirror import CLOSE, Ended, closing, connect, masked

DOCUMENT = "docs/operations.md"
PORT, ACTIVATED, METRICS = 8443, 443, 10464
TUNNELS = 200
CONNECTING = 8  # clients that connect all the time


class Host:
    """The Debian with Sidegate installed, and what its clients know of it."""

    def __init__(self, place, debian):
        self.place, self.debian = place, debian
        echo_backend(place, port=8080)
        self.pumps = 0

    def type(self, heading):
        """Types what the document says below a heading."""
        return self.debian.type(typed(DOCUMENT, heading))

    @property
    def ca(self):
        return self.debian.root / "etc/sidegate/certs/dev.pem"

    def unit(self):
        return self.debian.unit("sidegate")

    def sentence(self):
        """What the service says about itself in `systemctl status`."""
        return self.unit().get("StatusText", "")

    def runs(self):
        """What systemd says about the unit, once it runs."""
        unit = self.unit()
        return unit["ActiveState"] == "active" and unit

    def journal(self, since):
        return self.debian.journal("sidegate", since)

    def said(self, since, *words):
        """Waits until one entry has all these words."""

        def found():
            return [one for one in self.journal(since) if all(word in one["MESSAGE"] for word in words)]

        return await_that(f"the journal says {words}", found, 10, every=0.1)

    def pump(self, port=PORT):
        """Who can be many clients of this port."""
        self.pumps += 1
        target = json.dumps({"port": port, "path": "/", "ca": str(self.ca)})
        return self.place.start(f"clients-{self.pumps}", "node", HERE / "pump.js", target, talks=True)

    def clients(self, port=PORT, count=TUNNELS):
        """Live clients, each echoing messages of its own."""
        pump = self.pump(port)
        need(pump.ask(do="open", count=count)["open"] == count, "every client gets in")
        pump.ask(do="pump", size=256, pause=200)
        return pump

    def served(self, port=PORT):
        """Whether a client gets in, and its first message comes back."""
        with contextlib.suppress(OSError, Ended):
            return attempt(port, self.ca) == "served"

    def metric(self, name, **labels):
        """The sum of the series of that name that carry these labels; None where there is none."""
        with urllib.request.urlopen(f"http://127.0.0.1:{METRICS}/metrics", timeout=5) as answer:
            lines = answer.read().decode().splitlines()
        pairs = (line.rsplit(" ", 1) for line in lines if line and not line.startswith("#"))
        found = [float(value) for series, value in pairs if matches(series, name, labels)]
        return sum(found) if found else None


ATTEMPT = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


def attempt(port, ca, address="127.0.0.1"):
    """One client: in, one message there and back, out. `served`; or the status of the answer, or the close code."""
    wire = connect(port, ca, address)
    with wire.connection:
        wire.send(ATTEMPT)
        start, _ = wire.head()
        if " 101 " not in start:
            return start.split()[1]
        wire.send(masked(2, b"there and back"))
        first, payload = wire.frame()
        if first & 15 == CLOSE:
            return str(int.from_bytes(payload[:2], "big"))
        need((first, payload) == (0x82, b"there and back"), f"the echo is what was sent: {first:#x} {payload!r}")
        wire.send(masked(CLOSE, closing(1000)))
        wire.rest()
    return "served"


def ends(pump):
    """How the clients' tunnels ended, once all have."""

    def ended():
        stats = pump.ask(do="stats")
        return not stats["open"] and stats

    return await_that("every tunnel has ended", ended, 20, every=0.1)["closes"]


class Connecting:
    """Clients that connect, are served and leave, one after the other; what became of them is counted."""

    def __init__(self, host, count=CONNECTING):
        self.host, self.ca = host, str(host.ca)
        self.became, self.longest, self.leaving = collections.Counter(), 0, threading.Event()
        self.newest = 0  # start of the last client that was served
        self.threads = [threading.Thread(target=self.go) for _ in range(count)]

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        self.served_since(time.monotonic())
        return self

    def __exit__(self, *_):
        self.leaving.set()
        for thread in self.threads:
            thread.join()

    def go(self):
        while not self.leaving.is_set():
            began = time.monotonic()
            try:
                outcome = attempt(ACTIVATED, self.ca)
            except ConnectionRefusedError:
                outcome = "refused"
            except (OSError, Ended):
                outcome = "cut"  # it had been accepted by the process that was killed
            self.became[outcome] += 1
            if outcome == "served":
                self.newest = max(self.newest, began)
                self.longest = max(self.longest, time.monotonic() - began)

    def served_since(self, moment):
        """Waits until a client has been served that began after that moment."""
        await_that("clients come and are served", lambda: self.newest > moment, 20, every=0.002)
