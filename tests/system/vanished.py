"""Peers that vanish: no FIN arrives, and every packet to and from them is dropped.

Clients and a backend run in a network namespace at the other end of a veth pair, where nftables drops everything once all
connections are open. Within three minutes both sides of each must be closed, in the clear and over TLS: a stream of events, silent
or with events under way, whose client vanishes; one whose backend does; a long poll without `response`; a tunnel with
`ping = "off"`. A client that keeps its window closed is alive: it is kept until `write_stall` is over.

It takes minutes, so it runs by name only: `tests/system/run --only vanished`. As root.
"""

import base64
import contextlib
import hashlib
import os
import socket
import ssl
import subprocess
import sys
import threading
import time

from harness import Authority, Place, Sidegate, await_that, figure, free_port, need, note, run

SPACE = f"vanished-{os.getpid()}"
HERE, THERE = "10.213.77.1", "10.213.77.2"
MOST = 180  # seconds until nothing of a peer that vanished is left
BORNE = 150  # seconds that a closed window is borne: more than the kernel's 120, less than `write_stall`
EVENT = b"data: 1\n\n"
CASES = ("silent", "events", "poll", "tunnel")
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
UPGRADE = (
    "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)


# --- what runs in processes of its own, here and in the namespace -----------------------------------------------------


def client(host, port, speaks, path):
    """Asks for `path`, reads for as long as there is something, and says when that began and ended."""
    plain = socket.socket()
    if "closed" in path:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    plain.connect((host, int(port)))
    wire = plain
    if speaks == "tls":
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        wire = context.wrap_socket(plain, server_hostname="localhost")
    fields = UPGRADE if "tunnel" in path else "Connection: close\r\n"
    wire.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n".encode())
    if "poll" not in path:
        wire.recv(1024)
    print("began", flush=True)
    if "closed" in path:
        time.sleep(3600)
    with contextlib.suppress(OSError):
        while wire.recv(65536):
            pass
    print("ended", flush=True)
    time.sleep(3600)


def server(host, port):
    """Answers by the path: a stream that is silent, has an event a second or floods, a tunnel, or nothing. Says who left."""
    listener = socket.create_server((host, int(port)), backlog=64)
    print("listening", flush=True)
    while True:
        threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()


def serve(wire):
    head = b""
    while b"\r\n\r\n" not in head:
        head += wire.recv(65536)
    path = head.split()[1].decode()
    with contextlib.suppress(OSError):
        if "tunnel" in path:
            key = next(line.split()[1] for line in head.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key:"))
            accept = base64.b64encode(hashlib.sha1(key + GUID).digest()).decode()
            answer = f"101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
            wire.sendall(f"HTTP/1.1 {answer}".encode())
        elif "poll" not in path:
            wire.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n" + EVENT)
        print("asked", path, flush=True)
        if "events" in path:
            threading.Thread(target=events, args=(wire,), daemon=True).start()
        while "closed" in path:
            wire.sendall(EVENT * 1000)
        while wire.recv(65536):
            pass
    print("left", path, flush=True)


def events(wire):
    with contextlib.suppress(OSError):
        while True:
            wire.sendall(EVENT)
            time.sleep(1)


# --- the suite --------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def namespace():
    """A namespace at the other end of a veth pair."""
    near, far = f"vn{os.getpid()}", f"vf{os.getpid()}"
    try:
        run("ip", "netns", "add", SPACE)
        run("ip", "link", "add", near, "type", "veth", "peer", "name", far, "netns", SPACE)
        run("ip", "address", "add", f"{HERE}/24", "dev", near)
        run("ip", "link", "set", near, "up")
        run("ip", "-n", SPACE, "address", "add", f"{THERE}/24", "dev", far)
        run("ip", "-n", SPACE, "link", "set", far, "up")
        yield
    finally:
        subprocess.run(["ip", "netns", "del", SPACE], capture_output=True)
        subprocess.run(["ip", "link", "del", near], capture_output=True)


def vanish():
    """From now on nothing comes to the namespace, and nothing leaves it: no FIN, no reset, no ICMP."""
    chains = (f"chain {hook} {{ type filter hook {hook} priority -300; policy drop; }}\n" for hook in ("prerouting", "output"))
    run("ip", "netns", "exec", SPACE, "nft", f"table inet vanished {{\n{''.join(chains)}}}\n")


class Peer:
    """A client or a server of this file in a process of its own."""

    def __init__(self, place, name, *words, there=False):
        around = ["ip", "netns", "exec", SPACE] if there else []
        self.process = place.start(name, *around, sys.executable, "-u", __file__, *words)

    def said(self, line):
        return line in self.process.out.read_text().splitlines()


class Suite:
    def __init__(self, place):
        self.place, self.peers = place, {}
        backends = {"here": ("127.0.0.1", free_port()), "there": (THERE, free_port())}
        self.servers = {name: Peer(place, f"server-{name}", "server", *at, there=name == "there") for name, at in backends.items()}
        self.sidegate = Sidegate(place).certificate(Authority(place).issue("served"))
        self.sidegate.policy(text='[client]\nallow = ["any"]\n[limits]\nping = "off"\n')
        self.ports = {"clear": free_port(), "tls": free_port()}
        listeners = (
            f'[[listener]]\nname = "veth-{speaks}"\nlisten = "{HERE}:{port}"\ntls = {str(speaks == "tls").lower()}'
            for speaks, port in self.ports.items()
        )
        self.sidegate.settings = "\n".join(listeners)
        for name, (host, port) in {**backends, "closed": backends["here"]}.items():
            self.sidegate.route(name, f"/{name}/", f"http://{host}:{port}", http="forward")

    def start(self):
        # What a route sets for itself, which the harness can't write; only one bears a closed window for long.
        stalls = '[timeouts]\nresponse = "off"\n'
        self.sidegate.settings = stalls + self.sidegate.settings
        closed = 'name = "closed"\n'
        toml = self.sidegate.toml().replace(closed, f'{closed}timeouts = {{ write_stall = "10m" }}\n')
        self.sidegate.toml = lambda: toml
        for server in self.servers.values():
            await_that("a backend listens", lambda server=server: server.said("listening"))
        self.sidegate.run()
        own = {"clear": self.sidegate.plain_port, "tls": self.sidegate.tls_port}
        for speaks in ("clear", "tls"):
            for case in CASES:
                self.client(f"/here/{case}-{speaks}", HERE, self.ports[speaks], speaks, there=True)
                self.client(f"/there/{case}-{speaks}", "127.0.0.1", own[speaks], speaks)
            self.client(f"/closed/{speaks}", "127.0.0.1", own[speaks], speaks)
        for path, peer in self.peers.items():
            await_that(f"{path} has begun", lambda peer=peer, path=path: peer.said("began") and self.asked(path))

    def client(self, path, host, port, speaks, there=False):
        name = path.strip("/").replace("/", "-")
        self.peers[path] = Peer(self.place, name, "client", host, port, speaks, path, there=there)

    def asked(self, path):
        return self.servers["there" if path.startswith("/there/") else "here"].said(f"asked {path}")

    def is_over(self, path):
        """Whether the side that is still there has been told."""
        return self.peers[path].said("ended") if path.startswith("/there/") else self.servers["here"].said(f"left {path}")

    def watched(self):
        """How many of the connections over the veth the kernel probes or sends something again, as `ss -o` shows it."""
        shown = run("ss", "-Htno", "state", "established", "src", HERE)
        return sum("timer:(" in line for line in shown.splitlines())

    def open(self):
        return (self.sidegate.metric("exchanges_open") or 0, self.sidegate.metric("tunnels_open") or 0)


def main():
    with Place() as place, namespace():
        suite = Suite(place)
        suite.start()
        began = time.monotonic()
        vanished = [path for path in suite.peers if not path.startswith("/closed/")]
        need(suite.watched() >= len(vanished), f"the kernel watches {suite.watched()} of {len(vanished)} connections")
        vanish()
        took, waiting = {}, set(vanished)
        while waiting:
            for path in [path for path in waiting if suite.is_over(path)]:
                waiting.discard(path)
                took[path] = time.monotonic() - began
                note(f"{took[path]:5.1f} s {path}")
            need(time.monotonic() - began < MOST, f"after {MOST} s still open: {', '.join(sorted(waiting))}")
            time.sleep(0.2)
        await_that("only closed windows are left", lambda: suite.open() == (2, 0))
        time.sleep(max(0, began + BORNE - time.monotonic()))
        need(suite.open() == (2, 0), f"a closed window is borne for {BORNE} s: {suite.open()}")
        need(not any(suite.is_over(path) for path in suite.peers if path.startswith("/closed/")), "and its backend is kept")
        figure(f"{len(took)} connections to peers that vanished: over after {min(took.values()):.0f} to {max(took.values()):.0f} s")


if __name__ == "__main__":
    role, words = (sys.argv[1], sys.argv[2:]) if len(sys.argv) > 1 else ("suite", [])
    {"client": client, "server": server, "suite": main}[role](*words)
