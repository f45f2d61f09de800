"""How refusals reach their clients, browsers among them; and the ports that clients use behind a mapping."""

import http.client
import http.server
import json
import queue
import shutil
import socket
import ssl
import threading
import time
import urllib.request

from harness import Authority, Sidegate, await_that, echo_backend, figure, free_port, listening, need

CLOSED = '[client]\nallow = ["192.0.2.0/24"]\n'
LIMITED = '[client]\nallow = ["any"]\n[limits]\nconnections = { total = 1 }\n'
HANDSHAKE = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"

PAGE = """<!doctype html><meta charset="utf-8"><title>refusals</title><script>
const open = (url, protocols) => new Promise((done) => {
  const seen = { url, opened: false, messages: 0 };
  const socket = new WebSocket(url, protocols);
  socket.onopen = () => { seen.opened = true; seen.protocol = socket.protocol; socket.send("hello"); };
  socket.onmessage = () => { seen.messages += 1; };
  socket.onclose = ({ code, reason, wasClean }) => done({ ...seen, code, reason, wasClean });
});
(async () => {
  const seen = [];
  for (const url of URLS) {
    seen.push(await open(url, []), await open(url, ["v2.ticks", "v1.ticks"]));
  }
  await fetch("/seen", { method: "POST", body: JSON.stringify(seen) });
})();
</script>"""


class Page:
    """A server whose page opens WebSockets at `urls`, and tells what its events were."""

    def __init__(self, urls):
        self.seen = seen = queue.Queue()
        body = PAGE.replace("URLS", json.dumps(urls)).encode()

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200)
                self.send_header("Content-Type", "text/html")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_POST(self):
                seen.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_):
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.url = f"http://localhost:{server.server_port}/"


def refusing(place):
    """Sidegate whose routes refuse in each form; one tunnel is open under the policy of `/full/`."""
    backend = echo_backend(place)
    sidegate = Sidegate(place).certificate(Authority(place).issue("localhost"))
    sidegate.policy("shut", CLOSED).policy("limited", LIMITED).policy()
    url = f"http://127.0.0.1:{backend}"
    for form in ("answer", "close", "drop"):
        sidegate.route(form, f"/{form}/", url, "shut", refuse=form, http="forward")
    sidegate.route("full", "/full/", url, "limited", refuse="close")
    return sidegate.run()


def browsers(place):
    """The browsers that are there, each with the command that shows it a page."""
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
    found = {"chromium": ["chromium", *flags, "--ignore-certificate-errors", f"--user-data-dir={place.dir}/chromium"]}
    for name in ("firefox-esr", "firefox"):
        if shutil.which(name) and "firefox" not in found:
            folder = place.dir / "firefox"
            folder.mkdir()
            found["firefox"] = [name, "--headless", "--no-remote", "--profile", folder]
    return found


def handshake(sidegate, path, source="127.0.0.1"):
    """A connection in the clear, from the address `source`, that has sent an attempt."""
    wire = socket.create_connection(("127.0.0.1", sidegate.plain_port), 10, source_address=(source, 0))
    wire.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{HANDSHAKE}\r\n".encode())
    return wire


def test_browsers_see_the_code_and_the_reason(place):
    sidegate = refusing(place)
    held = handshake(sidegate, "/full/a")
    need(held.recv(64).startswith(b"HTTP/1.1 101"), "the only place under `limited` is taken")
    for name, command in browsers(place).items():
        schemes = [("ws", sidegate.plain_port)] + [("wss", sidegate.tls_port)] * (name == "chromium")
        paths = ["close", "full", "answer", "drop"]
        page = Page([f"{scheme}://localhost:{port}/{path}/a" for scheme, port in schemes for path in paths])
        browser = place.start(name, *command, page.url)
        try:
            seen = page.seen.get(timeout=90)
        except queue.Empty:
            raise AssertionError(f"{name} tells nothing") from None
        browser.end()
        need(len(seen) == 8 * len(schemes), f"{name} has opened all: {seen}")
        for number, one in enumerate(seen):
            path = one["url"].split("/")[3]
            expected = {"close": (True, 1008, "network"), "full": (True, 1013, "capacity")}.get(path, (False, 1006, ""))
            got = (one["opened"], one["code"], one["reason"])
            need(got == expected, f"{name} sees {one}, not {expected}")
            need(one["wasClean"] == one["opened"] and one["messages"] == 0, f"{name}: a clean close without a message: {one}")
            if one["opened"]:
                protocol = "v2.ticks" if number % 2 else ""
                need(one["protocol"] == protocol, f"{name}: the first subprotocol that is offered: {one}")
        figure(f"{name}: 1008 and 1013 seen")
    held.close()
    await_that("no refused WebSocket is left", lambda: sidegate.metric("connections_discarding") == 0)


def test_python_sees_the_code_and_drops_are_silent(place):
    from websockets.exceptions import ConnectionClosed, InvalidStatus
    from websockets.sync.client import connect

    sidegate = refusing(place)
    trusting = ssl.create_default_context(cafile=place.dir / "ca.pem")
    for url, context in [(f"ws://localhost:{sidegate.plain_port}", None), (f"wss://localhost:{sidegate.tls_port}", trusting)]:
        with connect(f"{url}/close/a", ssl=context, subprotocols=["v2.ticks", "v1"]) as socket_:
            need(socket_.subprotocol == "v2.ticks", "the first subprotocol is chosen")
            began = time.monotonic()
            try:
                socket_.recv(timeout=10)
                raise AssertionError("a message from a refused WebSocket")
            except ConnectionClosed as closed:
                need((closed.rcvd.code, closed.rcvd.reason) == (1008, "network"), f"closed by {closed.rcvd}")
        need(time.monotonic() - began < 3, "the closing handshake waits for nothing")
        try:
            connect(f"{url}/answer/a", ssl=context)
            raise AssertionError("a handshake that is answered with 403 opens nothing")
        except InvalidStatus as refused:
            need(refused.response.status_code == 403, f"{refused}")
    need(sidegate.metric("refusals_total", route="close", reason="network") == 2, "refusals are counted by their reason")
    need(sidegate.metric("refusal_forms_total", route="close", form="close") == 2, "and by their form")
    # Without suppressing, an end without close_notify is an error.
    raw = socket.create_connection(("127.0.0.1", sidegate.tls_port), 10)
    with trusting.wrap_socket(raw, server_hostname="localhost", suppress_ragged_eofs=False) as wire:
        wire.sendall(b"GET /drop/ HTTP/1.1\r\nHost: localhost\r\n\r\n")
        try:
            said = wire.recv(1)
            raise AssertionError(f"a drop says nothing, and no close_notify, but: {said}")
        except (ssl.SSLEOFError, ConnectionResetError):
            pass
    with handshake(sidegate, "/drop/") as wire:
        need(wire.recv(1) == b"", "a dropped attempt ends without a byte")


def test_a_flood_of_refused_clients_holds_nothing(place):
    sidegate = refusing(place)
    before = sidegate.process.pss()
    # Fewer of each address than `pending_per_client`, so that none has to make room.
    wires = [handshake(sidegate, "/close/a", f"127.0.1.{number % 40 + 1}") for number in range(2000)]
    statuses = [wire.recv(16).split()[1] for wire in wires]
    need(set(statuses) == {b"101", b"403"}, f"some are closed, the others answered: {set(statuses)}")
    closed = statuses.count(b"101")
    held = sidegate.metric("connections_discarding")
    need(held <= 1024, f"{held} are closed at a time")
    grown = (sidegate.process.pss() - before) / 2**20
    need(grown < 40, f"{grown:.1f} MiB for 2,000 refused clients")
    with handshake(sidegate, "/full/a") as admitted:
        need(admitted.recv(64).startswith(b"HTTP/1.1 101"), "an admitted client is served meanwhile")
    for wire in wires:
        wire.close()
    await_that("all of them are let go", lambda: sidegate.metric("connections_open") == 0)
    figure(f"2,000 refused at once: {closed} closed, {grown:.1f} MiB")


def mapping(place, name, port):
    """HAProxy that maps a free port to `port` without reading what passes; returns the free port."""
    public = free_port()
    config = place.write(
        f"{name}.cfg",
        "defaults\n mode tcp\n timeout connect 5s\n timeout client 10s\n timeout server 10s\n"
        f"listen map\n bind 127.0.0.1:{public}\n server one 127.0.0.1:{port}\n",
    )
    process = place.start(name, "haproxy", "-db", "-f", config)
    await_that("haproxy listens", lambda: process.alive() and listening(public))
    return public


def test_a_redirect_leads_through_a_port_mapping(place):
    asked = queue.Queue()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.put(self.headers)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    authority = Authority(place)
    sidegate = Sidegate(place).certificate(authority.issue("localhost")).policy()
    sidegate.route("app", "/app/", f"http://127.0.0.1:{server.server_port}", http="forward", strip_prefix=True)
    http_port = free_port()
    sidegate.settings = (
        f'[[listener]]\nname = "http"\nlisten = "127.0.0.1:{http_port}"\ntls = false\nredirect = "https"\n'
    )
    tls_public, http_public = mapping(place, "tls", sidegate.tls_port), mapping(place, "http", http_port)
    sidegate.public = [f"public_port = {tls_public}"]
    sidegate.run()
    trusting = ssl.create_default_context(cafile=authority.ca)
    with urllib.request.urlopen(f"http://localhost:{http_public}/app/x?y", timeout=10, context=trusting) as answer:
        need(answer.url == f"https://localhost:{tls_public}/app/x?y", f"led to {answer.url}")
    head = asked.get(timeout=10)
    got = (head["X-Forwarded-Port"], head["X-Forwarded-Proto"], head["X-Forwarded-Prefix"])
    need(got == (str(tls_public), "https", "/app"), f"the backend is told {got}")
