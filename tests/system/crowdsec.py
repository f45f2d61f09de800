"""Decisions of Debian's CrowdSec end open tunnels, and what they must not hit goes on.

A Local API of its own: configuration, database and port are those of this place, without a hub and without CrowdSec's
central API.
"""

import re
import socket
import socketserver
import sqlite3
import threading
import time

from banned import Named, echoes, expect_banned
from harness import SIDEGATE, Authority, Place, await_that, environment, figure, free_port, listening, need, note, replace, run

KEY_IN_FILE = 'key = { file = "crowdsec.key" }'
KEY, NEXT_KEY = "a-key-of-this-suite", "the-key-after-it"
ATTACKER, RANGED, SIXTH, NEIGHBOUR = "198.51.100.66", "198.51.100.130", "2001:db8::66", "192.0.2.7"
OFFICE = "192.0.2.200"
MANY = 100_000
MAX_GROWTH = 90_000_000  # bytes, for many decisions
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
    insecure_skip_verify: true
    credentials_path: {dir}/client.yaml
  server:
    listen_uri: 127.0.0.1:{port}
    profiles_path: {dir}/profiles.yaml
    trusted_ips: [127.0.0.1]
{tls}prometheus:
  enabled: false
"""
PROFILE = """name: default
filters: ["Alert.Remediation == true"]
decisions: [{ type: ban, duration: 4h }]
on_success: break
"""
TLS = """    tls:
      cert_file: {pem}
      key_file: {pem}
"""


class Lapi:
    """CrowdSec's Local API, and its commands."""

    def __init__(self, place):
        self.place, self.port, self.count = place, free_port(), 0
        self.dir = place.dir / "crowdsec"
        self.config = self.writes(tls="")
        place.write("crowdsec/simulation.yaml", "simulation: off\n")
        place.write("crowdsec/profiles.yaml", PROFILE)
        place.write("crowdsec/hub/.index.json", "{}")
        url = f"http://127.0.0.1:{self.port}"
        self.does("machines", "add", "suite", "--password", "suite", "--url", url, "--file", self.dir / "client.yaml")
        self.does("bouncers", "add", "sidegate", "--key", KEY)
        self.start()

    def writes(self, tls):
        return self.place.write("crowdsec/config.yaml", CONFIG.format(dir=self.dir, port=self.port, tls=tls))

    def answers(self, scheme, tls=""):
        """Restarts it, in the clear or over TLS; its commands follow."""
        self.process.end()
        self.writes(tls)
        client = self.dir / "client.yaml"
        client.write_text(client.read_text().replace("https:", "http:").replace("http:", f"{scheme}:"))
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

    def ids(self, value):
        """The numbers of all decisions on this value, ended ones too, in their order."""
        with sqlite3.connect(self.dir / "crowdsec.db") as database:
            return [row[0] for row in database.execute("SELECT id FROM decisions WHERE value = ? ORDER BY id", (value,))]

    def forgets(self, value):
        self.does("decisions", "delete", "--range" if "/" in value else "--ip", value)


class Bouncing(Named):
    """A Sidegate with the Local API as a source of bans."""

    def __init__(self, place, lapi):
        super().__init__(place)
        self.policy("open", TESTED)
        key = place.write("etc/crowdsec.key", KEY + "\n")
        key.chmod(0o600)
        self.lapi, self.base, self.key_file = lapi, self.settings, key
        self.settings = self.base + self.table()
        self.run()

    def table(self, url=None, more=""):
        url = url or f"http://127.0.0.1:{self.lapi.port}"
        return f'\n[crowdsec]\nurl = "{url}"\n{more or KEY_IN_FILE}\ninterval = "1s"\nmax_age = "3s"\nmax_revoked = "60%"\n'

    def polls(self, url=None, more=""):
        """Polls this URL from now on, with these keys."""
        self.settings = self.base + self.table(url, more)
        replace(self.config, self.toml())
        self.reload()

    def silent(self):
        """What the status says of an API that does not answer; empty where it does."""
        return next((line for line in self.says("status").splitlines() if "has not answered" in line), "")

    def awaits_fault(self, text):
        await_that(f"the status says: {text}", lambda: text in self.silent(), 15, 0.2)

    def awaits_answer(self):
        await_that("the API answers again", lambda: not self.silent(), 15, 0.2)

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
    lapi.decides("203.0.113.77", kind="throttle")
    for scope, value in (("Country", "DE"), ("AS", "64500"), ("username", "root")):
        lapi.does("decisions", "add", "--scope", scope, "--value", value, "--type", "ban", "--duration", "1h")
    await_that("wide ones are counted", lambda: sidegate.refused("wide") == 2)
    await_that("a contradicted test is counted", lambda: sidegate.refused("test") == 1)
    # 127.0.0.1 is loopback, and a listed peer as well: loopback is looked at first.
    await_that("loopback is counted", lambda: sidegate.refused("loopback") == 1)
    await_that("a captcha and a throttle are counted", lambda: sidegate.refused("type") == 2)
    await_that("scopes are counted", lambda: sidegate.refused("scope") == 3)
    need(sidegate.crowdsec_bans() == 0, "nothing is banned")
    echoes(neighbour)
    echoes(sidegate.opens(OFFICE))
    shown = sidegate.says("bans", "--refused")
    for part in ("range:0.0.0.0/0 (wide)", 'test "office"', "(loopback)", "captcha ip:203.0.113.77 (type)", "as:64500 (scope)"):
        need(part in shown, f"`sidegate bans --refused` shows {part}: {shown}")
    log = sidegate.process.err.read_text()
    need(log.count('"decision":"range:0.0.0.0/0"') == 1, "a refused decision is logged once")
    for value in ("0.0.0.0/0", "::/0", "127.0.0.1", OFFICE, "203.0.113.77"):
        lapi.forgets(value)
    lapi.does("decisions", "delete", "--all")
    await_that("they are gone", lambda: sidegate.refused("wide") + sidegate.refused("scope") == 0)


def several_decisions_of_one_address(sidegate, lapi):
    """A ban ends with the last decision to ban, whatever else was decided of its address."""
    banned = lambda: sidegate.crowdsec_bans() == 1
    lapi.decides(ATTACKER, more=("--duration", "2h"))
    lapi.decides(ATTACKER, kind="captcha", more=("--duration", "4h"))
    await_that("both are known", lambda: banned() and sidegate.refused("type") == 1)
    lapi.decides(ATTACKER, more=("--duration", "3h"))
    first, captcha, longer = lapi.ids(ATTACKER)[-3:]
    await_that("the longer one is shown", lambda: f"decision {longer} of" in sidegate.says("bans"))
    lapi.does("decisions", "delete", "--id", longer)
    await_that("the shorter one holds", lambda: f"decision {first} of" in sidegate.says("bans"))
    need(sidegate.opens(ATTACKER) is None, "the address is banned on")
    lapi.does("decisions", "delete", "--id", captcha)
    await_that("the captcha is gone", lambda: sidegate.refused("type") == 0)
    need(banned() and sidegate.opens(ATTACKER) is None, "the ban is not")
    lapi.does("decisions", "delete", "--id", first)
    echoes(await_that("it is let in again", lambda: sidegate.opens(ATTACKER), 15, 0.2))
    # Ends by itself, without a deletion.
    lapi.decides(ATTACKER, more=("--duration", "3s"))
    await_that("it is banned", banned)
    echoes(await_that("its time is over", lambda: sidegate.opens(ATTACKER), 15, 0.2))
    note("of several decisions the longest ban holds")


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


def largest_are_held(sidegate, lapi):
    """A decision that would end most clients is held until an operator accepts it; the others hold."""
    clients = [f"203.0.113.{at}" for at in range(1, 9)]
    tunnels = [sidegate.opens(client) for client in clients]
    attacker = [sidegate.opens(ATTACKER) for _ in range(30)]
    lapi.decides("203.0.113.0/24")
    lapi.decides(ATTACKER)
    await_that("it is held", lambda: sidegate.metric("crowdsec_held") == 1)
    for wire in attacker:
        expect_banned(wire)
    for wire in tunnels:
        echoes(wire)
    need("1 ban of CrowdSec is held" in sidegate.says("status"), "the status says so")
    need("other bans are held" in sidegate.says("bans", "--accept-held", "00000000", code=1), "another digest accepts nothing")
    listed = sidegate.says("bans", "--refused")
    need("held: 203.0.113.0/24" in listed and "8 tunnels of 8 clients" in listed, f"it is listed: {listed}")
    # Over a restart it stays held, though nothing is open then.
    sidegate.process.end()
    sidegate.name = "sidegate-held"
    sidegate.run()
    need(sidegate.opens(ATTACKER) is None, "the other still holds")
    tunnels = [sidegate.opens(client) for client in clients]
    await_that("it is still held", lambda: sidegate.metric("crowdsec_held") == 1)
    for wire in tunnels:
        echoes(wire)
    digest = re.search(r"--accept-held ([0-9a-f]{8})", sidegate.says("bans", "--refused"))[1]
    need("1 held ban holds now" in sidegate.says("bans", "--accept-held", digest), "it is accepted")
    for wire in tunnels:
        expect_banned(wire)
    sidegate.says("bans", "--accept-held", code=1)
    lapi.forgets("203.0.113.0/24")
    lapi.forgets(ATTACKER)
    await_that("both are over", lambda: sidegate.crowdsec_bans() == 0)
    note("what would end most clients is held, also over a restart")


def api_goes_away(sidegate, lapi):
    """Bans outlast the API, with a warning; a restart of Sidegate keeps them as well."""
    lapi.decides(ATTACKER)
    lapi.decides(SIXTH)
    await_that("both are banned", lambda: sidegate.crowdsec_bans() == 2)
    lapi.process.end()
    with sqlite3.connect(lapi.dir / "crowdsec.db") as database:
        database.execute("DELETE FROM decisions WHERE value = ?", (SIXTH,))
    await_that("the status warns", lambda: "has not answered" in sidegate.says("status"), 15, 0.3)
    need(sidegate.ready(), "it is ready all the same")
    need("has not answered" in sidegate.ask_metrics("readyz")[1], "/readyz has the detail")
    need(sidegate.opens(ATTACKER) is None, "the ban holds on")
    log = sidegate.process.err.read_text()
    need(log.count("has not answered") == 1, "the warning is logged once")
    need(KEY not in log, "the key is in no line of the log")
    sidegate.process.end()
    sidegate.name = "sidegate-again"
    # As systemd passes it, from now on.
    replace(sidegate.key_file, "not-the-key\n")
    sidegate.place.write("credentials/lapi", KEY + "\n")
    sidegate.settings = sidegate.base + sidegate.table(more='key = { credential = "lapi" }')
    with environment(CREDENTIALS_DIRECTORY=str(sidegate.place.dir / "credentials")):
        sidegate.run()
    need(sidegate.opens(ATTACKER) is None, "it holds after a restart without the API")
    lapi.start()
    sidegate.awaits_answer()
    echoes(await_that("a decision that was deleted meanwhile ends", lambda: sidegate.opens(SIXTH), 15, 0.2))
    need(sidegate.opens(ATTACKER) is None, "the other still holds")
    note("bans outlast the API and a restart, deleted ones do not")


def key_changes(sidegate, lapi):
    """A wrong key is named and changes no ban; a rotated one is used at once."""
    sidegate.polls()
    sidegate.awaits_fault("refuses the key (403)")
    need(sidegate.opens(ATTACKER) is None, "the ban holds on")
    lapi.does("bouncers", "add", "next", "--key", NEXT_KEY)
    lapi.does("bouncers", "delete", "sidegate")
    replace(sidegate.key_file, NEXT_KEY + "\n")
    sidegate.key_file.chmod(0o600)
    sidegate.awaits_answer()
    note("a rotated key is used at once")


class Relay(socketserver.ThreadingUnixStreamServer):
    """A Unix socket that leads to a TCP port: this version of CrowdSec listens at none itself."""

    daemon_threads = True

    def __init__(self, path, port):
        self.port = port
        super().__init__(str(path), Relayed)
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Relayed(socketserver.BaseRequestHandler):
    def handle(self):
        with socket.create_connection(("127.0.0.1", self.server.port)) as api:
            threading.Thread(target=self.relay, args=(self.request, api), daemon=True).start()
            self.relay(api, self.request)

    def relay(self, source, target):
        try:
            while piece := source.recv(65536):
                target.sendall(piece)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # the other side has closed


def other_ways_to_the_api(sidegate, lapi):
    """TLS of a private authority, and a Unix socket. An API that cannot be trusted changes nothing."""
    authority = Authority(sidegate.place)
    pem = authority.issue("lapi", "IP:127.0.0.1")
    lapi.answers("https", TLS.format(pem=pem))
    url, trusting = f"https://127.0.0.1:{lapi.port}", f'{KEY_IN_FILE}\nca = "{authority.ca}"'
    sidegate.polls(url)
    sidegate.awaits_fault("its certificate is not signed by a trusted CA")
    need(sidegate.opens(ATTACKER) is None, "the ban holds on")
    sidegate.polls(url.replace("127.0.0.1", "localhost"), trusting)
    sidegate.awaits_fault("its certificate is for 127.0.0.1, not for localhost")
    sidegate.polls(url, trusting)
    sidegate.awaits_answer()
    lapi.forgets(ATTACKER)
    echoes(await_that("a deletion comes over TLS", lambda: sidegate.opens(ATTACKER), 15, 0.2))
    lapi.answers("http")
    relay = Relay(sidegate.place.dir / "lapi.sock", lapi.port)
    sidegate.polls(f"unix:{relay.server_address}")
    lapi.decides(ATTACKER)
    await_that("a decision comes by the socket", lambda: sidegate.opens(ATTACKER) is None)
    lapi.forgets(ATTACKER)
    sidegate.polls()
    note("TLS and Unix sockets reach the API")


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
    took = time.monotonic() - began_all
    figure(f"{MANY} decisions: {took:.1f} s, the slowest echo meanwhile {worst * 1000:.0f} ms")
    kept = sidegate.place.dir / "state" / "crowdsec.json"
    await_that("the file has them", lambda: kept.stat().st_size > 100 * MANY, 60, 0.5)
    grown = settled(sidegate) - before
    sidegate.says("bans")
    after_look = settled(sidegate) - before
    sidegate.process.end()
    sidegate.name = "sidegate-many"
    sidegate.run()
    need(sidegate.opens("10.1.2.3") is None, "the file brings them back")
    again = settled(sidegate) - before
    sizes = ", ".join(f"{size / 1e6:.0f}" for size in (grown, after_look, again))
    figure(f"settled, after `sidegate bans`, and after a restart: {sizes} MB more than without them")
    need(max(grown, after_look, again) < MAX_GROWTH, "freed memory is returned")


def settled(sidegate):
    """The memory of the agent once it changes no more: files are written, freed memory is returned."""
    sizes = [sidegate.process.pss()]
    until = time.monotonic() + 60
    while len(sizes) < 6 or max(sizes[-6:]) - min(sizes[-6:]) > 2_000_000:
        need(time.monotonic() < until, f"the memory settles: {sizes[-6:]}")
        time.sleep(1)
        sizes.append(sidegate.process.pss())
    return sizes[-1]


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
        largest_are_held(sidegate, lapi)
        several_decisions_of_one_address(sidegate, lapi)
        api_goes_away(sidegate, lapi)
        key_changes(sidegate, lapi)
        other_ways_to_the_api(sidegate, lapi)
        many(sidegate, lapi)
        table_is_removed(sidegate)


if __name__ == "__main__":
    main()
