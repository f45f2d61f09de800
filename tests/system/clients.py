"""Real clients through Sidegate to real servers: every message is echoed unchanged, with and without permessage-deflate.

Python's `websockets` connects to a backend on npm's `ws`, and `ws` to a backend on `websockets`, each over TLS.
Clients with automatic reconnects, graphql-ws and Socket.IO, return after their backend was killed.
"""

import asyncio
import json
import math
import random
import signal
import ssl
import sys
import time
from collections import deque

from websockets.asyncio.client import connect

from harness import (
    HERE,
    Authority,
    Place,
    Sidegate,
    await_that,
    echo_backend,
    environment,
    figure,
    free_port,
    listening,
    need,
    run,
)

CONNECTIONS = 4
MESSAGES = 10_000
LARGE = 50  # of them above 64 KiB
TEXT = ("Sidegate carries frames, not messages: ☕ naïve 東京 🚪 " * 32_000).encode()
NOISE = random.Random(1).randbytes(2 << 20)


def sizes(rng, count, large):
    """Log-uniform from 0 B to 64 KiB, `large` of them to 1 MiB."""
    small = [int(math.exp(rng.uniform(0, math.log(64 * 1024 + 1)))) - 1 for _ in range(count - large - 1)]
    big = [int(math.exp(rng.uniform(math.log(64 * 1024 + 1), math.log(1 << 20)))) for _ in range(large - 1)]
    drawn = [0, 1 << 20, *small, *big]
    rng.shuffle(drawn)
    return drawn


def message(rng, size):
    """Text, or bytes that compress well, or bytes that don't."""
    kind = rng.randrange(4)
    if kind == 2:
        return TEXT[:size]
    if kind == 3:
        start = rng.randrange(1 << 20)
        return NOISE[start : start + size]
    text = TEXT[:size].decode(errors="ignore")
    return text + "x" * (size - len(text.encode()))


async def echo_all(url, trust, deflate, seed):
    """One connection of Python's `websockets`: sends its share, expects it back in order; the bytes sent."""
    rng = random.Random(seed)
    expected, sent = deque(), 0
    share = sizes(rng, MESSAGES // CONNECTIONS, LARGE // CONNECTIONS)
    async with connect(url, ssl=trust, compression="deflate" if deflate else None, max_size=16 << 20) as socket:
        agreed = socket.response.headers.get("Sec-WebSocket-Extensions", "")
        need(("permessage-deflate" in agreed) == deflate, f"extensions agreed on: {agreed!r}, deflate wanted: {deflate}")

        async def send():
            nonlocal sent
            for size in share:
                one = message(rng, size)
                expected.append(one)
                sent += size
                await socket.send(one)

        sending = asyncio.create_task(send())
        for _ in share:
            received = await asyncio.wait_for(socket.recv(), 30)
            wanted = expected.popleft()
            need(type(received) is type(wanted) and received == wanted, f"an echo differs, {len(wanted)} long")
        await sending
        await socket.close(1000)
        need(socket.close_code == 1000, f"closed with {socket.close_code}")
    return sent


def by_websockets(url, ca, deflate):
    """All of it by Python's `websockets`; the bytes carried each way."""
    trust = ssl.create_default_context(cafile=ca)

    async def at_once():
        return await asyncio.gather(*(echo_all(url, trust, deflate, seed) for seed in range(CONNECTIONS)))

    return sum(asyncio.run(at_once()))


def by_ws(url, ca, deflate):
    """All of it by npm's `ws`; the bytes carried each way."""
    answer = run("node", HERE / "clients.js", url, ca, "deflate" if deflate else "plain", MESSAGES, CONNECTIONS, LARGE)
    return json.loads(answer.splitlines()[-1])["bytes"]


def through(sidegate, ca, client, backend, deflate):
    """One client against one backend: its count held against Sidegate's own, the bytes on the wire against the agreement."""
    route = f"to-{backend}"

    def counted(what, direction):
        return sidegate.metric(f"{what}_total", route=route, direction=direction) or 0

    directions = ("from_client", "from_backend")
    before = {(what, way): counted(what, way) for what in ("messages", "bytes") for way in directions}
    began = time.monotonic()
    carried = client(f"wss://localhost:{sidegate.tls_port}/{backend}/", ca, deflate)
    took = time.monotonic() - began
    for way in directions:
        await_that(
            f"{MESSAGES} messages {way} are counted on {route}",
            lambda way=way: counted("messages", way) - before["messages", way] == MESSAGES,
            seconds=5,
        )
        wire = counted("bytes", way) - before["bytes", way]
        need((wire < carried * 0.8) == deflate, f"{wire:.0f} bytes {way} on the wire for {carried} in messages")
    await_that("the tunnels are gone", lambda: sidegate.metric("tunnels_open", route=route) == 0, seconds=5)
    figure(f"{route}{' deflate' if deflate else ''}: {MESSAGES} echoed, {carried / 2**20:.0f} MiB in {took:.1f} s")


def start_feed(place, port):
    feed = place.start("feed", "node", HERE / "feed.js", port)
    await_that("the feed listens", lambda: feed.alive() and listening(port))
    return feed


def come_back(place, sidegate, ca, port):
    """graphql-ws and Socket.IO are fed again once their backend, killed without a Close, is back; a backend's 1011 ends graphql-ws."""
    feed = start_feed(place, port)
    with environment(NODE_EXTRA_CA_CERTS=str(ca)):
        clients = place.start("comeback", "node", HERE / "comeback.js", sidegate.tls_port)

    def said(name, count):
        lines = [line.split(" ", 1)[1] for line in clients.out.read_text().splitlines() if line.startswith(f"{name} ")]
        return clients.alive() and len(lines) >= count and lines

    names = ("graphql-ws", "socket.io")
    for name in names:
        await_that(f"{name} is fed", lambda name=name: said(name, 1))
    feed.popen.kill()
    feed.popen.wait()
    for name in names:
        await_that(f"{name} loses its backend", lambda name=name: said(name, 2))
    began = time.monotonic()
    feed = start_feed(place, port)
    wanted = {"graphql-ws": ["fed", "lost 1006", "fed"], "socket.io": ["fed", "lost transport close", "fed"]}
    for name in names:
        lines = await_that(f"{name} is fed again", lambda name=name: said(name, 3))
        need(lines == wanted[name], f"{name} loses a connection and comes back: {lines}")
    took = time.monotonic() - began
    gone = {"by": "backend", "phase": "open", "reason": "backend_gone"}
    need(sidegate.metric("tunnels_closed_total", **gone) == 2, "both tunnels ended with their backend, without a Close")
    feed.popen.send_signal(signal.SIGUSR2)
    lines = await_that("graphql-ws gets 1011", lambda: said("graphql-ws", 5))
    need(lines[3:] == ["lost 1011", "over 1011"], f"1011 is fatal to graphql-ws: {lines}")
    figure(f"graphql-ws and Socket.IO are back {took:.1f} s after their backend")


def main():
    with Place() as place:
        authority = Authority(place)
        sidegate = Sidegate(place).certificate(authority.issue("localhost")).policy()
        for kind in ("ws", "websockets"):
            sidegate.route(f"to-{kind}", f"/{kind}/", f"http://127.0.0.1:{echo_backend(place, kind)}")
        port = free_port()
        for name, path in (("graphql", "/graphql"), ("socketio", "/socket.io/")):
            sidegate.route(name, path, f"http://127.0.0.1:{port}")
        sidegate.run()
        come_back(place, sidegate, authority.ca, port)
        for deflate in (False, True):
            through(sidegate, authority.ca, by_websockets, "ws", deflate)
            through(sidegate, authority.ca, by_ws, "websockets", deflate)
        need(sidegate.process.end(40) == 0, "SIGTERM drains, and the exit code is 0")


if __name__ == "__main__":
    sys.exit(main())
