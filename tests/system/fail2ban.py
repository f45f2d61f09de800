"""Debian's fail2ban bans the clients that Sidegate refuses, and lets them in again; no client makes it ban another.

A fail2ban of its own reads Sidegate's log with the files of `monitoring/fail2ban`: socket, folder and database are
those of this place.
"""

import re
import shutil
import time

from banned import Named, echoes, expect_banned
from harness import HERE, SIDEGATE, Place, await_that, figure, need, note, run

FILES = HERE.parent.parent / "monitoring" / "fail2ban"
NEIGHBOUR, VICTIM = "198.51.100.7", "203.0.113.9"
# Each attacker's addresses, that of its tunnel first, and what fail2ban bans.
ATTACKERS = [
    (["198.51.100.66"], "198.51.100.66"),
    (["2001:db8:bad::66"], "2001:db8:bad::/64"),
    ([f"2001:db8:bad:1:{at:x}::66" for at in range(1, 8)], "2001:db8:bad:1::/64"),
    (["64:ff9b::198.51.100.67"], "64:ff9b::c633:6443"),
]
BANTIME = 4  # seconds
RETRIES = 5
JAIL = """[sidegate]
backend = polling
logpath = {log}
bantime = {bantime}
action = sidegate[sidegate="{sidegate}", config="{config}"]
"""
SERVER = """[Definition]
loglevel = INFO
logtarget = {dir}/fail2ban.log
syslogsocket = auto
socket = {dir}/fail2ban.sock
pidfile = {dir}/fail2ban.pid
dbfile = {dir}/fail2ban.sqlite3
dbpurgeage = 1d
"""

# What an attacker writes into a log line, so that it seems to speak of another client.
HOSTILE = [
    f"/a?client={VICTIM}",
    f"/client={VICTIM}/reason=network",
    f'/","client":"{VICTIM}","peer":"{VICTIM}","reason":"route"',
    f"/\\\",\\\"client\\\":\\\"{VICTIM}\\\"",
    f'/"%20client={VICTIM}%20peer={VICTIM}%20reason=route',
    f"/%0arefused%20route=-%20listener=plain%20client={VICTIM}%20peer={VICTIM}%20reason=route",
]
HOSTS = [
    f'localhost" client={VICTIM} reason=route',
    f'localhost","client":"{VICTIM}","reason":"route"',
    f"localhost client={VICTIM}",
    f"client={VICTIM}",
]
# Refusals that don't count, with text that seems to give another reason.
UNCOUNTED = ['/echo/","reason":"route"', '/echo/"%20reason=route', "/echo/=reason=route"]
HEADERS = [
    f"Origin: http://x client={VICTIM} peer={VICTIM} reason=route",
    f"User-Agent: refused route=- listener=plain client={VICTIM} peer={VICTIM} reason=route",
]


class Fail2ban:
    """A fail2ban-server in a folder of its own, with the jail that is shipped."""

    def __init__(self, sidegate):
        place = sidegate.place
        self.dir = place.dir / "fail2ban"
        shutil.copytree(FILES, self.dir)
        example = self.dir / "jail.d" / "sidegate.conf.example"
        example.rename(example.with_suffix(""))
        place.write("fail2ban/fail2ban.conf", SERVER.format(dir=self.dir))
        place.write("fail2ban/jail.conf", "[DEFAULT]\nmaxmatches = 5\n")
        jail = JAIL.format(log=sidegate.process.err, bantime=BANTIME, sidegate=SIDEGATE, config=sidegate.config)
        place.write("fail2ban/jail.local", jail)
        self.process = place.start("fail2ban", "fail2ban-server", "-c", self.dir, "-f", "-x", "start")
        await_that("fail2ban serves", lambda: self.process.alive() and self.asks("status", "sidegate", code=None))

    def asks(self, *command, code=0):
        try:
            return run("fail2ban-client", "-c", self.dir, *command)
        except AssertionError:
            if code is None:
                return None
            raise

    def log(self):
        return (self.dir / "fail2ban.log").read_text()


def offend(sidegate, addresses):
    """As many refusals as a ban takes, from one address after the other."""
    for at in range(RETRIES):
        need(sidegate.status(addresses[at % len(addresses)], f"/wp-login.php/{at}") == 404, "an unknown path is refused")


def bans_and_forgives(sidegate, fail2ban, addresses, banned):
    """The open tunnel of an attacker ends, and the attacker is let in again after `bantime`."""
    client = addresses[0]
    tunnel, neighbour = sidegate.opens(client), sidegate.opens(NEIGHBOUR)
    echoes(tunnel)
    offend(sidegate, addresses)
    began = time.monotonic()
    expect_banned(tunnel)
    ended = time.monotonic() - began
    for address in addresses:
        need(sidegate.opens(address) is None, "a banned client opens no tunnel")
    need(sidegate.metric("bans", origin="fail2ban") == 1, "the ban is counted")
    shown = run(SIDEGATE, "bans", "--config", sidegate.config)
    need("by fail2ban" in shown and "fail2ban jail sidegate" in shown, f"`sidegate bans` shows it: {shown}")
    echoes(neighbour)
    again = await_that(f"{client} is let in again", lambda: sidegate.opens(client), BANTIME + 15, 0.2)
    echoes(again)
    lasted = time.monotonic() - began
    need(lasted > BANTIME - 2, f"the ban lasted {lasted:.1f} s of {BANTIME}")
    await_that("fail2ban has unbanned as well", lambda: f"Unban {banned}\n" in fail2ban.log(), BANTIME + 15, 0.2)
    echoes(neighbour)
    figure(f"{banned} banned after {ended:.1f} s, let in after {lasted:.1f} s")


def operator_outranks(sidegate, fail2ban):
    """fail2ban neither shortens an operator's ban nor lifts it."""
    client = "198.51.100.80"
    sidegate_does(sidegate, "ban", "--forever", "--why", "INC-1", client)
    fail2ban.asks("set", "sidegate", "banip", client)
    await_that("both bans hold", lambda: sidegate.metric("bans", origin="fail2ban") == 1)
    fail2ban.asks("set", "sidegate", "unbanip", client)
    await_that("fail2ban's ban is lifted", lambda: sidegate.metric("bans", origin="fail2ban") == 0)
    need(sidegate.opens(client) is None, "the operator's ban still holds")
    need("for ever, by operator" in run(SIDEGATE, "bans", "--config", sidegate.config), "and is the same")
    sidegate_does(sidegate, "unban", client)
    need("ERROR" not in fail2ban.log(), f"fail2ban has no errors: {fail2ban.log()}")
    note("the operator's ban is neither shortened nor lifted")


def sidegate_does(sidegate, verb, *more):
    return run(SIDEGATE, verb, "--config", sidegate.config, *more)


def finds(fail2ban, log):
    """The clients that fail2ban's own tester finds in this log."""
    found = run("fail2ban-regex", "-o", "ip", log, fail2ban.dir / "filter.d" / "sidegate.conf")
    return found.split()


def hostile(place, fail2ban, form):
    """Whatever a client writes into the log, only its own address is found there, in this form of lines."""
    sidegate = Named(place, f"sidegate-{form}")
    sidegate.log = form
    sidegate.run()
    # Each from an address of its own: the log sums up the eleventh refusal of a client.
    cases = [{"path": path} for path in HOSTILE] + [{"host": host} for host in HOSTS]
    cases += [{"path": "/none", "more": header + "\r\n"} for header in HEADERS]
    clients = [f"192.0.2.{at + 1}" for at in range(len(cases) + 1)]
    statuses = [sidegate.status(client, **case) for client, case in zip(clients, cases)]
    # What a client claims stands before what the proxy has seen.
    statuses.append(sidegate.status(f"{VICTIM}, {clients[-1]}", "/none"))
    # An IPv6 client is found by its /64.
    statuses += [sidegate.status(f"2001:db8:9::{at:x}", path) for at, path in enumerate(HOSTILE)]
    expected = set(clients) | {"2001:db8:9::/64"}
    for at, path in enumerate(UNCOUNTED):
        need(sidegate.status(f"192.0.2.{at + 200}", path) == 426, f"{path} is refused as plain HTTP")
    sidegate.process.end()
    found = finds(fail2ban, sidegate.process.err)
    logged = sidegate.process.err.read_text()
    need(VICTIM in logged, "the hostile text is in the log")
    need(set(found) <= expected, f"only the clients themselves are found, in {form}: {found}\n{logged}")
    need(all(status in (400, 404) for status in statuses), f"each request is refused: {statuses}")
    need(set(found) == expected, f"each refused client is found, in {form}: {found}\n{logged}")
    if form == "text":
        # As fail2ban reads an entry of the journal.
        entries = re.sub(r"^\S+ +INFO ", "host sidegate[7]: ", logged, flags=re.M)
        need(set(finds(fail2ban, place.write("entries", entries))) == expected, f"in the journal too:\n{entries}")
    figure(f"{form}: {len(found)} hostile lines found, none of another client")


def main():
    with Place() as place:
        sidegate = Named(place).run()
        fail2ban = Fail2ban(sidegate)
        for addresses, banned in ATTACKERS:
            bans_and_forgives(sidegate, fail2ban, addresses, banned)
        operator_outranks(sidegate, fail2ban)
        sidegate.process.end()
        for form in ("json", "text"):
            hostile(place, fail2ban, form)


if __name__ == "__main__":
    main()
