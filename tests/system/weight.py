"""What a tunnel weighs, beside Debian's nginx in the same run: memory while idle, CPU per echoed message.

The proxies take turns on one backend, with the same certificate, the same cipher and as many threads. The figures are
the result: no ratio is asserted here.
"""

import json
import statistics
import sys

from harness import HERE, Authority, Nginx, Place, Sidegate, await_that, echo_backend, figure, need, note

TUNNELS = 2000
ROUNDS = 8
BUSY = 64  # tunnels with one message in flight each, the others stay idle
MESSAGES = 12_500  # of one round
SIZES = {64: "64 B", 1024: "1 KiB"}


class Proxy:
    """A proxy under load, and the client of its tunnels."""

    def __init__(self, place, name, running, ca):
        self.name, self.process = name, running.process
        target = json.dumps({"port": running.tls_port, "path": "/ws/", "ca": str(ca)})
        self.client = place.start(f"pump-{name}", "node", HERE / "pump.js", target, talks=True)

    def idle_bytes(self):
        """Opens the tunnels; the memory that each of them holds, the first left out."""
        self.client.ask(do="open", count=1)
        before = self.settled()
        need(self.client.ask(do="open", count=TUNNELS)["open"] == TUNNELS + 1, "every tunnel opens")
        return (self.settled() - before) / TUNNELS

    def settled(self):
        """Its memory, once it has nothing left to do."""
        seen = [self.process.cpu()]

        def quiet():
            seen.append(self.process.cpu())
            return seen[-1] == seen[-2]

        await_that(f"{self.name} comes to rest", quiet, every=0.5)
        return self.process.pss()

    def message_seconds(self, size):
        """CPU seconds that one echo of so many bytes costs it."""
        before = self.process.cpu()
        self.client.ask(do="flood", size=size, tunnels=BUSY, messages=MESSAGES)
        return (self.process.cpu() - before) / MESSAGES


def main():
    with Place() as place:
        authority = Authority(place)
        certificate, backend = authority.issue("localhost"), echo_backend(place)
        sidegate = Sidegate(place).certificate(certificate).policy().route("ws", "/ws/", f"http://127.0.0.1:{backend}")
        ours = Proxy(place, "sidegate", sidegate.run(), authority.ca)
        theirs = Proxy(place, "nginx", Nginx(place, certificate, backend), authority.ca)

        idle = {proxy: proxy.idle_bytes() for proxy in (ours, theirs)}
        compare("idle tunnel", [idle[ours]], [idle[theirs]], 1e-3, "kB")
        for size, words in SIZES.items():
            costs = {ours: [], theirs: []}
            for turn in range(ROUNDS):
                for proxy in (ours, theirs) if turn % 2 else (theirs, ours):
                    costs[proxy].append(proxy.message_seconds(size))
            compare(f"{words} echo", costs[ours], costs[theirs], 1e6, "µs")
        for proxy in (ours, theirs):
            stats = proxy.client.ask(do="stats")
            need(stats["open"] == TUNNELS + 1 and not stats["dropped"] and not stats["corrupted"], f"{proxy.name}: {stats}")


def compare(what, ours, theirs, scale, unit):
    ratios = [mine / nginx for mine, nginx in zip(ours, theirs, strict=True)]
    mine, nginx = statistics.median(ours) * scale, statistics.median(theirs) * scale
    figure(f"{what} {mine:.1f} {unit}, nginx {nginx:.1f} {unit}: {mine / nginx:.2f} ×")
    note(f"{what}: {', '.join(f'{ratio:.2f}' for ratio in ratios)} by turns")


if __name__ == "__main__":
    sys.exit(main())
