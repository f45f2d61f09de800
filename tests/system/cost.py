"""Instructions for a 64 B echo, and the additional cost of observation: scraped and its page read each second, logging
and keeping recent decisions, or none of that.

Two agents take turns under the same load on 16 tunnels over TLS, while other tunnels open and close, so that lines are
logged. An open page gets one rendering a second, whatever the number of its readers. Instructions are counted, since
seconds vary: by the CPU through `perf`, if the machine permits it, else under `valgrind --tool=callgrind`. There a second
is the number of echoes in a second without it.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import urllib.request

from harness import HERE, SIDEGATE, Authority, Place, Sidegate, await_that, echo_backend, environment, figure, free_port, need, note, run
from mirror import CLOSE, closing, connect, masked

TUNNELS, SIZE = 16, 64
PASSING = 4  # tunnels that open and close in each second
PROMISE, LET_PASS = 0.03, 0.09  # of the instructions; the second is for machines that others use too
BY_ITSELF = 10_000  # echoes


class Perf:
    """Counts by the CPU's own counters, while the agent runs as fast as it does."""

    prefix, seconds, rounds = (), 3, 7
    most = 33_000  # an echo by itself, the kernel's for it included

    def __init__(self):
        self.events = [event for event in ("instructions:u", "instructions:k") if self.counts(event)]
        self.name = f"perf stat -e {','.join(self.events)}"

    @staticmethod
    def counts(event):
        """Whether this machine counts it: a virtual one may not, and an unprivileged user not everything."""
        if not shutil.which("perf"):
            return False
        tried = subprocess.run(["perf", "stat", "-x,", "-e", event, "true"], capture_output=True, text=True, timeout=20)
        return tried.returncode == 0 and bool(re.search(r"^\d+,", tried.stderr, re.M))

    @contextlib.contextmanager
    def counting(self, agent):
        """Yields a list that holds the program's own count afterwards, and the kernel's for it."""
        result = agent.place.dir / "perf.csv"
        (heard, tell), (answers, ack) = os.pipe(), os.pipe()
        argv = ["perf", "stat", "-x,", "-o", result, "-e", ",".join(self.events), "-p", str(agent.process.pid)]
        argv += ["--delay=-1", "--control", f"fd:{heard},{ack}"]
        perf = subprocess.Popen(list(map(str, argv)), pass_fds=(heard, ack), stderr=subprocess.DEVNULL)
        counted = []

        def order(word):
            os.write(tell, f"{word}\n".encode())
            need(os.read(answers, 16).startswith(b"ack"), f"perf does as it is told: {word}")

        try:
            order("enable")
            yield counted
            order("disable")
        finally:
            perf.send_signal(signal.SIGINT)
            perf.wait(10)
            for end in (heard, tell, answers, ack):
                os.close(end)
        for event in self.events:
            counted.append(sum(map(int, re.findall(rf"^(\d+),.*{event}", result.read_text(), re.M))))


class Callgrind:
    """Counts by running every instruction through Valgrind: some fifty times slower, and the same everywhere."""

    name, seconds, rounds = "valgrind --tool=callgrind", 1, 3
    most = 9_000  # an echo by itself, without the kernel's, which it cannot see
    prefix = ("valgrind", "--tool=callgrind", "--quiet", "--fair-sched=yes", "--callgrind-out-file=callgrind.out")

    @contextlib.contextmanager
    def counting(self, agent):
        """Yields a list that holds the program's own count afterwards."""
        counted = []
        run("vgdb", f"--pid={agent.process.pid}", "zero")
        yield counted
        before = set(agent.place.dir.glob("callgrind.out.*"))
        run("vgdb", f"--pid={agent.process.pid}", "dump")
        dumps = set(agent.place.dir.glob("callgrind.out.*")) - before
        counted.append(sum(int(total) for dump in dumps for total in re.findall(r"^totals: (\d+)", dump.read_text(), re.M)))


class Agent(Sidegate):
    """A Sidegate on one thread, watched or not, and the client of its tunnels."""

    def __init__(self, place, watched, prefix=()):
        super().__init__(place)
        self.watched, self.prefix, self.authority = watched, prefix, Authority(place)
        self.certificate(self.authority.issue("localhost")).policy()
        self.route("ws", "/ws/", f"http://127.0.0.1:{echo_backend(place)}")
        self.settings = "[process]\nthreads = 1"
        self.page_port = free_port()
        self.admin = [f'page_listen = "127.0.0.1:{self.page_port}"'] if watched else ["recent_decisions = 0"]
        self.place.write("etc/sidegate.toml", self.toml())
        log = {} if watched else {"SIDEGATE_LOG": "off"}
        with environment(**log):
            self.process = place.start("sidegate", *prefix, SIDEGATE, "run", "--config", self.config, "--log", "json")
        await_that("sidegate is ready", self.ready, seconds=60)
        target = {"port": self.tls_port, "path": "/ws/", "ca": str(self.authority.ca)}
        self.client = place.start("pump", "node", HERE / "pump.js", json.dumps(target), talks=True)
        need(self.client.ask(do="open", count=TUNNELS)["open"] == TUNNELS, "every tunnel opens")

    def look(self):
        """A scrape, and a rendering of the page."""
        self.metrics()
        with urllib.request.urlopen(f"http://127.0.0.1:{self.page_port}/status", timeout=60) as answer:
            need(b"Open tunnels" in answer.read(), "the page is whole")

    def second(self, echoes):
        """What happens in a second: so many echoes, a few tunnels that open and close, and, if it is watched, a look."""
        scraper = threading.Thread(target=self.look) if self.watched else None
        if scraper:
            scraper.start()
        for _ in range(PASSING):
            passing = connect(self.tls_port, self.authority.ca)
            with passing.connection:
                passing.send(
                    b"GET /ws/ HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
                )
                need(" 101 " in passing.head()[0], "a tunnel opens")
                passing.send(masked(CLOSE, closing(1000)))
                passing.rest()
        took = self.client.ask(do="flood", size=SIZE, tunnels=TUNNELS, messages=echoes)["seconds"]
        if scraper:
            scraper.join()
        return took

    def each(self, method, echoes):
        """Instructions for each echo: the program's own, and, where they are counted, the kernel's for it."""
        with method.counting(self) as counted:
            for _ in range(method.seconds):
                self.second(echoes)
        return [count / (method.seconds * echoes) for count in counted]

    def echo(self, method):
        """All instructions that are counted for an echo when nothing else happens."""
        with method.counting(self) as counted:
            self.client.ask(do="flood", size=SIZE, tunnels=TUNNELS, messages=BY_ITSELF)
        return sum(counted) / BY_ITSELF


def echoes_of_a_second():
    """How many there are when nothing slows the agent down."""
    with Place() as place:
        agent = Agent(place, watched=True)
        agent.second(2000)  # warm
        return int(10_000 / agent.second(10_000))


def main():
    method = Perf() if Perf.counts("instructions:u") else Callgrind()
    echoes = echoes_of_a_second()
    note(f"{echoes} echoes are a second")
    with Place() as here, Place() as there:
        watched, alone = Agent(here, True, method.prefix), Agent(there, False, method.prefix)
        costs = {watched: [], alone: []}
        for agent in costs:
            agent.second(echoes // 10)  # warm
        for turn in range(method.rounds):
            for agent in (watched, alone) if turn % 2 else (alone, watched):
                costs[agent].append(agent.each(method, echoes))
        # What else the machine does only adds turns of the scheduler: the least is the program's.
        by_itself = min(watched.echo(method) for _ in range(method.rounds))
        lines = (watched.process.err.read_text(), alone.process.err.read_text())
        need(lines[0].count('"tunnel closed"') >= PASSING * method.rounds, "the one that is watched has logged")
        need(not lines[1], f"the other has not:\n{lines[1]}")
    note(f"by turns: {', '.join(f'{a[0] / b[0] - 1:+.2%}' for a, b in zip(costs[watched], costs[alone], strict=True))}")
    (more, *kernel_more), (less, *kernel_less) = (map(statistics.median, zip(*costs[agent])) for agent in costs)
    share = more / less - 1
    figure(f"{more:.0f} instructions a 64 B echo, {less:.0f} without metrics, page, logs and decisions: {share:+.2%} ({method.name})")
    for with_it, without in zip(kernel_more, kernel_less, strict=True):
        note(f"the kernel's for it: {with_it:.0f}, {without:.0f}")
    note(f"promised: {PROMISE:.0%}")
    figure(f"{by_itself:.0f} instructions for one by itself, at most {method.most}")
    need(by_itself <= method.most, f"an echo costs {by_itself:.0f} instructions, over {method.most} ({method.name})")
    need(share <= LET_PASS, f"being watched costs {share:.2%} of the instructions, over {LET_PASS:.0%}")


if __name__ == "__main__":
    sys.exit(main())
