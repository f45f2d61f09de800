"""The same reloads under load, of nginx, HAProxy, Envoy and Sidegate in one run: their cost, and the time to a new deny.

A thousand tunnels exchange messages and new clients connect, while a deny for a client without a tunnel is turned on and
off twenty times; after each change a few of the oldest tunnels end and as many new ones open. Then clients with tunnels
are denied. Before, echoes are timed with a reload each second and without. It runs by name only:
`tests/system/run --only reloads`, and with `SIDEGATE_WRITE_DOCS=1` twice, for the tables in `docs/operations.md`. Nothing
is asserted about the other proxies: their figures are the result.
"""

import contextlib
import json
import os
import re
import signal
import statistics
import sys
import time
from pathlib import Path

import size
import storm
from harness import (
    HERE, SIDEGATE, Authority, Place, Sidegate, await_that, echo_backend, figure, free_port, listening, need, note, run,
)  # fmt: skip
from mirror import CLOSE, Ended, closing, connect, masked

TUNNELS, GUESTS = 900, 100
RELOADS, RENEWED = 20, 40  # so many tunnels come after each reload, and as many of the oldest go
COMING = 100  # clients a second
GROUND = [f"127.0.0.{last}" for last in range(20, 36)]
STRANGER, GUEST = "127.0.0.7", "127.0.0.9"
IN_A_ROW = 10  # attempts with the new answer in a row, so that every process of a proxy has it
SPREAD, GRACE = 2, 5  # seconds: [reload] revoke_spread and [timeouts] grace, as they are without being set
SLACK = 3  # factor above the bounds, which are those of a quiet machine
DOCUMENT = HERE.parent.parent / "docs/operations.md"


class Proxy:
    """A proxy in front of its own backend, and the way to change its deny list."""

    def __init__(self, place):
        self.place, self.port = place, free_port()
        self.authority = Authority(place)
        self.certificate, self.backend = self.authority.issue("localhost"), echo_backend(place)
        self.deny(())
        self.process = self.start()
        await_that(f"{self.name} listens", lambda: self.process.alive() and listening(self.port))

    def status(self, source):
        """What an attempt from this address gets."""
        with contextlib.suppress(Ended, OSError):
            return self.attempt(source)

    def attempt(self, source):
        wire = connect(self.port, self.authority.ca, source=source)
        with wire.connection:
            wire.send(
                b"GET /ws/ HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
            )
            status = int(wire.head()[0].split()[1])
            if status == 101:
                wire.send(masked(CLOSE, closing(1000)))
            return status

    def holds(self, since, source, status):
        """Seconds from `since` until the first of some attempts in a row that are all decided in the new way."""
        first, row = None, 0
        while row < IN_A_ROW:
            need(time.monotonic() < since + 10, f"{self.name}: the new rule holds within 10 s")
            row = row + 1 if self.status(source) == status else 0
            first = time.monotonic() if row == 1 else first
        return first - since

    def clients(self, name, **more):
        target = json.dumps({"port": self.port, "path": "/ws/", "ca": str(self.authority.ca), **more})
        return self.place.start(name, "node", HERE / "pump.js", target, talks=True)


class Nginx(Proxy):
    name, how, version = "nginx", "`nginx -s reload`", "-v"
    program = "nginx"

    def deny(self, whom):
        self.place.write("nginx/deny.conf", "".join(f"deny {one};\n" for one in whom) + "allow all;\n")

    def start(self):
        folder = self.place.dir / "nginx"
        self.place.write(
            "nginx/nginx.conf",
            f"daemon off; user root; worker_processes 2; worker_rlimit_nofile 16384; pid {folder}/pid; error_log stderr error;\n"
            f"events {{ worker_connections 8192; }}\nhttp {{\n access_log off; client_body_temp_path {folder}/b; proxy_temp_path {folder}/p;\n"
            f" fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;\n"
            f" server {{ listen 127.0.0.1:{self.port} ssl; ssl_certificate {self.certificate}; ssl_certificate_key {self.certificate}; ssl_protocols TLSv1.3;\n"
            f"  location / {{ include {folder}/deny.conf; proxy_pass http://127.0.0.1:{self.backend}; proxy_http_version 1.1;\n"
            "   proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection upgrade; proxy_set_header Host $host;\n"
            "   proxy_read_timeout 1h; } }\n}\n",
        )
        self.argv = (self.program, "-p", folder, "-c", folder / "nginx.conf", "-e", "stderr")
        return self.place.start("nginx", *self.argv)

    def reload(self):
        run(*self.argv, "-s", "reload")


class HAProxy(Proxy):
    name, how, version = "HAProxy", "`SIGUSR2`", "-v"
    program = "haproxy"

    def deny(self, whom):
        self.place.write("haproxy/deny", "".join(f"{one}\n" for one in whom))

    def start(self):
        config = self.place.write(
            "haproxy/haproxy.cfg",
            f"global\n maxconn 8000\n nbthread 2\n stats socket {self.place.dir}/stats mode 600 level admin expose-fd listeners\n"
            "defaults\n mode http\n timeout connect 5s\n timeout client 1h\n timeout server 1h\n timeout tunnel 1h\n"
            f"frontend public\n bind 127.0.0.1:{self.port} ssl crt {self.certificate} alpn http/1.1\n"
            f" http-request deny deny_status 403 if {{ src -f {self.place.dir}/haproxy/deny }}\n default_backend echo\n"
            f"backend echo\n server echo 127.0.0.1:{self.backend}\n",
        )
        return self.place.start("haproxy", self.program, "-W", "-f", config)

    def reload(self):
        self.process.popen.send_signal(signal.SIGUSR2)


class Envoy(Proxy):
    name, how, version = "Envoy", "RDS file moved", "--version"
    # The program itself: what PyPI installs as `envoy` is a script that starts it.
    program = next(Path(sys.prefix).glob("lib/python*/site-packages/envoy/_bin/envoy"), "envoy")

    @staticmethod
    def typed(kind, **more):
        return {"@type": f"type.googleapis.com/envoy.{kind}", **more}

    def deny(self, whom):
        denied = [{"direct_remote_ip": {"address_prefix": one, "prefix_len": 32}} for one in whom]
        policies = {"denied": {"permissions": [{"any": True}], "principals": denied}} if denied else {}
        rules = self.typed("extensions.filters.http.rbac.v3.RBACPerRoute", rbac={"rules": {"action": "DENY", "policies": policies}})
        routes = self.typed(
            "config.route.v3.RouteConfiguration", name="public", typed_per_filter_config={"rbac": rules},
            virtual_hosts=[{"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "echo", "timeout": "0s"}}]}],
        )  # fmt: skip
        moved = self.place.dir / "envoy/moved"
        moved.mkdir(parents=True, exist_ok=True)
        # It looks when a file is moved into the folder, and at nothing else.
        self.place.write("envoy/routes.json", json.dumps({"resources": [routes]})).rename(moved / "routes.json")

    def start(self):
        def http_filter(name, kind):
            return {"name": name, "typed_config": self.typed(f"extensions.filters.http.{kind}")}

        manager = self.typed(
            "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            stat_prefix="public", codec_type="HTTP1", stream_idle_timeout="3600s", upgrade_configs=[{"upgrade_type": "websocket"}],
            http_filters=[http_filter("rbac", "rbac.v3.RBAC"), http_filter("router", "router.v3.Router")],
            rds={"route_config_name": "public", "config_source": {
                "resource_api_version": "V3", "path_config_source": {"path": str(self.place.dir / "envoy/moved/routes.json")},
            }},
        )  # fmt: skip
        pair = {"certificate_chain": {"filename": str(self.certificate)}, "private_key": {"filename": str(self.certificate)}}
        context = {"tls_params": {"tls_minimum_protocol_version": "TLSv1_3"}, "tls_certificates": [pair], "alpn_protocols": ["http/1.1"]}
        listener = {"name": "public", "address": self.at(self.port), "filter_chains": [{
            "filters": [{"name": "http", "typed_config": manager}],
            "transport_socket": {
                "name": "tls", "typed_config": self.typed("extensions.transport_sockets.tls.v3.DownstreamTlsContext", common_tls_context=context)
            },
        }]}  # fmt: skip
        plenty = {"max_connections": 100_000, "max_pending_requests": 100_000, "max_requests": 100_000}
        endpoints = [{"lb_endpoints": [{"endpoint": {"address": self.at(self.backend)}}]}]
        cluster = {
            "name": "echo", "type": "STATIC", "connect_timeout": "5s", "circuit_breakers": {"thresholds": [plenty]},
            "load_assignment": {"cluster_name": "echo", "endpoints": endpoints},
        }  # fmt: skip
        # A file may only be watched by a node that has names.
        config = {"node": {"id": "one", "cluster": "one"}, "static_resources": {"listeners": [listener], "clusters": [cluster]}}
        path = self.place.write("envoy/envoy.json", json.dumps(config))
        return self.place.start("envoy", self.program, "-c", path, "--concurrency", 2, "--disable-hot-restart", "--log-level", "error")

    @staticmethod
    def at(port):
        return {"socket_address": {"address": "127.0.0.1", "port_value": port}}

    def reload(self):
        """The move is enough."""


class Ours(Proxy):
    name, how, version = "Sidegate", "file saved", "--version"
    program, promised = SIDEGATE, (0.150, 0.300)  # seconds until a new deny holds: the median, and at most

    def deny(self, whom):
        denied = f"deny = {json.dumps(list(whom))}\n" if whom else ""
        self.place.write("etc/policies/open.toml", f'schema = 1\n[client]\nallow = ["any"]\n{denied}')

    def start(self):
        self.sidegate = Sidegate(self.place).certificate(self.certificate)
        self.sidegate.tls_port = self.port
        self.sidegate.route("ws", "/ws/", f"http://127.0.0.1:{self.backend}")
        return self.sidegate.run().process

    def reload(self):
        """Saving is enough."""


class Asked(Ours):
    how, promised = "`sidegate reload`", (0.010, 0.050)

    def reload(self):
        began = time.monotonic()
        storm.reload(self.sidegate)
        self.took = time.monotonic() - began

    def holds(self, since, source, status):
        """It answers when the new rule holds: not one attempt after that is decided in the old way."""
        need(self.status(source) == status, f"the first attempt after the answer gets {status}")
        return self.took


def compare(kind):
    """One of them through all reloads; what was seen."""
    with Place() as place:
        proxy = kind(place)
        seen = {"p99": echoes(proxy)}
        pump, guests, coming = proxy.clients("pump"), proxy.clients("guests", **{"from": GUEST}), proxy.clients("coming")
        for one, count in ((pump, TUNNELS), (guests, GUESTS)):
            need(one.ask(do="open", count=count)["open"] == count, "every tunnel opens")
            one.ask(do="pump", size=256, pause=500)
        coming.ask(do="come", rate=COMING, **{"from": GROUND})
        time.sleep(1)  # the load is part of the measurement before, too
        before, processes = proxy.process.pss(), len(proxy.process.tree())
        took = []
        for turn in range(RELOADS):
            denied = turn % 2 == 0
            proxy.deny([STRANGER] if denied else [])
            began = time.monotonic()
            proxy.reload()
            took.append(proxy.holds(began, STRANGER, 403 if denied else 101))
            pump.ask(do="renew", count=RENEWED)
        seen["memory"] = before, proxy.process.pss()
        seen["processes"] = processes, len(proxy.process.tree())
        seen["dropped"] = sum(one.ask(do="stats")["dropped"] for one in (pump, guests))
        came = coming.ask(do="came")
        seen["came"], seen["failed"] = came["begun"], came["begun"] - came["became"].get("served", 0)
        seen["median"], seen["most"] = statistics.median(took), max(took)

        proxy.deny([GUEST])
        began, at = time.monotonic(), time.time()
        proxy.reload()
        proxy.holds(began, GUEST, 403)
        while guests.ask(do="stats")["open"] and time.monotonic() < began + SPREAD + GRACE:
            time.sleep(0.1)
        stats = guests.ask(do="stats")
        seen["gone"], seen["closes"] = GUESTS - stats["open"], stats["closes"]
        seen["last"] = stats["ended"]["last"] / 1e3 - at if seen["gone"] else None
        seen["others"] = pump.ask(do="stats")["dropped"]
        figure(f"{proxy.name}, {proxy.how}: " + ", ".join(f"{what}: {told(seen)}" for what, told in ROWS.items()))
        return seen


def echoes(proxy):
    """The p99 of echoes without and with a reload each second, in microseconds."""

    def turn(number):
        proxy.deny([] if number % 2 else [STRANGER])
        proxy.reload()

    pump = proxy.clients("paced")
    need(pump.ask(do="open", count=size.TUNNELS)["open"] == size.TUNNELS, "every tunnel opens")
    p99 = size.windows(pump, turn, lambda reloads: proxy.holds(time.monotonic(), STRANGER, 403 if reloads % 2 else 101))
    pump.ask(do="close")
    pump.end()
    proxy.deny([])
    proxy.reload()
    proxy.holds(time.monotonic(), STRANGER, 101)
    return p99


def existing(seen):
    if not seen["gone"]:
        return "never"
    return f"{seen['last']:.1f} s, {'all' if seen['gone'] == GUESTS else seen['gone']}, with {' and '.join(seen['closes'])}"


def milliseconds(*seconds):
    return ", ".join(f"{one * 1e3:.0f}" for one in seconds) + " ms"


ROWS = {
    "tunnels dropped that are not denied, new ones failed": lambda seen: f"{seen['dropped'] + seen['others']}, {seen['failed']}",
    "a new deny holds for who comes: median, most": lambda seen: milliseconds(seen["median"], seen["most"]),
    "… for who is there": existing,
    "processes before and after": lambda seen: "{}, {}".format(*seen["processes"]),
    "memory before and after": lambda seen: "{:.0f}, {:.0f} MB".format(*(bytes / 1e6 for bytes in seen["memory"])),
    "p99 of echoes without reloads, and with": lambda seen: "{:.1f}, {:.1f} ms".format(*(each / 1e3 for each in seen["p99"])),
}


def demand(seen, promised):
    """The assertions about Sidegate."""
    median, most = promised
    need((seen["dropped"], seen["failed"], seen["others"]) == (0, 0, 0), f"nobody notices who is not denied: {seen}")
    need(seen["processes"] == (1, 1), f"one process: {seen}")
    need(seen["memory"][1] - seen["memory"][0] <= storm.GROWTH, f"memory stays: {seen}")
    need(seen["closes"] == {"1008 network": GUESTS}, f"all who are denied are told why: {seen}")
    need(seen["last"] <= SPREAD + GRACE, f"within the spread and the grace: {seen}")
    need(seen["median"] <= SLACK * median and seen["most"] <= SLACK * most, f"a new deny holds soon: {seen}")
    without, loaded = seen["p99"]
    need(loaded <= SLACK * size.BOUND * without, f"echoes do not wait for a reload: {seen}")


def table(runs):
    """The runs as Markdown, one below the other, as `docs/operations.md` has them."""
    kinds = list(runs[0])
    versions = [re.search(r"\d+\.\d+\.\d+", run(kind.program, kind.version))[0] for kind in kinds]
    heads = [f"{kind.name} {version}, {kind.how}" for kind, version in zip(kinds, versions)]
    rows = [["", *heads], ["---"] * (1 + len(kinds))]
    for number, seen in enumerate(runs):
        word = f" ({number + 1})" if len(runs) > 1 else ""
        rows += [[what + word, *(told(seen[kind]) for kind in kinds)] for what, told in ROWS.items()]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def main():
    writes, runs = "SIDEGATE_WRITE_DOCS" in os.environ, []
    for _ in range(2 if writes else 1):
        seen = {kind: compare(kind) for kind in (Nginx, HAProxy, Envoy, Ours, Asked)}
        for kind in (Ours, Asked):
            demand(seen[kind], kind.promised)
        runs.append(seen)
    made = table(runs)
    note(f"as a table:\n{made}")
    if writes:
        before, rest = DOCUMENT.read_text().split("<!-- measured reloads -->\n")
        _, after = rest.split("<!-- end -->", 1)
        DOCUMENT.write_text(f"{before}<!-- measured reloads -->\n{made}<!-- end -->{after}")


if __name__ == "__main__":
    sys.exit(main())
