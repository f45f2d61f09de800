"""Files that are hard to watch: exhausted inotify limits, an overflowing queue, swaps under load, a directory that vanishes
and returns.

The limits of inotify belong to a user namespace, so that a separate one restricts them for Sidegate alone.
"""

import json
import os
import shutil
import signal
import socket
import sys
import time
from pathlib import Path

from harness import HERE, SIDEGATE, Authority, Place, Sidegate, await_that, echo_backend, figure, need, replace, run
from mirror import Wire

TUNNELS, SWAPS, SIGNALS, FILES = 200, 100, 1000, 300
SETTLED = 2
"""Seconds without a reload after which none is under way: twice what writers can put one off."""
LIMITS = "/proc/sys/user/"
QUEUE = Path("/proc/sys/fs/inotify/max_queued_events")


class Watched(Sidegate):
    """Sidegate with a deny list, and a client that shows the list in force."""

    def __init__(self, place, backend, certificate):
        super().__init__(place)
        self.certificate(certificate).route("echo", "/echo/", f"http://127.0.0.1:{backend}")
        text = '[lists]\nbanned = { file = "lists/banned.cidr" }\n[client]\nallow = ["any"]\ndeny = ["banned"]\n'
        self.policy("open", text)
        self.list = place.write("etc/policies/lists/banned.cidr", self.text(1))

    @staticmethod
    def text(number):
        """A list that denies one address, by number."""
        return f"127.1.{number // 250}.{number % 250 + 1}\n"

    def decides(self, number, seconds):
        """Waits until the list with this number decides; how long that took."""
        began = time.monotonic()
        await_that(f"list {number} decides", lambda: self.status(self.text(number).strip()) == 403, seconds, every=0.005)
        return time.monotonic() - began

    def status(self, address):
        connection = socket.create_connection(("127.0.0.1", self.plain_port), 10, source_address=(address, 0))
        with connection:
            wire = Wire(connection)
            wire.send(b"GET /echo/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            return int(wire.head()[0].split()[1])

    def logged(self, words):
        await_that(f"the log says: {words}", lambda: words in self.process.err.read_text(), 5)

    def said(self):
        return run(SIDEGATE, "status", "--config", self.config)

    def degraded(self, value, seconds):
        await_that(f"watch_degraded is {value}", lambda: self.metric("watch_degraded") == value, seconds)


class Limited(Watched):
    """The same in a user namespace of its own, with one of its limits set."""

    def run(self, limit, value):
        self.place.write("etc/sidegate.toml", self.toml())
        script = f'echo {value} >{LIMITS}{limit} && exec "$0" "$@"'
        argv = ["unshare", "--user", "--map-root-user", "sh", "-c", script, SIDEGATE, "run", "--config", self.config]
        self.process = self.place.start(self.name, *argv, "--log", "json")
        await_that("sidegate is ready", self.ready)
        return self

    def allow(self, limit, value):
        run("nsenter", "--user", "--target", self.process.pid, "sh", "-c", f"echo {value} >{LIMITS}{limit}")


def limited(place, backend, certificate, limit, value, words):
    """F15: it starts, polls and says so, and watches again once the kernel lets it."""
    sidegate = Limited(place, backend, certificate).run(limit, value)
    sidegate.degraded(1, 1)
    sidegate.logged(words)
    need(words in sidegate.said() and words in sidegate.ask_metrics("readyz")[1], "so do `sidegate status` and /readyz")
    replace(sidegate.list, sidegate.text(2))
    polled = sidegate.decides(2, 3)
    sidegate.allow(limit, 100)
    sidegate.degraded(0, 5)
    sidegate.logged("files are watched again")
    time.sleep(0.2)  # the look that follows a new watch
    replace(sidegate.list, sidegate.text(3))
    watched = sidegate.decides(3, 1)
    sidegate.process.end()
    figure(f"{limit}={value}: decided after {polled:.1f} s by polling, {watched * 1e3:.0f} ms once it could watch again")


def overrun(place, backend, certificate):
    """F14: more events than the kernel queues; the last state decides all the same."""
    before = QUEUE.read_text()
    sidegate = Watched(place, backend, certificate)
    try:
        QUEUE.write_text("16")
        sidegate.run()
    finally:
        QUEUE.write_text(before)
    time.sleep(0.5)  # past its first looks
    os.kill(sidegate.process.pid, signal.SIGSTOP)
    for number in range(FILES):
        (sidegate.list.parent / f"noise-{number}").write_text("x")
        (sidegate.dir / "policies" / f"noise-{number}").write_text("x")
    replace(sidegate.list, sidegate.text(4))
    os.kill(sidegate.process.pid, signal.SIGCONT)
    took = sidegate.decides(4, 2)
    sidegate.process.end()
    figure(f"queue of 16 and {2 * FILES} files: the last state decides after {took * 1e3:.0f} ms")


def swapped(sidegate):
    """F13: Kubernetes' `..data`, a hundred times; each swap decides within two seconds."""
    lists, took = sidegate.list.parent, []

    def version(number):
        (lists / f"..{number}").mkdir()
        (lists / f"..{number}" / "banned.cidr").write_text(sidegate.text(number))
        (lists / "..data_tmp").symlink_to(f"..{number}")
        (lists / "..data_tmp").rename(lists / "..data")

    version(10)
    sidegate.list.unlink()
    sidegate.list.symlink_to("..data/banned.cidr")
    sidegate.decides(10, 2)
    for number in range(11, 11 + SWAPS):
        version(number)
        took.append(sidegate.decides(number, 2))
        shutil.rmtree(lists / f"..{number - 1}")
    figure(f"{SWAPS} swaps of ..data under load: each decides after at most {max(took) * 1e3:.0f} ms")


def gone(sidegate):
    """F12: the policies are deleted and written again."""
    policies = sidegate.dir / "policies"
    page = (policies / "open.toml").read_text()
    shutil.rmtree(policies)
    sidegate.degraded(1, 3)
    need(sidegate.status("127.0.0.1") == 426, "what ran runs on")
    sidegate.place.write("etc/policies/open.toml", page)
    sidegate.place.write("etc/policies/lists/banned.cidr", sidegate.text(5))
    took = sidegate.decides(5, 3)
    sidegate.degraded(0, 3)
    figure(f"policies deleted and back: decided after {took * 1e3:.0f} ms, alarm between")


def hurried(sidegate):
    """F17: a thousand SIGHUPs in ten seconds."""
    before, began = reloads(sidegate), time.monotonic()
    for number in range(SIGNALS):
        os.kill(sidegate.process.pid, signal.SIGHUP)
        time.sleep(max(0, began + (number + 1) * 10 / SIGNALS - time.monotonic()))
    replace(sidegate.list, sidegate.text(6))
    sidegate.decides(6, 3)
    counted = reloads(sidegate) - before
    need(0 < counted <= SIGNALS / 3, f"they are coalesced: {counted} reloads")
    figure(f"{SIGNALS} SIGHUPs in {time.monotonic() - began:.0f} s: {counted:.0f} reloads")


def reloads(sidegate):
    return sum(sidegate.metric("reloads_total", outcome=outcome) or 0 for outcome in ("published", "unchanged", "rejected"))


def settled(sidegate):
    """The number of reloads, once none has been counted for longer than writers can put one off. A signal's reload may read a save before its events are there, and those cause another."""
    last, since = reloads(sidegate), time.monotonic()

    def quiet():
        nonlocal last, since
        now = reloads(sidegate)
        if now != last:
            last, since = now, time.monotonic()
        return time.monotonic() - since > SETTLED

    await_that("no reload follows", quiet, 10, every=0.05)
    return last


def idle(sidegate, seconds):
    """Nothing is saved, so nothing is reloaded, once the last save's events are over."""
    before = settled(sidegate)
    time.sleep(seconds)
    need(reloads(sidegate) == before, f"idle for {seconds} s: {reloads(sidegate) - before} reloads")


def main():
    with Place() as place:
        certificate, backend = Authority(place).issue("served"), echo_backend(place)
        limited(place, backend, certificate, "max_inotify_instances", 0, "no inotify instance left")
        limited(place, backend, certificate, "max_inotify_watches", 1, "no inotify watch left")
        overrun(place, backend, certificate)
        sidegate = Watched(place, backend, certificate).run()
        target = json.dumps({"port": sidegate.tls_port, "path": "/echo/", "ca": str(place.dir / "ca.pem")})
        pump = place.start("pump", "node", HERE / "pump.js", target, talks=True)
        need(pump.ask(do="open", count=TUNNELS)["open"] == TUNNELS, "every tunnel opens")
        pump.ask(do="pump", size=256, pause=200)
        swapped(sidegate)
        gone(sidegate)
        hurried(sidegate)
        stats = pump.ask(do="rest")
        lost = (stats["open"], stats["dropped"], stats["corrupted"])
        need(lost == (TUNNELS, 0, 0), f"no tunnel is dropped: {stats}")
        idle(sidegate, 5)
        figure(f"{TUNNELS} tunnels all along: {stats['echoed']} echoes, 0 dropped; then 5 s idle: 0 reloads")


if __name__ == "__main__":
    sys.exit(main())
