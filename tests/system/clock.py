"""The wall clock jumps by hours and years (F16): tunnels, timers and limits are not affected; only dates change.

Dates are the expiry of entries, the log's timestamps, and the expiry of certificates. libfaketime changes the wall clock
for Sidegate alone, and leaves the monotonic clock unchanged.
"""

import datetime
import json
import os
import sys
import time
from pathlib import Path

from harness import HERE, Authority, Place, Sidegate, await_that, echo_backend, figure, need, replace
from mirror import CLOSE, closing, connect, masked

TUNNELS = 200
JUMPS = ["+1h", "-1h", "+370d", "-370d", "+0h"]  # each from the true time
STAYING, DATED, SPENDER, BANNED = "127.0.0.1", "127.0.0.40", "127.0.0.41", "127.0.1.{}"
BURST = 3
VALID = 60  # days: the entry by which DATED is let in
OPEN = """
[lists]
guests = ["{staying}", "{dated} expires={until}"]
banned = {{ file = "lists/banned.cidr" }}
[client]
allow = ["guests", "127.0.1.0/24"]
deny = ["banned"]
[limits]
idle = "1h"
lifetime = "2h"
ping = "1s"
pong = "5s"
"""
SPENT = '[client]\nallow = ["any"]\n[limits]\nupgrades = {{ rate = "1/m", burst = {burst} }}\n'


class Clocked(Sidegate):
    """Sidegate whose wall clock says what a file says."""

    def start(self):
        library = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
        need(library, "libfaketime is installed")
        self.offset = self.place.write("offset", "+0")
        faked = {
            "LD_PRELOAD": str(library), "FAKETIME_TIMESTAMP_FILE": str(self.offset), "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1", "DONT_FAKE_MONOTONIC": "1", "NO_FAKE_STAT": "1",
        }  # fmt: skip
        os.environ.update(faked)
        try:
            return self.run()
        finally:
            for name in faked:
                del os.environ[name]

    def now(self):
        """The time of the last line of its log."""
        whole, _, _ = self.process.err.read_text().rpartition("\n")
        return datetime.datetime.fromisoformat(json.loads(whole.splitlines()[-1])["timestamp"])


class Jumps:
    """Sidegate with clients that stay through every jump, and what each of them must see."""

    def __init__(self, place):
        self.authority = Authority(place)
        backend = f"http://127.0.0.1:{echo_backend(place)}"
        self.sidegate = Clocked(place).certificate(self.authority.issue("localhost"))
        self.sidegate.settings = '[reload]\npoll = "1s"\nrevoke_spread = "0s"'
        until = datetime.date.today() + datetime.timedelta(VALID)
        self.sidegate.policy("open", OPEN.format(staying=STAYING, dated=DATED, until=until))
        self.sidegate.policy("spent", SPENT.format(burst=BURST)).route("echo", "/echo/", backend)
        self.sidegate.route("spent", "/spent/", backend, "spent")
        self.banned = place.write("etc/policies/lists/banned.cidr", "192.0.2.1\n")
        self.sidegate.start()
        self.lapsed = False  # once and for all: who was told to go stays away
        self.expiry = self.sidegate.metric("certificate_not_after_timestamp_seconds")
        self.pump, self.dated = self.clients("pump", STAYING), self.clients("dated", DATED)
        need(self.pump.ask(do="open", count=TUNNELS)["open"] == TUNNELS, "every tunnel opens")
        self.pump.ask(do="pump", size=256, pause=300)
        self.dated.ask(do="open", count=1)  # it is silent, and pinged
        for _ in range(BURST):
            need(self.attempt(SPENDER, "/spent/") == 101, "the burst is granted")

    def clients(self, name, address):
        target = {"port": self.sidegate.tls_port, "path": "/echo/", "ca": str(self.authority.ca), "from": address}
        return self.sidegate.place.start(name, "node", HERE / "pump.js", json.dumps(target), talks=True)

    def attempt(self, source, path="/echo/"):
        """The status of an attempt; a tunnel is closed in order."""
        wire = connect(self.sidegate.tls_port, self.authority.ca, source=source)
        with wire.connection:
            wire.send(
                f"GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
            )
            status = int(wire.head()[0].split()[1])
            if status == 101:
                wire.send(masked(CLOSE, closing(1000)))
            return status

    def jump(self, number, to):
        """All that must hold once the clock has jumped."""
        far = datetime.timedelta(**{{"h": "hours", "d": "days"}[to[-1]]: int(to[:-1])})
        lapsed = far.days > VALID
        self.lapsed = self.lapsed or lapsed
        self.sidegate.offset.write_text(to)
        echoed = self.pump.ask(do="stats")["echoed"]
        need(self.attempt(STAYING) == 101, f"{to}: who comes is let in, whatever the certificate's date")
        need(self.attempt(SPENDER, "/spent/") == 429, f"{to}: what was spent stays spent")
        need(self.attempt(DATED) == (403 if lapsed else 101), f"{to}: an entry holds until its day")
        await_that(f"{to}: so does the tunnel that it let in", lambda: self.dated.ask(do="stats")["open"] == (not self.lapsed), 5)
        replace(self.banned, BANNED.format(number) + "\n")
        await_that("a saved list decides", lambda: self.attempt(BANNED.format(number)) == 403, 3, every=0.05)
        await_that("the tunnels go on", lambda: self.pump.ask(do="stats")["echoed"] > echoed + 3 * TUNNELS, 10, every=0.1)
        need(self.sidegate.metric("certificate_not_after_timestamp_seconds") == self.expiry, f"{to}: a certificate's end is where it was")
        need(self.sidegate.ask_metrics("livez")[0] == 200, f"{to}: it lives")
        told = self.sidegate.now() - far - datetime.datetime.now(datetime.UTC)
        need(abs(told.total_seconds()) < 30, f"{to}: the log says when: {told} away")


def main():
    with Place() as place:
        jumps = Jumps(place)
        began = time.monotonic()
        for number, to in enumerate(JUMPS):
            jumps.jump(number, to)
        stats = jumps.pump.ask(do="rest")
        lost = stats["open"], stats["dropped"], stats["corrupted"]
        need(lost == (TUNNELS, 0, 0), f"no tunnel notices: {stats}")
        closes = jumps.dated.ask(do="stats")["closes"]
        need(closes == {"1008 network": 1}, f"but the one whose entry lapsed: {closes}")
        need(time.monotonic() - began < 55, "it was too slow to tell a token of a minute from one of a jump")
        figure(f"the clock jumps to {', '.join(JUMPS)}: {TUNNELS} tunnels, {stats['echoed']} echoes, 0 dropped; only what is dated moves")
        need(jumps.sidegate.process.end(20) == 0, "it ends in order")


if __name__ == "__main__":
    sys.exit(main())
