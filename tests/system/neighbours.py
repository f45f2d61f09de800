"""A flooded tunnel, by its client or by its backend, and its neighbours on the same thread.

Beside each kind of flood an echo of another tunnel returns soon, systemd's watchdog gets its keep-alives, new tunnels
open, and orders are executed. The bounds are three times those of a quiet machine, and the best of a few measurements
counts, since others may use the machine.
"""

import contextlib
import socket
import struct
import sys
import time
from urllib.parse import quote

import floods
from floods import KINDS, RECORDS, UPDATES
from harness import HERE, Authority, Place, Sidegate, await_that, environment, figure, free_port, listening, need, note
from mirror import BINARY, CLOSE, frame

P50, P99 = 0.006, 0.030  # seconds
SOON = 0.3  # for an opening, a revocation, a drain
LOOK, LOOKS = 1.0, 4  # seconds, and how often a kind may be looked at
PAUSE = 0.004  # between two echoes
WATCHDOG = 3  # seconds
SPREAD = 1.0  # seconds, of a drain
RATE, BURST = 10_000, 20_000  # messages of an honest client a second, and at once
FRAGMENTS, SIZE = 65_536, 64  # of a message, and their bytes: Autobahn's 9.3


class Agent(Sidegate):
    """A Sidegate on one thread; /flood/ and /echo/ have backends of their own."""

    def __init__(self, place, name, **variables):
        super().__init__(place, name)
        self.authority = Authority(place)
        self.certificate(self.authority.issue("localhost")).policy().policy("flood", FLOODED)
        self.settings = f'[process]\nthreads = 1\n[shutdown]\nspread = "{SPREAD:.0f}s"\n[reload]\nrevoke_spread = "0s"'
        for route, policy in (("echo", "open"), ("flood", "flood")):
            port = free_port()
            backend = place.start(f"backend-{name}-{route}", sys.executable, HERE / "floods.py", "backend", port)
            await_that("the backend listens", lambda: backend.alive() and listening(port))
            self.route(route, f"/{route}/", f"http://127.0.0.1:{port}", policy)
        with environment(**variables):
            self.run()

    @contextlib.contextmanager
    def flooded(self, kind, by_client=True, tls=False):
        """While one tunnel is flooded; by its client, or by its backend."""
        port, ca = (self.tls_port, [self.authority.ca]) if tls else (self.plain_port, [])
        words = ("client", port, "/flood/take", kind) if by_client else ("taker", port, f"/flood/pour/{quote(kind)}")
        direction, enough = "from_client" if by_client else "from_backend", 1_000 if kind == UPDATES else 100_000
        before = self.moved(direction)
        flood = self.place.start("flood", sys.executable, HERE / "floods.py", *words, *ca, talks=True)
        try:
            await_that(f"{kind} flow", lambda: flood.alive() and self.moved(direction) - before >= enough)
            yield
        finally:
            flood.popen.kill()
            flood.end()
            self.place.processes.remove(flood)
        await_that("the flood is over", lambda: not (self.process.running() and self.metric("tunnels_open", route="flood")))

    def moved(self, direction):
        return self.metric("bytes_total", route="flood", direction=direction) or 0


# A policy under which a flood is the agent's business alone.
FLOODED = '[client]\nallow = ["any"]\n[limits]\nframes = "off"\nping = "off"\n'


def echo(wire, number, seconds=5):
    """Seconds until the same message is back."""
    payload, began = struct.pack(">Q", number), time.perf_counter()
    wire.connection.settimeout(seconds)
    wire.send(frame(BINARY, payload, mask=floods.MASK))
    need(wire.frame() == (0x80 | BINARY, payload), "the same message comes back")
    return time.perf_counter() - began


def look(wire, seconds=LOOK):
    """(p50, p99) of a tunnel's echoes."""
    took, until = [], time.perf_counter() + seconds
    while time.perf_counter() < until:
        took.append(echo(wire, len(took)))
        time.sleep(PAUSE)
    took.sort()
    return took[len(took) // 2], took[int(len(took) * 0.99)]


def served(agent, quiet):
    """A neighbour of each kind of flood: from both sides, in the clear and over TLS."""
    cases = [(kind, by_client, tls) for kind in KINDS for by_client in (True, False) for tls in (False, True)]
    cases += [(RECORDS, True, True), (UPDATES, True, True)]
    medians, slowest = [], []
    for kind, by_client, tls in cases:
        name = f"{kind} of the {'client' if by_client else 'backend'} {'over TLS' if tls else 'in the clear'}"
        with agent.flooded(kind, by_client, tls):
            for _ in range(LOOKS):
                p50, p99 = look(quiet)
                if p50 <= P50 and p99 <= P99:
                    break
        note(f"{name}: p50 {p50 * 1000:.1f} ms, p99 {p99 * 1000:.1f} ms")
        need(p50 <= P50 and p99 <= P99, f"beside {name} an echo takes {p50 * 1000:.1f} ms, p99 {p99 * 1000:.1f} ms")
        medians.append(p50)
        slowest.append(p99)
    figure(f"an echo beside {len(cases)} floods: p50 at most {max(medians) * 1000:.1f} ms, p99 {max(slowest) * 1000:.1f} ms")


def opens(agent):
    """A new tunnel beside a flood: the slowest of ten."""
    with agent.flooded("empty messages"):
        took = []
        for _ in range(10):
            began = time.perf_counter()
            floods.opened(agent.plain_port, "/echo/").connection.close()
            took.append(time.perf_counter() - began)
    need(max(took) <= SOON, f"a tunnel opens within {SOON} s beside a flood, not {max(took):.3f}")
    figure(f"a tunnel opens in {max(took) * 1000:.0f} ms at most")


def closed(wire, code):
    """When a Close with this code came."""
    wire.connection.settimeout(10)
    while True:
        first, payload = wire.frame()
        if first & 15 == CLOSE:
            need(payload[:2] == struct.pack("!H", code), f"{code} closes it, not {payload!r}")
            return time.perf_counter()


def revokes(agent):
    """A revocation reaches the neighbour of a flood, and the flooding tunnel."""
    lists = '[client]\nallow = ["any"]\ndeny = ["127.0.0.3"]\n'
    with agent.flooded("pings"):
        denied = floods.opened(agent.plain_port, "/echo/", source="127.0.0.3")
        echo(denied, 1)
        agent.policy("open", lists)
        told = agent.reload()
        after = time.perf_counter()
        took = closed(denied, 1008) - after
        need(took <= SOON, f"a revocation takes {took:.3f} s beside a flood\n{told}")
        agent.policy("flood", FLOODED.replace('"any"', '"192.0.2.1"'))
        agent.reload()
        cut = {"route": "flood", "reason": "revoked"}
        await_that("the flooding tunnel is revoked", lambda: agent.metric("tunnels_closed_total", **cut) == 1)
    agent.policy("open").policy("flood", FLOODED)
    agent.reload()
    figure(f"a revocation takes {max(0, took) * 1000:.0f} ms after its reload")


def watched():
    """systemd's watchdog is fed on time while a tunnel is flooded, /livez says 200, and a drain begins at once."""
    with Place() as place, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
        path = place.dir / "notify"
        notified.bind(str(path))
        notified.settimeout(0.5)
        agent = Agent(place, "watched", NOTIFY_SOCKET=str(path), WATCHDOG_USEC=str(WATCHDOG * 1_000_000))
        quiet = floods.opened(agent.plain_port, "/echo/")
        with agent.flooded("pings", tls=True):
            longest = fed(agent, notified)
            need(longest <= WATCHDOG, f"the watchdog waits {longest:.1f} s, and gives up after {WATCHDOG}")
            began = time.perf_counter()
            agent.process.popen.terminate()
            took = drained(quiet, began)
    figure(f"the watchdog of {WATCHDOG} s waits {longest:.1f} s at most; a drain closes the neighbour after {took:.2f} s")


def fed(agent, notified):
    """The longest time between two messages to the watchdog."""
    began = last = time.perf_counter()
    longest = 0.0
    while time.perf_counter() < began + 2 * WATCHDOG:
        with contextlib.suppress(TimeoutError):
            if b"WATCHDOG=1" in notified.recv(4096):
                longest, last = max(longest, time.perf_counter() - last), time.perf_counter()
        need(agent.ask_metrics("livez")[0] == 200, "/livez says 200 beside a flood")
    return max(longest, time.perf_counter() - last)


def drained(quiet, began):
    """The time from the start of a drain to the neighbour's Close: a spread of a second, and little more."""
    took = closed(quiet, 1001) - began
    need(took <= SPREAD + SOON, f"a drain reaches the neighbour of a flood after {took:.2f} s")
    return took


def honest(agent):
    """Many small messages and fragments of 64 B are no flood of frames: the default limit lets them pass."""
    wire = floods.opened(agent.plain_port, "/echo/take")
    one = frame(BINARY, b"x", mask=floods.MASK)
    began, steps = time.perf_counter(), 50
    for step in range(1, steps + 1):
        wire.send(one * (RATE // 10))
        time.sleep(max(0, began + step / 10 - time.perf_counter()))
    rate = steps * RATE // 10 / (time.perf_counter() - began)
    wire.send(one * BURST)
    part, last = (frame(0, bytes(SIZE), mask=floods.MASK, fin=fin) for fin in (False, True))
    wire.send(frame(BINARY, b"x", mask=floods.MASK, fin=False) + part * FRAGMENTS + last)
    sent = steps * RATE // 10 + BURST + 1
    await_that("each message passes", lambda: agent.metric("messages_total", route="echo", direction="from_client") == sent)
    need(not agent.metric("tunnels_closed_total", route="echo"), "the tunnel stays open")
    wire.connection.close()
    figure(f"{rate:.0f} messages of 1 B a second, {BURST} at once, {FRAGMENTS} fragments of {SIZE} B: none is too many")


def main():
    with Place() as place:
        agent = Agent(place, "neighbours")
        honest(agent)
        quiet = floods.opened(agent.plain_port, "/echo/")
        p50, p99 = look(quiet)
        figure(f"an echo by itself: p50 {p50 * 1000:.1f} ms, p99 {p99 * 1000:.1f} ms")
        served(agent, quiet)
        opens(agent)
        revokes(agent)
    watched()


if __name__ == "__main__":
    sys.exit(main())
