"""Decisions of Debian's CrowdSec end open tunnels, and what they must not hit goes on.

A Local API of its own: configuration, database and port are those of this place, without a hub and without CrowdSec's
central API.
"""

import sqlite3
import time

from banned import Named, echoes, expect_banned
from harness import SIDEGATE, Place, await_that, figure, free_port, listening, need, note, run

KEY = "a-key-of-this-suite"
ATTACKER, RANGED, SIXTH, NEIGHBOUR = "198.51.100.66", "198.51.100.130", "2001:db8::66", "192.0.2.7"
OFFICE = "192.0.2.200"
MANY = 100_000
TESTED = f"""[client]
allow = ["any"]
[[test]]
name = "office"
client = "{OFFICE}"
url = "ws://localhost/echo/"
expect = "allow"
"""
CONFIG = """common:
  daemonize: false
  log_media: stdout
  working_dir: .
config_paths:
  config_dir: {dir}
  data_dir: {dir}
  simulation_path: {dir}/simulation.yaml
  hub_dir: {dir}/hub
  index_path: {dir}/hub/.index.json
  notification_dir: {dir}
  plugin_dir: {dir}
db_config:
  type: sqlite
  db_path: {dir}/crowdsec.db
api:
  client:
    credentials_path: {dir}/client.yaml
  server:
    listen_uri: 127.0.0.1:{port}
    profiles_path: {dir}/profiles.yaml
    trusted_ips: [127.0.0.1]
prometheus:
  enabled: false
"""
PROFILE = """name: default
filters: ["Alert.Remediation == true"]
decisions: [{ type: ban, duration: 4h }]
on_success: break
"""


class Lapi:
    """CrowdSec's Local API, and its commands."""

    def __init__(self, place):
        self.place, self.port, self.count = place, free_port(), 0
        self.dir = place.dir / "crowdsec"
        self.config = place.write("crowdsec/config.yaml", CONFIG.format(dir=self.dir, port=self.port))
        place.write("crowdsec/simulation.yaml", "simulation: off\n")
        place.write("crowdsec/profiles.yaml", PROFILE)
        place.write("crowdsec/hub/.index.json", "{}")
        url = f"http://127.0.0.1:{self.port}"
        self.does("machines", "add", "suite", "--password", "suite", "--url", url, "--file", self.dir / "client.yaml")
        self.does("bouncers", "add", "sidegate", "--key", KEY)
        self.start()

    def start(self):
        self.count += 1
        name = f"crowdsec-{self.count}"
        self.process = self.place.start(name, "crowdsec", "-c", self.config, "-no-cs")
        await_that("the Local API listens", lambda: self.process.alive() and listening(self.port))

    def does(self, *words):
        return run("cscli", "-c", self.config, *words)

    def decides(self, value, kind="ban", more=("--duration", "4h")):
        scope = "--range" if "/" in value else "--ip"
        self.does("decisions", "add", scope, value, "--type", kind, *more)

    def forgets(self, value):
        self.does("decisions", "delete", "--range" if "/" in value else "--ip", value)


class Bouncing(Named):
    """A Sidegate with the Local API as a source of bans."""

    def __init__(self, place, lapi):
        super().__init__(place)
        self.policy("open", TESTED)
        key = place.write("etc/crowdsec.key", KEY + "\n")
        key.chmod(0o600)
        self.table = (
            f'\n[crowdsec]\nurl = "http://127.0.0.1:{lapi.port}"\nkey = {{ file = "crowdsec.key" }}\n'
            'interval = "1s"\nmax_age = "3s"\nmax_revoked = "60%"\n'
        )
        self.base = self.settings
        self.settings = self.base + self.table
        self.run()

    def crowdsec_bans(self):
        return self.metric("bans", origin="crowdsec")

    def refused(self, reason):
        return self.metric("crowdsec_refused", reason=reason)

    def says(self, verb, *more, code=0):
        return run(SIDEGATE, verb, "--config", self.config, *more, code=code)


def decisions_end_tunnels(sidegate, lapi):
    """A decision of an address, of a range and of IPv6 ends the tunnel; its end lets the client in again."""
    neighbour = sidegate.opens(NEIGHBOUR)
    for client, value in ((ATTACKER, ATTACKER), (RANGED, "198.51.100.128/25"), (SIXTH, SIXTH)):
        tunnel = sidegate.opens(client)
        others = [sidegate.opens(NEIGHBOUR) for _ in range(2)]
        echoes(tunnel)
        began = time.monotonic()
        lapi.decides(value)
        expect_banned(tunnel)
        figure(f"a decision on {value} ends its tunnel after {time.monotonic() - began:.1f} s")
        need(sidegate.opens(client) is None, "it opens no other")
        need("by crowdsec" in sidegate.says("bans"), "`sidegate bans` shows it")
        lapi.forgets(value)
        echoes(await_that("the client is let in again", lambda: sidegate.opens(client), 15, 0.2))
        for wire in others:
            echoes(wire)
            wire.connection.close()
    echoes(neighbour)
    return neighbour


def what_must_not_be_hit_goes_on(sidegate, lapi, neighbour):
    """Poisoned decisions are counted, shown and not applied."""
    lapi.decides("0.0.0.0/0")
    lapi.decides("::/0")
    lapi.decides("127.0.0.1")
    lapi.decides(OFFICE)
    lapi.decides("203.0.113.77", kind="captcha")
    await_that("wide ones are counted", lambda: sidegate.refused("wide") == 2)
    await_that("a contradicted test is counted", lambda: sidegate.refused("test") == 1)
    # 127.0.0.1 is loopback, and a listed peer as well: loopback is looked at first.
    await_that("loopback is counted", lambda: sidegate.refused("loopback") == 1)
    await_that("a captcha is counted", lambda: sidegate.refused("type") == 1)
    need(sidegate.crowdsec_bans() == 0, "nothing is banned")
    echoes(neighbour)
    echoes(sidegate.opens(OFFICE))
    shown = sidegate.says("bans", "--refused")
    for part in ("range:0.0.0.0/0 (wide)", 'test "office"', "(loopback)", "203.0.113.77 (type)"):
        need(part in shown, f"`sidegate bans --refused` shows {part}: {shown}")
    log = sidegate.process.err.read_text()
    need(log.count('"decision":"range:0.0.0.0/0"') == 1, "a refused decision is logged once")
    for value in ("0.0.0.0/0", "::/0", "127.0.0.1", OFFICE, "203.0.113.77"):
        lapi.forgets(value)
    await_that("they are gone", lambda: sidegate.refused("wide") == 0)


def operator_lifts(sidegate, lapi):
    """An operator's unban holds against the decision; a new decision bans again."""
    lapi.decides(ATTACKER)
    await_that("it is banned", lambda: sidegate.opens(ATTACKER) is None)
    sidegate.says("unban", ATTACKER)
    echoes(sidegate.opens(ATTACKER))
    await_that("the decision is counted as lifted", lambda: sidegate.refused("lifted") == 1)
    echoes(sidegate.opens(ATTACKER))
    lapi.forgets(ATTACKER)
    await_that("it is gone", lambda: sidegate.refused("lifted") == 0)
    # Both ban the same address: each alone.
    sidegate.says("ban", ATTACKER, "--why", "INC-1", "--for", "1h")
    lapi.decides(ATTACKER)
    await_that("both hold", lambda: sidegate.crowdsec_bans() == 1)
    lapi.forgets(ATTACKER)
    await_that("CrowdSec's is gone", lambda: sidegate.crowdsec_bans() == 0)
    need(sidegate.opens(ATTACKER) is None, "the operator's still holds")
    sidegate.says("unban", ATTACKER)
    note("operators and CrowdSec ban apart")


def poll_is_held(sidegate, lapi):
    """A decision that would end most tunnels is held until an operator accepts it."""
    tunnels = [sidegate.opens(RANGED) for _ in range(8)]
    lapi.decides("198.51.100.128/25")
    await_that("it is held", lambda: sidegate.metric("crowdsec_held") == 1)
    for wire in tunnels:
        echoes(wire)
    need("bans of CrowdSec are held" in sidegate.says("status"), "the status says so")
    need("hold now" in sidegate.says("bans", "--accept-held"), "it is accepted")
    for wire in tunnels:
        expect_banned(wire)
    sidegate.says("bans", "--accept-held", code=1)
    lapi.forgets("198.51.100.128/25")
    await_that("it is over", lambda: sidegate.crowdsec_bans() == 0)
    note("a poll that would end most tunnels is held")


def api_goes_away(sidegate, lapi):
    """Bans outlast the API, with a warning; a restart of Sidegate keeps them as well."""
    lapi.decides(ATTACKER)
    await_that("it is banned", lambda: sidegate.opens(ATTACKER) is None)
    lapi.process.end()
    await_that("the status warns", lambda: "has not answered" in sidegate.says("status"), 15, 0.3)
    need(sidegate.ready(), "it is ready all the same")
    need("has not answered" in sidegate.ask_metrics("readyz")[1], "/readyz has the detail")
    need(sidegate.opens(ATTACKER) is None, "the ban holds on")
    log = sidegate.process.err.read_text()
    need(log.count("has not answered") == 1, "the warning is logged once")
    need(KEY not in log, "the key is in no line of the log")
    sidegate.process.end()
    sidegate.name = "sidegate-again"
    sidegate.run()
    need(sidegate.opens(ATTACKER) is None, "it holds after a restart without the API")
    lapi.start()
    await_that("the API answers again", lambda: "has not answered" not in sidegate.says("status"), 15, 0.3)
    need(sidegate.opens(ATTACKER) is None, "it still holds")
    lapi.forgets(ATTACKER)
    echoes(await_that("it is let in again", lambda: sidegate.opens(ATTACKER), 15, 0.2))
    note("bans outlast the API and a restart")


def many(sidegate, lapi):
    """A hundred thousand decisions: memory, and the time of a poll; tunnels do not notice."""
    lapi.decides("10.255.255.255")
    lapi.process.end()
    with sqlite3.connect(lapi.dir / "crowdsec.db") as database:
        # As `cscli decisions import` would in minutes: rows like that of the decision above.
        columns = [row[1] for row in database.execute("PRAGMA table_info(decisions)") if row[1] not in ("id", "value")]
        names = ", ".join(columns)
        values = ((f"10.{at >> 16}.{at >> 8 & 255}.{at & 255}",) for at in range(MANY))
        database.executemany(
            f"INSERT INTO decisions ({names}, value) SELECT {names}, ? FROM decisions WHERE value = '10.255.255.255'", values
        )
    neighbour, before = sidegate.opens(NEIGHBOUR), sidegate.process.pss()
    lapi.start()
    began_all = time.monotonic()
    worst, until = 0.0, time.monotonic() + 120
    while sidegate.crowdsec_bans() != MANY + 1:
        need(time.monotonic() < until, f"{sidegate.crowdsec_bans()} of {MANY} are in force")
        began = time.monotonic()
        echoes(neighbour)
        worst = max(worst, time.monotonic() - began)
        time.sleep(0.01)
    need(sidegate.opens("10.1.2.3") is None, "one of them is banned")
    grown = sidegate.process.pss() - before
    took = time.monotonic() - began_all
    figure(f"{MANY} decisions: {took:.1f} s, {grown / 1e6:.0f} MB more, the slowest echo meanwhile {worst * 1000:.0f} ms")


def table_is_removed(sidegate):
    """Without `[crowdsec]` its bans are lifted, without a restart."""
    sidegate.settings = sidegate.base
    sidegate.config.write_text(sidegate.toml())
    sidegate.reload()
    await_that("its bans are lifted", lambda: sidegate.crowdsec_bans() == 0)
    need(sidegate.metric("crowdsec_held") is None, "its metrics are gone")


def main():
    with Place() as place:
        lapi = Lapi(place)
        sidegate = Bouncing(place, lapi)
        neighbour = decisions_end_tunnels(sidegate, lapi)
        what_must_not_be_hit_goes_on(sidegate, lapi, neighbour)
        operator_lifts(sidegate, lapi)
        neighbour.connection.close()
        poll_is_held(sidegate, lapi)
        api_goes_away(sidegate, lapi)
        many(sidegate, lapi)
        table_is_removed(sidegate)


if __name__ == "__main__":
    main()
