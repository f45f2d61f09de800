"""Cost of a tunnel, beside Debian's nginx in the same run: memory while idle and once it is closed, CPU per echoed message.

The proxies take turns on one backend, with the same certificate and cipher, and one thread each, since the distribution
of connections over several varies. The figures are the result: no ratio is asserted here. Much of the CPU is the kernel's,
for the same four reads and writes; the program's own part is in brackets.
"""

import json
import statistics
import sys

from harness import HERE, Authority, Nginx, Place, Sidegate, await_that, echo_backend, figure, need, note

TUNNELS = 2000
ROUNDS = 8
BUSY = 32  # tunnels with one message in flight each, the others stay idle
MESSAGES = 12_500  # of one round
SIZES = {64: "64 B", 1024: "1 KiB"}
KEPT = 5e6  # bytes more than with one tunnel, once all are closed and the allocator has been told


class Proxy:
    """A proxy under load, and the client of its tunnels."""

    def __init__(self, place, name, running, ca):
        self.name, self.process = name, running.process
        target = json.dumps({"port": running.tls_port, "path": "/ws/", "ca": str(ca)})
        self.client = place.start(f"pump-{name}", "node", HERE / "pump.js", target, talks=True)

    def idle_bytes(self):
        """Opens the tunnels; the memory that each of them holds, the first left out."""
        self.client.ask(do="open", count=1)
        self.bare = self.settled()
        need(self.client.ask(do="open", count=TUNNELS)["open"] == TUNNELS + 1, "every tunnel opens")
        return (self.settled() - self.bare) / TUNNELS

    def kept_bytes(self):
        """What it holds more than it held before, now."""
        return self.process.pss() - self.bare

    def settled(self):
        """Its memory, once it has nothing left to do."""
        seen = [self.process.cpu()]

        def quiet():
            seen.append(self.process.cpu())
            return seen[-1] == seen[-2]

        await_that(f"{self.name} comes to rest", quiet, every=0.5)
        return self.process.pss()

    def message_seconds(self, size):
        """CPU seconds that one echo of so many bytes costs it: in all, and in the program itself."""
        before = self.process.cpu()
        self.client.ask(do="flood", size=size, tunnels=BUSY, messages=MESSAGES)
        own, kernel = (now - then for now, then in zip(self.process.cpu(), before, strict=True))
        return (own + kernel) / MESSAGES, own / MESSAGES


def main():
    with Place() as place:
        authority = Authority(place)
        certificate, backend = authority.issue("localhost"), echo_backend(place)
        sidegate = Sidegate(place).certificate(certificate).policy().route("ws", "/ws/", f"http://127.0.0.1:{backend}")
        sidegate.settings = "[process]\nthreads = 1"
        # Recent decisions outlive their tunnels, up to `recent_bytes` in all.
        sidegate.admin = ["recent_decisions = 0"]
        ours = Proxy(place, "sidegate", sidegate.run(), authority.ca)
        theirs = Proxy(place, "nginx", Nginx(place, certificate, backend), authority.ca)

        mine, nginx = (proxy.idle_bytes() / 1e3 for proxy in (ours, theirs))
        figure(f"idle tunnel {mine:.1f} kB, nginx {nginx:.1f} kB: {mine / nginx:.2f} ×")
        for size, words in SIZES.items():
            costs = {ours: [], theirs: []}
            for turn in range(ROUNDS):
                for proxy in (ours, theirs) if turn % 2 else (theirs, ours):
                    costs[proxy].append(proxy.message_seconds(size))
            compare(f"{words} echo", costs[ours], costs[theirs])
        for proxy in (ours, theirs):
            stats = proxy.client.ask(do="stats")
            need(stats["open"] == TUNNELS + 1 and not stats["dropped"] and not stats["corrupted"], f"{proxy.name}: {stats}")
            proxy.client.end()
        await_that("the memory of closed tunnels goes back", lambda: ours.kept_bytes() <= KEPT, every=0.5)
        theirs.settled()
        mine, nginx = (proxy.kept_bytes() / 1e6 for proxy in (ours, theirs))
        figure(f"kept of {TUNNELS:,} that are closed {mine:.1f} MB, nginx {nginx:.1f} MB")


def compare(what, ours, theirs):
    """Medians of all the CPU, means of the program's own: that is counted in ticks too coarse for one round."""
    (mine, my_own), (nginx, its_own) = (
        (statistics.median(all for all, _ in costs) * 1e6, statistics.mean(own for _, own in costs) * 1e6)
        for costs in (ours, theirs)
    )
    figure(
        f"{what} {mine:.1f} µs (own {my_own:.1f}), nginx {nginx:.1f} µs (own {its_own:.1f}): "
        f"{mine / nginx:.2f} × ({my_own / its_own:.2f} ×)"
    )
    ratios = (mine / nginx for (mine, _), (nginx, _) in zip(ours, theirs, strict=True))
    note(f"{what} by turns: {', '.join(f'{ratio:.2f}' for ratio in ratios)}")


if __name__ == "__main__":
    sys.exit(main())
