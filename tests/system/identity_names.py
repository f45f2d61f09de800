"""Backends by name: a private /etc/hosts in which a name appears, changes its address and disappears."""

import contextlib
import socket
import threading

from harness import SIDEGATE, Sidegate, await_that, free_port, need, save
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.sync.server import serve

HOSTS = "127.0.0.1 localhost\n"
NAMED = {"route": "chat"}


def backend(address, port):
    """A WebSocket server that answers each message with its own address."""

    def answer(client):
        for message in client:
            client.send(f"{address} {message}")

    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    server = serve(answer, sock=socket.create_server((address, port), family=family))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


class Private:
    """Sidegate in a mount namespace whose /etc/hosts is a file of the place, and the only source of names."""

    def __init__(self, place, port):
        self.hosts = place.write("hosts", HOSTS)
        sources = place.write("nsswitch.conf", "hosts: files\n")
        self.sidegate = sidegate = Sidegate(place).policy()
        sidegate.route("chat", "/", f"http://app:{port}", resolve="1s")
        sidegate.public.append("tls = false")
        place.write("etc/sidegate.toml", sidegate.toml())
        bind = f"mount --bind {self.hosts} /etc/hosts && mount --bind {sources} /etc/nsswitch.conf"
        sidegate.process = place.start(
            "sidegate", "unshare", "-m", "--propagation", "private", "sh", "-c", f'{bind} && exec "$@"', "sh",
            SIDEGATE, "run", "--config", sidegate.config, "--log", "json",
        )  # fmt: skip
        await_that("sidegate is ready", sidegate.ready)

    def names(self, *addresses):
        """Writes the file in place, as its bind mount needs."""
        save(self.hosts, HOSTS + "".join(f"{address} app\n" for address in addresses))

    def open(self):
        return connect(f"ws://localhost:{self.sidegate.plain_port}/")

    def lines(self, message):
        return self.sidegate.process.err.read_text().count(message)

    def expect(self, family, value):
        await_that(f"{family} is {value}", lambda: self.sidegate.metric(family, **NAMED) == value)


def says(tunnel, address):
    tunnel.send("hello")
    told = tunnel.recv(timeout=5)
    need(told == f"{address} hello", f"{told!r} instead of {address}")


def refused(private):
    with contextlib.suppress(InvalidStatus):
        private.open()
        return False
    return True


def test_name_appears_changes_and_disappears(place):
    port = free_port()
    first, second = backend("127.0.0.1", port), backend("127.0.0.2", port)
    private = Private(place, port)
    need(refused(private), "a tunnel without an address of its backend")
    private.expect("backend_resolved", 0)
    need("does not resolve" in private.sidegate.ask_metrics("readyz")[1], "/readyz does not name it")

    private.names("127.0.0.1")
    private.expect("backend_addresses", 1)
    early = private.open()
    says(early, "127.0.0.1")
    await_that("the backend is up", lambda: private.sidegate.metric("backend_up", **NAMED) == 1)

    private.names("127.0.0.2")
    await_that("a tunnel to the new address", lambda: newest(private) == "127.0.0.2")
    says(early, "127.0.0.1")

    private.names("127.0.0.1", "127.0.0.2")
    private.expect("backend_addresses", 2)
    with private.open() as one, private.open() as other:
        told = sorted(address(tunnel) for tunnel in (one, other))
    need(told == ["127.0.0.1", "127.0.0.2"], f"two tunnels on {told}")

    private.names()
    private.expect("backend_resolved", 0)
    private.expect("backend_addresses", 2)
    need(newest(private) in ("127.0.0.1", "127.0.0.2"), "no tunnel by the last addresses")
    private.sidegate.reload()
    says(early, "127.0.0.1")
    need(private.sidegate.metric("tunnels_closed_total", reason="revoked") in (None, 0), "a tunnel was revoked")
    for message, count in [
        ("the name of a backend does not resolve", 2),
        ("the name of a backend has new addresses", 3),
    ]:
        need(private.lines(message) == count, f"{message}: {private.lines(message)} times, not {count}")
    early.close()
    first.shutdown()
    second.shutdown()


def address(tunnel):
    tunnel.send("where")
    return tunnel.recv(timeout=5).split()[0]


def newest(private):
    with private.open() as tunnel:
        return address(tunnel)


def test_localhost_falls_back_to_ipv6(place):
    port = free_port()
    with socket.socket(socket.AF_INET6) as probe:
        try:
            probe.bind(("::1", port))
        except OSError:
            return  # A machine without IPv6.
    server = backend("::1", port)
    sidegate = Sidegate(place).policy().route("chat", "/", f"http://localhost:{port}")
    sidegate.public.append("tls = false")
    sidegate.run()
    with connect(f"ws://localhost:{sidegate.plain_port}/") as tunnel:
        says(tunnel, "::1")
    need(sidegate.metric("backend_up", route="chat") == 1, "localhost counts as down")
    server.shutdown()
