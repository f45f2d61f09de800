"""The applications of docs/apps.md behind Sidegate, as that page configures them, over TLS and with their own clients.

Each client holds a conversation in its own protocol, and gets a refusal with its reason. When a changed policy no longer
admits it, its open connections are closed with 1008, or cut, and counted; once the policy is restored, it reconnects. At
the end Sidegate is restarted, and then the backends: clients with automatic reconnects return.

All of them share one Sidegate and run at the same time: none may be affected by the others' reloads. The suite has its
own network and mount namespaces, where the page's hosts resolve to this one and its ports are free.
"""

import json
import os
import re
import shutil
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from debian import alone
from harness import HERE, Authority, Place, Sidegate, await_that, environment, figure, listening, need, note, replace, run

TOP = HERE.parent.parent
PAGE = TOP / "docs/apps.md"
ADDRESS = "192.0.2.10"  # of this host, and so of its clients: one of the network that the page's policies admit
ADMITTED, ELSEWHERE = "192.0.2.0/24", "198.51.100.0/24"
SERVERS, CLIENTS = HERE / "apps/servers", HERE / "apps/clients"
MODULES = Path(os.environ.get("NODE_PATH", TOP / "target/system/node_modules"))
TOKEN = "a-token-of-the-suite"
MEMORY = 96 << 20  # bytes that Sidegate may have taken at most; the largest body is 200 MiB
PYTHON, NODE = [sys.executable], ["node"]
BOTH = ("sidegate", "backend")


@dataclass
class App:
    """An application of the page: its backend and its client, each with its arguments, and what is expected of them."""

    name: str  # of its route and its policy
    port: int  # of its route's backend
    backend: list
    client: list
    refusal: tuple  # status and reason of what the client's step `refused` is told
    given: dict = field(default_factory=dict)  # to that step
    open: tuple = ("tunnel",)  # what the client has open when it is revoked
    opens: str = ""  # the step that opens it, where `round` leaves nothing open
    told: bool = True  # the client tells the code with which its tunnel was closed
    returns: tuple = ()  # the client connects again by itself when these are restarted
    beside: tuple = ()  # another program that the backend needs


class Page(Sidegate):
    """Sidegate with the files of docs/apps.md, as they are there."""

    def __init__(self, place):
        super().__init__(place)
        self.files = blocks(PAGE.read_text())
        self.metrics_port = 10464

    def hosts(self):
        return re.findall(r'^host\s*= "(.+)"', self.files["sidegate.toml"], re.M)

    def toml(self):
        return self.files["sidegate.toml"] + f'[admin]\nsocket = "{self.place.dir}/admin.sock"\n'

    def run(self):
        for path, text in self.files.items():
            self.place.write(f"etc/{path}", text)
        return super().run()

    def admit(self, policy, network):
        """The policy of the page, for the clients of this network."""
        text = self.files[f"policies/{policy}.toml"]
        need(ADMITTED in text, f"the policy {policy} admits {ADMITTED}")
        replace(self.dir / f"policies/{policy}.toml", text.replace(ADMITTED, network))
        self.reload()

    def open_on(self, app):
        """How many tunnels and exchanges are open."""
        return sum(self.metric(f"{kind}_open", route=app.name) or 0 for kind in ("tunnels", "exchanges"))

    def permitted(self, app):
        """How many requests were permitted so far."""
        return self.metric("requests_total", route=app.name, result="permitted") or 0

    def revoked(self, app):
        """How many tunnels and streams a policy ended."""
        kinds = {"tunnel": "tunnels", "stream": "exchanges"}
        series = {kind: f"{kinds[kind]}_closed_total" for kind in app.open}
        return {kind: self.metric(name, route=app.name, reason="revoked") or 0 for kind, name in series.items()}

    def peak(self):
        """The most memory that it has held, in bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"^VmHWM:\s+(\d+) kB", status, re.M)[1]) << 10


def blocks(text):
    """The page's files by their paths; blocks of one file belong together."""
    files = {}
    for path, block in re.findall(r"^```toml\n# (\S+)\n(.*?)^```$", text, re.M | re.S):
        files[path] = files.get(path, "") + block + "\n"
    return files


# --- the applications -------------------------------------------------------------------------------------------------


def applications(place, browser):
    """Those of the page, in its order."""
    ca = place.dir / "ca.pem"

    def web(port):
        return [*PYTHON, SERVERS / "web.py", port]

    def page(kind, host, *more):
        return [*NODE, CLIENTS / "pages.js", kind, f"https://{host}.example.com", browser, *more]

    return [
        App(
            "socketio", 3000, [*NODE, SERVERS / "socketio.js", 3000],
            [*NODE, CLIENTS / "socketio.js", "https://chat.example.com", ADDRESS], (413, "body"), returns=BOTH,
        ),
        App(
            "graphql", 4000, [*NODE, SERVERS / "graphql.js", 4000],
            [*NODE, CLIENTS / "graphql.js", "wss://api.example.com/graphql", "https://app.example.com"], (403, "origin"), returns=BOTH,
        ),
        App(
            "jupyter", 8888, jupyter(place), [*NODE, CLIENTS / "jupyter.js", "https://jupyter.example.com/", TOKEN],
            (413, "body"), given={"bytes": 17 << 20}, told=False,
        ),
        App("bokeh", 5006, bokeh(), page("bokeh", "plots"), (403, "origin"), returns=BOTH),
        App(
            "mqtt", 9001, ["mosquitto", "-c", mosquitto(place)],
            [*PYTHON, CLIENTS / "mqtt.py", "mqtt.example.com", 443, "/mqtt", ca], (403, "subprotocol"), told=False, returns=BOTH,
        ),
        App(
            "novnc", 6080, [*PYTHON, "-m", "websockify", "--web", novnc(place), "127.0.0.1:6080", "127.0.0.1:5900"],
            page("novnc", "vnc"), (403, "origin"), beside=(*PYTHON, SERVERS / "rfb.py", 5900),
        ),
        App("vite", 5173, vite(place), page("vite", "dev", place.dir / "vite"), (403, "origin"), returns=("sidegate",)),
        App(
            "fastapi", 8000, web(8000), [*PYTHON, CLIENTS / "web.py", "https://app.example.com", ca, ADDRESS],
            (413, "body"), open=("tunnel", "stream"),
        ),
        App("events", 8001, web(8001), page("events", "events"), (413, "body"), open=("stream",), returns=("sidegate",)),
        App(
            "files", 8002, web(8002), [*PYTHON, CLIENTS / "bulk.py", "files.example.com", 443, ca],
            (413, "body"), open=("stream",), opens="begin",
        ),
    ]  # fmt: skip


def jupyter(place):
    (place.dir / "notebooks").mkdir()
    return [
        *PYTHON, "-m", "jupyter_server", "--ServerApp.ip=127.0.0.1", "--ServerApp.port=8888",
        "--ServerApp.allow_remote_access=True", f"--IdentityProvider.token={TOKEN}", "--ServerApp.open_browser=False",
        "--ServerApp.allow_root=True", f"--ServerApp.root_dir={place.dir}/notebooks",
    ]  # fmt: skip


def bokeh():
    return [
        *PYTHON, "-m", "bokeh", "serve", SERVERS / "plots.py", "--address", "127.0.0.1", "--port", 5006,
        "--use-xheaders", "--allow-websocket-origin", "plots.example.com",
    ]  # fmt: skip


def mosquitto(place):
    """Its 2.0 serves WebSockets only beside a listener for TCP."""
    listeners = "listener 1883 127.0.0.1\nlistener 9001 lo\nprotocol websockets\n"
    return place.write("mosquitto.conf", f"allow_anonymous true\nlog_dest stderr\nuser root\n{listeners}")


def novnc(place):
    folder = shutil.copytree(SERVERS / "novnc", place.dir / "novnc")
    (folder / "novnc").symlink_to(MODULES / "@novnc/novnc")
    return folder


def vite(place):
    """In a copy of its project, which the client changes."""
    return [*NODE, MODULES / "vite/bin/vite.js", shutil.copytree(SERVERS / "vite", place.dir / "vite")]


def chromium(place):
    """The browser of all pages; returns where it is driven."""
    folder = place.dir / "chromium"
    process = place.start(
        "chromium", "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync", "--log-level=3",
        "--ignore-certificate-errors", f"--user-data-dir={folder}", "--remote-debugging-port=0", "about:blank",
    )  # fmt: skip
    active = folder / "DevToolsActivePort"

    def driven():
        return process.alive() and active.exists() and len(words := active.read_text().split()) == 2 and words

    port, path = await_that("Chromium is ready", driven, seconds=60)
    return f"ws://127.0.0.1:{port}{path}"


# --- the claims -------------------------------------------------------------------------------------------------------


def verify(place, sidegate, app):
    """A conversation, a refusal, a revocation and a return."""
    began = time.monotonic()
    client = place.start(f"client-{app.name}", *app.client, talks=True)
    backend = place.backends[app.name]
    await_that(f"{app.name} listens", lambda: backend.alive() and listening(app.port), seconds=90, every=0.05)
    started = time.monotonic()

    def step(name, **given):
        answer = client.ask(step=name, **given)
        need("fault" not in answer, f"step {name}: {answer.get('fault')}")
        return answer

    step("round")
    check_refusal(sidegate, app, step("refused", **app.given))
    if app.opens:
        step(app.opens)
    sidegate.admit(app.name, ELSEWHERE)
    check_end(sidegate, app, step("ended")["ended"])
    sidegate.admit(app.name, ADMITTED)
    step("back")
    figure(f"{app.name} {time.monotonic() - started:.1f} s")
    note(f"{app.name} has started within {started - began:.1f} s")


def check_refusal(sidegate, app, answer):
    """The client has read the refusal's body, and the refusal is counted."""
    status, reason = app.refusal
    need(answer["status"] == status, f"{status} expected, not {answer}")
    need(answer["type"] == "application/problem+json", f"a problem document expected, not {answer}")
    need(json.loads(answer["body"])["reason"] == reason, f"reason {reason} expected, not {answer}")
    need(sidegate.metric("refusals_total", route=app.name, reason=reason) >= 1, f"refusal {reason} is counted")


def check_end(sidegate, app, ended):
    """All that was open has ended and is counted; tunnels with 1008 and the reason."""
    note(f"{app.name}: {ended}")
    wanted = {kind: app.open.count(kind) for kind in app.open}
    await_that(f"{wanted} are counted as revoked", lambda: all(sidegate.revoked(app)[kind] >= wanted[kind] for kind in wanted))
    if "tunnel" in app.open and app.told:
        codes = [(one.get("code"), one.get("reason")) for one in ended]
        need((1008, "network") in codes, f"1008 network expected, not {ended}")


def restart(sidegate, apps):
    """Sidegate drains and is started again: the clients come back."""
    need(sidegate.process.end(40) == 0, "SIGTERM drains, and the exit code is 0")
    sidegate.name = "sidegate-again"
    sidegate.run()
    began = time.monotonic()
    for app in apps:
        await_that(f"{app.name} is back after a restart of Sidegate", lambda app=app: sidegate.open_on(app), seconds=60)
    figure(f"{len(apps)} clients back {time.monotonic() - began:.1f} s after a restart of Sidegate")


def restart_backends(place, sidegate, apps):
    """The backends are killed and started again: the clients come back."""
    before = {app.name: sidegate.permitted(app) for app in apps}
    for app in apps:
        place.backends[app.name].popen.kill()
        place.backends[app.name].end()
    for app in apps:
        await_that(f"{app.name} has ended with its backend", lambda app=app: not sidegate.open_on(app))
        place.backends[app.name] = place.start(f"{app.name}-again", *app.backend)
    began = time.monotonic()
    for app in apps:
        await_that(
            f"{app.name} is back after a restart of its backend",
            lambda app=app: sidegate.permitted(app) > before[app.name] and sidegate.open_on(app),
            seconds=60,
        )
    figure(f"{len(apps)} clients back {time.monotonic() - began:.1f} s after a restart of their backends")


def play(place, sidegate, names):
    """Starts all backends at once, then verifies all applications at once."""
    apps = [app for app in applications(place, chromium(place)) if not names or app.name in names]
    place.backends = {}
    for app in apps:
        if app.beside:
            place.start(f"beside-{app.name}", *app.beside)
        place.backends[app.name] = place.start(app.name, *app.backend)
    sidegate.run()
    faults = []

    def one(app):
        try:
            verify(place, sidegate, app)
        except Exception as fault:
            faults.append(f"{app.name}: {fault}")

    threads = [threading.Thread(target=one, args=(app,)) for app in apps]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    need(not faults, "\n".join(faults))
    peak = sidegate.peak()
    need(peak <= MEMORY, f"Sidegate took {peak >> 20} MiB at most, not more than {MEMORY >> 20}")
    figure(f"Sidegate took {peak >> 20} MiB at most")
    restart(sidegate, [app for app in apps if "sidegate" in app.returns])
    restart_backends(place, sidegate, [app for app in apps if "backend" in app.returns])


def main():
    alone(ADDRESS)
    with Place() as place:
        authority, sidegate = Authority(place), Page(place)
        hosts = "".join(f"{ADDRESS} {host}\n" for host in sidegate.hosts())
        run("mount", "--bind", place.write("hosts", f"127.0.0.1 localhost\n{hosts}"), "/etc/hosts")
        pair = authority.issue("example.com", "DNS:*.example.com").read_text()
        for kind in ("pem", "key"):
            place.write(f"etc/certs/example.com.{kind}", pair).chmod(0o600)
        jupyters = {f"JUPYTER_{kind}_DIR": f"{place.dir}/jupyter" for kind in ("CONFIG", "DATA", "RUNTIME")}
        with environment(HOME=str(place.dir), NODE_EXTRA_CA_CERTS=str(authority.ca), **jupyters):
            play(place, sidegate, sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
