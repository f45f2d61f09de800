"""The figures: each takes one kind of proxy, starts it afresh, measures, checks that the work was done, and ends it.

A figure is a dict of numbers in SI units: seconds of CPU, bytes, seconds. Nothing is rounded or compared here.
"""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

from proxies import agreed  # first: it knows where the harness is

import floods  # noqa: E402
from cost import Callgrind, Perf  # noqa: E402
from harness import HERE, Place, await_that, need, note  # noqa: E402
from neighbours import look  # noqa: E402

# What one client floods with, over TLS, while another one's echoes are timed.
FLOODS = ("pings", "empty messages", "empty continuations", "1 B fragments", "1 MiB messages")
ACTIVE = 64  # tunnels with a message in flight, lanes that connect
GB = 1e9


@dataclass
class Amounts:
    """How much of everything one turn does."""

    echoes: int = 30_000
    bulk: int = 1_000_000_000  # bytes of each size, at least 2 messages a tunnel
    connections: int = 1_000
    idle: int = 9_000
    open: tuple = (100, 1_000, 9_000)
    flat: int = 60_000
    pace_ms: int = 2_000
    look: float = 2.0  # seconds, at the neighbour of a flood
    counted: int = 20_000  # echoes under strace, or while instructions are counted

    @classmethod
    def quick(cls):
        return cls(10_000, 50_000_000, 500, 2_000, (100, 1_000, 2_000), 20_000, 1_000, 1.0, 5_000)


class Bench:
    """Where it runs, and how much it does."""

    def __init__(self, amounts, cpu):
        self.amounts, self.cpu = amounts, cpu
        self.said = {}  # what is to be said about a proxy

    def say(self, kind, words):
        if words not in self.said.setdefault(kind.name, []):
            note(f"{kind.label}: {words}")
            self.said[kind.name].append(words)

    @contextlib.contextmanager
    def running(self, kind, workers=1, pinned=True, prefix=()):
        """The proxy, checked."""
        with Place() as place:
            proxy = kind(place, workers, self.cpu if pinned else None, prefix)
            proxy.check()
            yield proxy

    # --- side by side: all of them stand, and take short turns, so that what the machine goes through meets them all ----

    @contextlib.contextmanager
    def standing(self, figure, kinds, failed):
        """Those of these kinds that come up, each with a load that is warm; `failed` is told of the others."""
        pinned = figure not in ("latency", "neighbour")
        with contextlib.ExitStack() as stack:
            up = []
            for kind in kinds:
                try:
                    proxy = stack.enter_context(self.running(kind, 2 if figure == "latency" else 1, pinned))
                    load = proxy.load()
                    if figure == "connect":
                        load.ask("connect", count=4 * ACTIVE, lanes=ACTIVE, resume=False)
                    else:
                        load.open(200 if figure == "latency" else ACTIVE)
                    up.append((kind, proxy, load))
                except FAILURES as error:
                    failed(kind, error)
            yield up

    def echo(self, proxy, load):
        """CPU for each echo of 64 B and of 1 KiB, 64 tunnels with one in flight each."""
        values = {}
        for size in (64, 1024):
            values |= each(proxy, load, size, self.amounts.echoes, f"echo_{size}")
        return values

    def bulk(self, proxy, load):
        """CPU for each GB echoed, in messages of 64 KiB."""
        return self.carried(proxy, load, 1 << 16)

    def large(self, proxy, load):
        """The same in messages of 1 MiB, over tunnels of their own: where such have been, the kernel's windows have grown,
        and whatever comes next is dearer."""
        return self.carried(proxy, load, 1 << 20)

    def carried(self, proxy, load, size):
        return each(proxy, load, size, max(2 * ACTIVE, self.amounts.bulk // size), f"bulk_{size}", GB / size)

    def connect(self, proxy, load):
        """CPU for each connection: TLS handshake, upgrade, Close both ways, end; full, and resumed."""
        values = {}
        for name, resume in (("full", False), ("resumed", True)):
            order = {"lanes": ACTIVE, "resume": resume}
            load.ask("connect", count=2 * ACTIVE, **order)
            before, user, upgraded = rested(proxy), proxy.user(), proxy.backend.ask(do="stats")["upgraded"]
            answer = load.ask("connect", count=self.amounts.connections, **order)
            values[f"connect_{name}"] = (rested(proxy) - before) / self.amounts.connections
            values[f"connect_{name}_user"] = (proxy.user() - user) / self.amounts.connections
            came = proxy.backend.ask(do="stats")["upgraded"] - upgraded
            need(came == self.amounts.connections, f"{proxy.label} forwards each connection, not {came}")
            # Now and then a session is not resumed: a worker has not heard of it yet.
            resumed = sum(count for words, count in answer["agreed"].items() if words.endswith("Resumed"))
            if resume and resumed == 0:
                self.say(type(proxy), "never resumes a session")
            elif resume:
                need(resumed > 0.9 * self.amounts.connections, f"{proxy.label} resumes sessions, not only {resumed}")
            else:
                agreed(answer, "Full", self.amounts.connections)
        return values

    def latency(self, proxy, load):
        """How long 5,000 messages a second over 200 tunnels take from the moment they are due until they are back."""
        order = {"tunnels": 200, "size": 64, "rate": 5000, "warm_ms": 300, "ms": self.amounts.pace_ms}
        answer = load.ask("pace", **order)
        need(answer["messages"] == 5 * (300 + self.amounts.pace_ms), "each message comes back")
        return {f"latency_{quantile}": answer[f"{quantile}_us"] / 1e6 for quantile in ("p50", "p99")}

    def neighbour(self, proxy, load):
        """An echo of another tunnel while one client floods, and how many bytes a second of the flood are taken."""
        values = {}
        ca = str(proxy.authority.ca)
        quiet = floods.opened(proxy.port, "/ws/", ca)
        with quiet.connection:
            for kind in FLOODS:
                words = ("client", proxy.port, "/ws/take", kind, ca)
                flood = proxy.place.start("flood", sys.executable, HERE / "floods.py", *words, talks=True)
                try:
                    await_that(f"{kind} flow", lambda: flood.alive() and flood.ask(do="count")["sent"] > 1e6)
                    look(quiet, 0.3)
                    before, began = flood.ask(do="count")["sent"], time.monotonic()
                    values[f"neighbour_p50 {kind}"], values[f"neighbour_p99 {kind}"] = look(quiet, self.amounts.look)
                    sent = flood.ask(do="count")["sent"] - before
                    values[f"flooded {kind}"] = sent / (time.monotonic() - began)
                finally:
                    flood.popen.kill()
                    flood.end()
                    proxy.place.processes.remove(flood)
        return values

    # --- one after the other --------------------------------------------------------------------------------------------

    def flat(self, kind):
        """CPU for each echo on 64 tunnels, and memory of each tunnel, the more are open."""
        values, opened, before = {}, 0, 0
        with self.running(kind) as proxy:
            load = proxy.load()
            for count in self.amounts.open:
                load.open(count - opened)
                name = f"flat_echo_{count}"
                values[name] = each(proxy, load, 64, self.amounts.flat, name)[name]
                # Of those that came since the last step: what is made once, for all of them, is in the first.
                now = settled(proxy)
                if opened:
                    values[f"flat_bytes_{count}"] = (now - before) / (count - opened)
                before, opened = now, count
            need(proxy.backend.ask(do="stats")["open"] == opened, "all of them are open to the end")
        return values

    def memory(self, kind):
        """PSS with nothing connected, for each idle tunnel, after an echo of 16 KiB on each, and kept when all have closed."""
        count = self.amounts.idle
        with Place() as place:
            proxy = kind(place, 2)
            values = {"base": settled(proxy)}
            proxy.check()
            load = proxy.load()
            load.open(1)
            before = settled(proxy)
            load.open(count)
            need(proxy.backend.ask(do="stats")["open"] == count + 1, f"{kind.label} holds them all")
            values["idle"] = (settled(proxy) - before) / count
            load.ask("touch", size=16 << 10)
            values["touched"] = (settled(proxy) - before) / count
            need(load.ask("close", within=120)["closed"] == count + 1, "all of them close in order")
            await_that("the backend has none left", lambda: proxy.backend.ask(do="stats")["open"] == 0)
            time.sleep(12)  # Sidegate looks each 5 seconds whether there is memory to give back
            values["kept"] = settled(proxy) - before
            return values

    def balance(self, kind):
        """The share of all tunnels that the fullest of two threads or workers has; even would be half of them."""
        with self.running(kind, workers=2, pinned=False) as proxy:
            load = proxy.load()
            load.open(self.amounts.idle)
            held = sorted(sockets_by_epoll(proxy))[-2:]
            need(sum(held) > 1.9 * self.amounts.idle, f"{kind.label} waits for both sides of each tunnel by epoll: {held}")
            return {"balance": held[-1] / sum(held)}

    # --- what doesn't depend on the machine's mood ---------------------------------------------------------------------

    def syscalls(self, kind):
        """System calls of all its processes for each 64 B echo."""
        count = self.amounts.counted
        with self.running(kind) as proxy:
            load = proxy.load()
            load.open(ACTIVE)
            each(proxy, load, 64, count)  # once it is warm
            summary = proxy.place.dir / "strace.txt"
            pids = [word for pid in proxy.process.tree() for word in ("-p", str(pid))]
            # Its words go to a file: how many there are depends on how many threads it finds.
            words = proxy.place.dir / "strace.err"
            with open(words, "wb") as err:
                strace = subprocess.Popen(["strace", "-c", "-f", "-o", str(summary), *pids], stderr=err)
            try:
                await_that("strace is attached", lambda: traced(proxy, strace))
                load.ask("echo", tunnels=ACTIVE, size=64, messages=count)
            finally:
                strace.send_signal(signal.SIGINT)
                strace.wait(20)
            total = re.search(r"^100\.00\s+\S+\s+\S*?\s+(\d+).*total$", summary.read_text(), re.M)
            need(total, f"strace counts:\n{summary.read_text()}\n{words.read_text()}")
            return {"syscalls": int(total[1]) / count}

    def instructions(self, kind):
        """Instructions for each 64 B echo: by the CPU's counters, where it has some; else in Valgrind, which not all can be
        run in."""
        method, count = Perf() if Perf.counts("instructions:u") else Callgrind(), self.amounts.counted
        self.method = method.name
        with self.running(kind, prefix=method.prefix) as proxy:
            load = proxy.load()
            load.open(ACTIVE)
            load.ask("echo", tunnels=ACTIVE, size=64, messages=ACTIVE * 4, within=300)
            # Of all its processes: perf takes several, and in Valgrind there is only one.
            pids = ",".join(map(str, proxy.process.tree()))
            with method.counting(SimpleNamespace(place=proxy.place, process=SimpleNamespace(pid=pids))) as counted:
                load.ask("echo", tunnels=ACTIVE, size=64, messages=count, within=300)
            return dict(zip(("instructions_user", "instructions_kernel"), (each / count for each in counted)))


def each(proxy, load, size, messages, name="", times=1):
    """Seconds of CPU for each echo of so many bytes, or for so many echoes, once it is warm: all, and outside of the kernel.
    The backend has seen each of them."""
    load.ask("echo", tunnels=ACTIVE, size=size, messages=max(ACTIVE, messages // 10))
    before, user, echoed = proxy.cpu(), proxy.user(), proxy.backend.ask(do="stats")["echoed"]
    load.ask("echo", tunnels=ACTIVE, size=size, messages=messages)
    spent, user = proxy.cpu() - before, proxy.user() - user
    came = proxy.backend.ask(do="stats")["echoed"] - echoed
    need(came == messages, f"{messages} messages reach the backend, not {came}")
    return {name: spent * times / messages, f"{name}_user": user * times / messages}


def rested(proxy):
    """Its CPU, once it has ended what it still had to do: less than a thousandth of the time in the last 50 ms."""
    seen = [proxy.cpu()]

    def quiet():
        seen.append(proxy.cpu())
        return seen[-1] - seen[-2] < 5e-5 or len(seen) > 20

    await_that(f"{proxy.label} comes to rest", quiet, every=0.05)
    return seen[-1]


def settled(proxy):
    """Its memory, once it has nothing left to do."""
    seen = [proxy.cpu()]

    def quiet():
        seen.append(proxy.cpu())
        return seen[-1] - seen[-2] < 0.005 or len(seen) > 20

    await_that(f"{proxy.label} comes to rest", quiet, every=0.5)
    return proxy.process.pss()


def sockets_by_epoll(proxy):
    """How many sockets each epoll instance of its processes waits for."""
    for pid in proxy.process.tree():
        for info in Path(f"/proc/{pid}/fdinfo").iterdir():
            with contextlib.suppress(FileNotFoundError):
                yield info.read_text().count("\ntfd:")


def traced(proxy, strace):
    """Whether all its threads have `strace` as their tracer."""
    need(strace.poll() is None, "strace runs")
    for pid in proxy.process.tree():
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/status") as status:
                if re.search(r"^TracerPid:\s+0$", status.read(), re.M):
                    return False
    return True


# What times depend on the machine's mood: taken in turns. The others repeat.
SIDE_BY_SIDE = ("echo", "bulk", "large", "connect", "latency", "neighbour")
FIGURES = (*SIDE_BY_SIDE, "memory", "balance", "flat", "syscalls", "instructions")
FAILURES = (AssertionError, OSError, ValueError)
