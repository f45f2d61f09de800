"""A real Prometheus scrapes a real Sidegate under load, and `monitoring/` holds: configurations, rules, dashboard.

The load makes every family move: each expression of the dashboard must then return data, each alert must name what
exists, and a rejected reload must reach its alert. Then many scrapers connect and stall, without an effect on others.
"""

import asyncio
import contextlib
import itertools
import json
import multiprocessing
import re
import shutil
import socket
import ssl
import statistics
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from harness import (
    HERE, Authority, Place, Sidegate, await_that, echo_backend, figure, free_port, need, note, run, save,
)  # fmt: skip
from identity_mtls import Clients
from mirror import Backend, Wire

MONITORING = HERE.parent.parent / "monitoring"
OPERATIONS = HERE.parent.parent / "docs/operations.md"
SECONDS = 30  # of load, scraped each second
SCRAPERS, CROWD_SECONDS = 100, 4  # at a time, and for how long
PAGE = "https://app.example.com"
GUEST, STRANGER, SPY = "127.0.0.9", "127.0.0.8", "127.0.0.7"


class Discreet(Sidegate):
    """A Sidegate whose metrics are not for every address of the loopback."""

    def toml(self):
        return super().toml().replace("[metrics]\n", '[metrics]\nallow = ["127.0.0.1"]\n', 1)


class World:
    """Sidegate with a route for each kind of trouble, and a Prometheus that scrapes it as the shipped file says."""

    def __init__(self, place):
        self.place, self.authority, self.mirror = place, Authority(place), Backend()
        self.trust = ssl.create_default_context(cafile=self.authority.ca)
        # TLS 1.2, where a session can be taken along as soon as the handshake is done.
        self.resuming = ssl.create_default_context(cafile=self.authority.ca)
        self.resuming.maximum_version, self.session = ssl.TLSVersion.TLSv1_2, None
        echo, mirror, dead = echo_backend(place), self.mirror.port, free_port()
        self.guests = place.write("etc/policies/lists/guests.cidr", self.list_text(True))
        sidegate = Discreet(place).certificate(self.authority.issue("localhost"))
        sidegate.policy(
            "market-data",
            '[lists]\nguests = { file = "lists/guests.cidr" }\n'
            f'[client]\nallow = ["127.0.0.1", "guests"]\norigins = ["none", "{PAGE}"]\n'
            '[limits]\nupgrades = { rate = "1000/s", burst = 1000 }\nconnections = { per_client = 50, total = 500 }\n'
            'streams = { total = 50 }\n',
        )
        # No client is admitted twice within the load: no token may return to a bucket between two attempts.
        sidegate.policy("slow", '[client]\nallow = ["any"]\n[limits]\nupgrades = { rate = "1/m", burst = 1 }\n')
        sidegate.policy("single", '[client]\nallow = ["any"]\n[limits]\nconnections = { per_client = 1 }\n')
        sidegate.policy("full", '[client]\nallow = ["any"]\n[limits]\nconnections = { total = 1 }\n').policy()
        # A name without an address, beside a backend that serves: names have panels of their own.
        ticks = [f"http://127.0.0.1:{mirror}", "http://nowhere.invalid:9"]
        sidegate.route("ticks", "/ws/", ticks, "market-data")
        sidegate.route("docs", "/docs/", f"http://127.0.0.1:{mirror}", http="forward")
        sidegate.route("full", "/full/", f"http://127.0.0.1:{echo}", "full")
        sidegate.route("slow", "/slow/", f"http://127.0.0.1:{echo}", "slow")
        sidegate.route("single", "/single/", f"http://127.0.0.1:{echo}", "single")
        sidegate.route("dead", "/dead/", f"http://127.0.0.1:{dead}")
        sidegate.route("pair", "/pair/", [f"http://127.0.0.1:{dead}", f"http://127.0.0.1:{echo}"])
        # Nothing answers at the port of CrowdSec: its panels show that.
        place.write("etc/crowdsec.key", "key").chmod(0o600)
        crowdsec = f'[crowdsec]\nurl = "http://127.0.0.1:{dead}"\nkey = {{ file = "crowdsec.key" }}\ninterval = "1s"'
        sidegate.settings = f'[reload]\nrevoke_spread = "100ms"\n{crowdsec}'
        # Certificates are optional, and no client here has one: the panel shows when the list expires.
        clients = Clients(place)
        place.write("etc/clients.pem", (clients.dir / "ca.pem").read_text())
        place.write("etc/clients.crl", clients.crl())
        asked = 'ca = "clients.pem", crl = ["clients.crl"], mode = "optional"'
        sidegate.public.append(f"client_certificates = {{ {asked} }}")
        self.sidegate = sidegate.run()

    @staticmethod
    def list_text(open):
        return f"192.0.2.0/24 expires=2099-12-31\n{'' if open else '!'}{GUEST}\n"

    def start_prometheus(self):
        """Starts it with the shipped configuration and rules: only the target and the pace are put in."""
        config = (MONITORING / "prometheus.yml").read_text()
        shipped = "127.0.0.1:10464"
        need(config.count(f'"{shipped}"') == 1, f"prometheus.yml has one target, {shipped}")
        self.target = f"127.0.0.1:{self.sidegate.metrics_port}"
        shutil.copy(MONITORING / "sidegate.rules.yml", self.place.dir)
        file = self.place.write("prometheus.yml", config.replace(shipped, self.target).replace("15s", "1s"))
        self.port = free_port()
        self.process = self.place.start(
            "prometheus", "prometheus", f"--config.file={file}", f"--storage.tsdb.path={self.place.dir}/tsdb",
            f"--web.listen-address=127.0.0.1:{self.port}", "--log.level=warn",
        )  # fmt: skip
        await_that("prometheus is ready", self.ready)
        await_that("prometheus finds its target up", lambda: self.one('up{job="sidegate"}') == 1)
        self.began = time.time()

    def ready(self):
        with contextlib.suppress(OSError):
            return self.process.alive() and urllib.request.urlopen(f"http://127.0.0.1:{self.port}/-/ready", timeout=5)

    def ask(self, path, **query):
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as refused:
            raise AssertionError(f"prometheus says {refused.read().decode()} to {query}") from refused

    def one(self, query):
        """The value of an expression with one sample; None where it has none."""
        with contextlib.suppress(OSError):
            found = self.ask("query", query=query)["result"]
            return float(found[0]["value"][1]) if found else None

    def values(self, query, instant=False):
        """All numbers that a panel would show of the load: NaN is none."""
        if instant:
            series = [[sample["value"]] for sample in self.ask("query", query=query)["result"]]
        else:
            when = {"start": self.began + 5, "end": time.time(), "step": 1}
            series = [sample["values"] for sample in self.ask("query_range", query=query, **when)["result"]]
        return [value for _, value in itertools.chain(*series) if value != "NaN"]

    def alert(self, name):
        """The states of an alert that is pending or firing."""
        return {alert["state"] for alert in self.ask("alerts")["alerts"] if alert["labels"]["alertname"] == name}

    # --- what the clients do

    def open(self, path="/ws/", client="127.0.0.1", origin=None):
        """A tunnel over TLS, by Python's `websockets`."""
        url = f"wss://localhost:{self.sidegate.tls_port}{path}"
        return connect(url, ssl=self.trust, origin=origin, local_addr=(client, 0), ping_interval=None, proxy=None)

    def attempt(self, path="/ws/", client="127.0.0.1", version=13, upgrade=True, more=""):
        """An attempt in plain TCP, or a plain request: the status of the answer."""
        asks = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        asks += f"Sec-WebSocket-Version: {version}\r\n"
        with socket.create_connection(("127.0.0.1", self.sidegate.plain_port), 10, (client, 0)) as connection:
            wire = Wire(connection)
            wire.send(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{asks if upgrade else ''}{more}\r\n".encode())
            return int(wire.head()[0].split()[1])

    async def echoes(self):
        async with self.open(origin=PAGE) as tunnel:
            for size in (1, 64, 4096):
                await echo(tunnel, b"x" * size)

    async def endings(self):
        for order in ("close 4000 enough", "drop"):
            async with self.open() as tunnel:
                await tunnel.send(order)
                await ended(tunnel, f"the backend ends a tunnel after {order}")
        async with self.open() as tunnel:
            tunnel.transport.abort()  # gone without a Close

    async def refusals(self):
        self.attempt("/slow/")
        async with self.open("/full/"), self.open("/single/"):
            asked = {
                "network": (403, self.attempt(client=STRANGER)),
                "origin": (403, self.attempt(more="Origin: https://evil.example.com\r\n")),
                "route": (404, self.attempt("/nowhere")),
                "path": (400, self.attempt("/ws/%2e%2fx")),
                "version": (426, self.attempt(version=8)),
                "plain": (426, self.attempt(upgrade=False)),
                "rate": (429, self.attempt("/slow/")),
                "connections": (429, self.attempt("/single/")),
                "capacity": (503, self.attempt("/full/")),
                "backend": (502, self.attempt("/dead/")),
            }
        for reason, (wanted, status) in asked.items():
            need(status == wanted, f"{reason} is {wanted}, not {status}")

    async def plain(self):
        need(self.attempt("/docs/page", upgrade=False) == 200, "plain HTTP goes through where the route forwards it")
        async with self.open("/pair/") as tunnel:
            await echo(tunnel, "one of two backends is up")

    async def handshakes(self):
        """TLS: resumed, and failed; and a connection without a byte."""
        with socket.create_connection(("127.0.0.1", self.sidegate.tls_port), 10) as plain:
            with self.resuming.wrap_socket(plain, server_hostname="localhost", session=self.session) as secured:
                self.session = secured.session
        with socket.create_connection(("127.0.0.1", self.sidegate.tls_port), 10) as plain:
            plain.sendall(b"GET / HTTP/1.1\r\n\r\n")
            Wire(plain).rest()
        socket.create_connection(("127.0.0.1", self.sidegate.plain_port), 10).close()

    async def spying(self):
        """A scraper that is not admitted."""
        with socket.create_connection(("127.0.0.1", self.sidegate.metrics_port), 10, (SPY, 0)) as connection:
            wire = Wire(connection)
            wire.send(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            need(" 403 " in wire.head()[0], "a scraper outside `allow` gets a 403")

    async def reloads(self):
        """A guest's tunnel ends as its list no longer names it; then the list does again, and a reload finds nothing new."""
        async with self.open(client=GUEST) as guest:
            save(self.guests, self.list_text(False))
            self.sidegate.reload()
            await ended(guest, "a guest's tunnel is revoked")
            need(guest.close_code == 1008, f"revoked is 1008, not {guest.close_code}")
        save(self.guests, self.list_text(True))
        self.sidegate.reload()
        self.sidegate.reload()

    async def all_of_it(self, until):
        """One kind of doing after the other, and so on."""
        doings = (self.echoes, self.endings, self.refusals, self.plain, self.handshakes, self.spying, self.reloads)
        for rounds in itertools.count(1):
            for doing in doings:
                await doing()
            if time.time() > until:
                return rounds


async def echo(tunnel, message):
    await tunnel.send(message)
    need(await asyncio.wait_for(tunnel.recv(), 10) == message, "an echo came back as it went")


async def ended(tunnel, claim):
    with contextlib.suppress(ConnectionClosed):
        await asyncio.wait_for(tunnel.recv(), 10)
        raise AssertionError(claim)


def files_hold():
    """What promtool has to say of the files, and what it can't: that every alert is tested, both ways, and explained."""
    rules = MONITORING / "sidegate.rules.yml"
    run("promtool", "check", "config", MONITORING / "prometheus.yml", MONITORING / "prometheus.fleet.yml")
    run("promtool", "check", "rules", rules)
    tests = sorted((MONITORING / "tests").glob("*.yml"))
    for test in tests:
        run("promtool", "test", "rules", test)
    said = "\n".join(test.read_text() for test in tests)
    alerts = set(re.findall(r"- alert: (\w+)", rules.read_text()))
    for name in alerts:
        expected = re.findall(rf"alertname: {name}\n +exp_alerts:(.*)", said)
        need("" in expected, f"{name} has a test in which it fires")
        need(" []" in expected, f"{name} has a test in which it doesn't")
    headings = set(re.findall(r"^### (\w+)$", OPERATIONS.read_text(), re.M))
    need(headings >= alerts, f"docs/operations.md says what to do about {alerts - headings}")
    figure(f"{len(alerts)} alerts")


def scrapes_are_clean(world, rounds):
    """Prometheus took every scrape, and promtool finds no fault with one; its text."""
    status, scrape = world.sidegate.ask_metrics("metrics")
    need(status == 200, f"/metrics answers {status}")
    said = run("promtool", "check", "metrics", input=scrape)
    need(not said, f"promtool finds fault with the metrics:\n{said}")
    # Each has a second, where it has ten by the shipped file: one may be late on a busy machine.
    need(world.one("avg_over_time(up[1h])") > 0.95, "the scrapes succeed")
    figure(f"{world.one('count_over_time(up[1h])'):.0f} scrapes under {rounds} rounds of load, promtool finds no fault")
    return scrape


def panels_of(dashboard):
    """The panels with data; the dashboard must be valid for Grafana, and readable."""
    ids, taken, shown = set(), set(), []
    for panel in dashboard["panels"]:
        title, at = panel["title"], panel["gridPos"]
        need(panel["id"] not in ids, f"{title}: its id is its own")
        ids.add(panel["id"])
        cells = set(itertools.product(range(at["x"], at["x"] + at["w"]), range(at["y"], at["y"] + at["h"])))
        need(at["x"] + at["w"] <= 24 and not cells & taken, f"{title}: its place is its own")
        taken |= cells
        if panel["type"] == "row":
            continue
        need(panel["fieldConfig"]["defaults"].get("unit"), f"{title}: it has a unit")
        refs = [target["refId"] for target in panel["targets"]]
        need(refs and len(set(refs)) == len(refs), f"{title}: its targets have different names")
        for target in panel["targets"]:
            need(target["expr"] and target["legendFormat"], f"{title}: each target has an expression and a legend")
            need(target["datasource"]["uid"] == "${datasource}", f"{title}: the data source can be chosen")
        shown.append(panel)
    return shown


def dashboard_shows(world, scrape):
    """Every expression returns data, for all there is and for one route of one instance."""
    dashboard = json.loads((MONITORING / "grafana.json").read_text())
    panels = panels_of(dashboard)
    for variable in dashboard["templating"]["list"][1:]:
        asked, label = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["definition"]).groups()
        found = {series.get(label) for series in world.ask("series", **{"match[]": asked.replace("$instance", ".*")})}
        need({"instance": world.target, "route": "ticks"}[variable["name"]] in found, f"${variable['name']} offers {found}")

    everything = {"$instance": ".*", "$route": ".*"}
    selected = {"$instance": re.escape(world.target).replace("\\", "\\\\"), "$route": "ticks"}
    asked = [(panel["title"], target["expr"], target.get("instant", False)) for panel in panels for target in panel["targets"]]
    asked += [(note["name"], note["expr"], False) for note in dashboard["annotations"]["list"] if "expr" in note]
    empty = set()
    for chosen in (everything, selected):
        for title, expression, instant in asked:
            for name, value in {**chosen, "$__rate_interval": "4s"}.items():  # Grafana: at least four scrapes
                expression = expression.replace(name, value)
            need("$" not in expression, f"{title}: every variable is known: {expression}")
            if not world.values(expression, instant):
                empty.add(f"{title}: {expression}")
    need(not empty, "\n  ".join(["these show nothing:", *sorted(empty)]))
    all_said = " ".join(expression for _, expression, _ in asked)
    families = {name for name in re.findall(r"^# TYPE (sidegate_\w+)", scrape, re.M) if "_candidate_" not in name}
    need(not (hidden := {name for name in families if name not in all_said}), f"the dashboard leaves out {hidden}")
    figure(f"{len(asked)} expressions of {len(panels)} panels show {len(families)} families")


def rules_run(world, scrape):
    """Each alert names what exists, is evaluated without an error, and one is seen to come and go."""
    families = set(re.findall(r"^# TYPE (\w+)", scrape, re.M))
    need("sidegate_tunnels_open" in families, "a scrape has types")
    rules = [rule for group in world.ask("rules")["groups"] for rule in group["rules"]]
    wanted = {name for rule in rules for name in re.findall(r"(?<!:)\b(?:sidegate|process)_\w+", rule["query"])}
    need(wanted <= families, f"the rules use unknown families: {wanted - families}")
    for rule in rules:
        need(rule["health"] == "ok", f"{rule['name']}: {rule['health']} {rule.get('lastError')}")
        if rule["type"] == "recording":
            continue
        need(rule["labels"]["severity"] in ("critical", "warning"), f"{rule['name']} says how severe it is")
        runbook = rule["annotations"]["runbook_url"]
        need(runbook == f"docs/operations.md#{rule['name'].lower()}", f"{rule['name']} leads to its paragraph, not {runbook}")

    name = "SidegateReloadRejected"
    need(not world.alert(name), "no reload is rejected yet")
    save(world.guests, good := world.list_text(True) + "203.0.113.7/24\n")
    world.sidegate.reload(code=1)
    await_that(f"{name} is pending", lambda: world.alert(name) == {"pending"})
    save(world.guests, good.replace("/24\n", "/32\n"))
    world.sidegate.reload()
    await_that(f"{name} is over", lambda: not world.alert(name))


async def crowds_are_bounded(world):
    """A hundred scrapers at a time and a scraper that reads nothing: tunnels and /livez are not affected."""
    port = world.sidegate.metrics_port
    request = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"

    def taking_nothing():
        scraper = socket.socket()
        scraper.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)  # a window that is soon zero
        scraper.connect(("127.0.0.1", port))
        scraper.settimeout(0.5)
        return scraper

    # Requests behind the first are discarded, up to 64 MiB (docs/spec/wire.md).
    with taking_nothing() as flooding, contextlib.suppress(OSError):
        for _ in range(200 * 2**20 // len(1_000 * request)):
            flooding.sendall(1_000 * request)
        raise AssertionError("a scraper that takes no answer is read from for ever")
    stalled = taking_nothing()
    stalled.sendall(request)

    async def live():
        need(world.sidegate.ask_metrics("livez")[0] == 200, "/livez answers")

    async with world.open() as tunnel:
        doings = {"echo": lambda: echo(tunnel, "still there"), "/livez": live}
        alone = {what: [await seconds(doing) for _ in range(100)] for what, doing in doings.items()}
        crowded = {what: [] for what in doings}
        # In a process of its own, or its clients would slow ours down.
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
            process.submit(len, "started").result()
            crowd = process.submit(scrape_on, port, CROWD_SECONDS)
            while not crowd.done():
                for what, doing in doings.items():
                    crowded[what].append(await seconds(doing))
            answered = crowd.result()
    need(answered >= SCRAPERS, f"each of the crowd is answered: {answered}")
    stalled.close()
    for what, took in crowded.items():
        before, median, most = statistics.median(alone[what]) * 1e3, statistics.median(took) * 1e3, max(took) * 1e3
        note(f"{what}: median {before:.1f} ms alone, {median:.1f} ms in the crowd, at most {most:.0f} ms")
        need(most < 5000, f"{what} took {most:.0f} ms")
    medians = ", ".join(f"{what} {statistics.median(took) * 1e3:.1f} ms" for what, took in crowded.items())
    figure(f"{answered} scrapes by {SCRAPERS} at a time meanwhile: {medians}")


async def seconds(doing):
    began = time.monotonic()
    await doing()
    return time.monotonic() - began


def scrape_on(port, seconds):
    """A hundred scrapers, each with a connection of its own for every scrape; how many scrapes were answered."""
    over = time.monotonic() + seconds

    def scrape():
        for count in itertools.count(1):
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
                need(b"sidegate_tunnels_open" in answer.read(), "each of the crowd is answered")
            if time.monotonic() > over:
                return count

    with ThreadPoolExecutor(SCRAPERS) as crowd:
        return sum(scraper.result() for scraper in [crowd.submit(scrape) for _ in range(SCRAPERS)])


async def main():
    with Place() as place, ThreadPoolExecutor(1) as beside:
        checking = beside.submit(files_hold)
        world = World(place)
        world.start_prometheus()
        async with world.open(), world.open("/pair/"):  # two that stay
            rounds = await world.all_of_it(until=world.began + SECONDS)
            scrape = scrapes_are_clean(world, rounds)
            dashboard_shows(world, scrape)
            rules_run(world, scrape)
            await crowds_are_bounded(world)
        checking.result()
        need(world.sidegate.process.end(40) == 0, "SIGTERM drains, and the exit code is 0")


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
