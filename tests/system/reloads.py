"""The same reloads under load, of nginx, HAProxy and Sidegate in one run: what each costs, and when a new deny holds.

A thousand tunnels pump and new clients come, while a deny is turned on and off twenty times, of somebody who has no
tunnel; then those are denied who have some. It runs by name only: `tests/system/run --only reloads`. Of the others nothing
is demanded: what they do is the result.
"""

import contextlib
import json
import signal
import statistics
import sys
import time

import storm
from harness import HERE, Authority, Place, Sidegate, await_that, echo_backend, figure, free_port, listening, need, run
from mirror import CLOSE, Ended, closing, connect, masked

TUNNELS, GUESTS = 900, 100
RELOADS = 20
COMING = 100  # clients a second
GROUND = [f"127.0.0.{last}" for last in range(20, 36)]
STRANGER, GUEST = "127.0.0.7", "127.0.0.9"
IN_A_ROW = 10  # attempts with the new answer: only then it holds, whoever of several processes takes them
SPREAD, GRACE = 2, 5  # seconds: [reload] revoke_spread and [timeouts] grace, as they are without being set
PROMISED = {"asked": (0.010, 0.050), "saved": (0.150, 0.300)}  # median and most on a quiet machine; three times as much is let pass


class Proxy:
    """One of them, in front of a backend of its own; how it is told whom to deny."""

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
    name = "nginx -s reload"

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
        self.argv = ("nginx", "-p", folder, "-c", folder / "nginx.conf", "-e", "stderr")
        return self.place.start("nginx", *self.argv)

    def reload(self):
        run(*self.argv, "-s", "reload")


class HAProxy(Proxy):
    name = "HAProxy, SIGUSR2"

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
        return self.place.start("haproxy", "haproxy", "-W", "-f", config)

    def reload(self):
        self.process.popen.send_signal(signal.SIGUSR2)


class Ours(Proxy):
    name = "Sidegate, saved file"

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
    name = "Sidegate, asked"

    def reload(self):
        began = time.monotonic()
        storm.reload(self.sidegate)
        self.took = time.monotonic() - began

    def holds(self, since, source, status):
        """It answers when the new rule holds: not one attempt after that is decided in the old way."""
        need(self.status(source) == status, f"the first attempt after the answer gets {status}")
        return self.took


def compare(kind):
    """One of them through all reloads; a row of the table, and the facts."""
    with Place() as place:
        proxy = kind(place)
        pump, guests, coming = proxy.clients("pump"), proxy.clients("guests", **{"from": GUEST}), proxy.clients("coming")
        for one, count in ((pump, TUNNELS), (guests, GUESTS)):
            need(one.ask(do="open", count=count)["open"] == count, "every tunnel opens")
            one.ask(do="pump", size=256, pause=500)
        coming.ask(do="come", rate=COMING, **{"from": GROUND})
        time.sleep(1)  # the load is part of what is measured before, too
        before, processes = proxy.process.pss(), len(proxy.process.tree())
        took = []
        for turn in range(RELOADS):
            denied = turn % 2 == 0
            proxy.deny([STRANGER] if denied else [])
            began = time.monotonic()
            proxy.reload()
            took.append(proxy.holds(began, STRANGER, 403 if denied else 101))
        after, left = proxy.process.pss(), len(proxy.process.tree())
        dropped = sum(one.ask(do="stats")["dropped"] for one in (pump, guests))
        came = coming.ask(do="came")
        proxy.deny([GUEST])
        began, at = time.monotonic(), time.time()
        proxy.reload()
        new = proxy.holds(began, GUEST, 403)
        while guests.ask(do="stats")["open"] and time.monotonic() < began + SPREAD + GRACE:
            time.sleep(0.1)
        stats = guests.ask(do="stats")
        others = pump.ask(do="stats")["dropped"]
        gone = GUESTS - stats["open"]
        facts = {
            "dropped": dropped, "failed": came["begun"] - came["became"].get("served", 0), "processes": (processes, left),
            "memory": (before, after), "median": statistics.median(took), "most": max(took), "denied": new, "gone": gone,
            "last": stats["ended"]["last"] / 1e3 - at if gone else None, "others": others, "closes": stats["closes"],
        }  # fmt: skip
        existing = f"{gone} of {GUESTS} within {facts['last']:.1f} s" if gone else f"none in {SPREAD + GRACE} s"
        figure(
            f"{proxy.name}: dropped {dropped}, new ones failed {facts['failed']} of {came['begun']}, processes {processes} → {left}, "
            f"memory {before / 1e6:.0f} → {after / 1e6:.0f} MB, deny holds for new {facts['median'] * 1e3:.0f} ms "
            f"(at most {facts['most'] * 1e3:.0f}), for existing {existing}"
        )
        return facts


def main():
    for kind in (Nginx, HAProxy):
        compare(kind)
    for kind, word in ((Ours, "saved"), (Asked, "asked")):
        facts, (median, most) = compare(kind), PROMISED[word]
        need((facts["dropped"], facts["failed"], facts["others"]) == (0, 0, 0), f"nobody notices who is not denied: {facts}")
        need(facts["processes"] == (1, 1), f"one process: {facts}")
        need(facts["memory"][1] - facts["memory"][0] <= storm.GROWTH, f"memory stays: {facts}")
        need(facts["closes"] == {"1008 network": GUESTS}, f"all who are denied are told why: {facts}")
        need(facts["last"] <= SPREAD + GRACE, f"within the spread and the grace: {facts}")
        need(facts["median"] <= 3 * median and facts["most"] <= 3 * most, f"a new deny holds soon: {facts}")


if __name__ == "__main__":
    sys.exit(main())
