"""Answers to requests with refused bodies arrive, and clients that send such bodies slowly delay no other.

    linger.py drips PORT COUNT [in-turn]    this number of clients, each with its own address, that send a byte now and then
"""

import collections
import http.client
import socket
import ssl
import statistics
import struct
import sys
import time

import floods
from floods import MASK
from harness import HERE, Authority, Place, Sidegate, await_that, figure, free_port, listening, need, note
from mirror import BINARY, frame

CLIENTS, PLACES = 1000, 300
FEW, MANY = 100, 800
WEIGHT = 11_000  # bytes; three times what it takes
UPLOADS, BODY = 40, 5_000_000
SOON = 0.3  # seconds, for a tunnel to open and to answer; a quiet machine takes a tenth of that
LOOK, LOOKS = 2.0, 4  # seconds, and how often it may be looked at: others may use the machine


def drips(port, count, in_turn):
    """Sends a head and continues with its body, on each of so many connections; an ended connection is replaced.

    `in_turn`: each waits for its answer before the next connects.
    """
    connections = [None] * count
    while True:
        for at, connection in enumerate(connections):
            try:
                if connection is None:
                    connections[at] = dripping(port, f"127.1.{at // 250}.{at % 250 + 1}", in_turn)
                else:
                    connection.send(b"x")
            except BlockingIOError:
                pass
            except OSError:
                if connection:
                    connection.close()
                connections[at] = None
        time.sleep(0.05)


def dripping(port, source, in_turn):
    connection = socket.create_connection(("127.0.0.1", port), 2, (source, 0))
    # Nothing of it stays behind.
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.sendall(b"POST /echo/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000000\r\n\r\n")
    if in_turn:
        connection.recv(1)
    connection.setblocking(False)
    return connection


class Agent(Sidegate):
    """A Sidegate on one thread that admits 127.0.0.1 alone; `places` bounds its plain listener."""

    def __init__(self, place, places):
        super().__init__(place)
        self.authority = Authority(place)
        self.certificate(self.authority.issue("localhost")).policy("open", '[client]\nallow = ["127.0.0.1"]\n')
        # The first line belongs to the plain listener.
        self.settings = f"max_connections = {places}\n[process]\nthreads = 1"
        port = free_port()
        process = place.start("backend", sys.executable, HERE / "floods.py", "backend", port)
        await_that("the backend listens", lambda: process.alive() and listening(port))
        backend = f"http://127.0.0.1:{port}"
        self.route("echo", "/echo/", backend).route("upload", "/upload", backend, http="forward", max_body="1MiB")
        self.run()

    def discarding(self):
        return self.metric("connections_discarding", listener="plain")


def statuses(connect):
    """The answers that clients get which send everything before they read, with their counts."""
    told = collections.Counter()
    for _ in range(UPLOADS):
        connection = connect()
        try:
            connection.request("POST", "/upload", bytes(BODY))
            told[connection.getresponse().status] += 1
        except OSError as error:
            told[type(error).__name__] += 1
        connection.close()
    return dict(told)


def tells(agent):
    """The 413 to a body of 5 MB arrives, each time, in the clear and over TLS."""
    context = ssl.create_default_context(cafile=agent.authority.ca)
    for name, connect in (
        ("in the clear", lambda: http.client.HTTPConnection("localhost", agent.plain_port, timeout=10)),
        ("over TLS", lambda: http.client.HTTPSConnection("localhost", agent.tls_port, timeout=10, context=context)),
    ):
        told = statuses(connect)
        need(told == {413: UPLOADS}, f"{UPLOADS} clients {name} are told 413, not {told}")
    figure(f"a 413 to 5 MB arrives {2 * UPLOADS} of {2 * UPLOADS} times")


def served(wire, number):
    payload = struct.pack(">Q", number)
    wire.send(frame(BINARY, payload, mask=MASK))
    need(wire.frame() == (0x80 | BINARY, payload), "the same message comes back")


def opens(agent):
    """Tunnels of an admitted client while a thousand others drip: the slowest to open and answer, and how many there were."""
    slowest, count, until, looks = 0.0, 0, time.perf_counter() + LOOK, []
    while time.perf_counter() < until:
        began = time.perf_counter()
        wire = floods.opened(agent.plain_port, "/echo/")
        served(wire, count)
        slowest, count = max(slowest, time.perf_counter() - began), count + 1
        wire.connection.close()
        looks.append(agent.discarding())
    # Connections that are asked to close count until they have closed.
    discarding = statistics.median(looks)
    need(discarding <= PLACES // 10, f"a tenth of {PLACES} connections discards at most, not {discarding:.0f}")
    note(f"{count} tunnels: {slowest * 1000:.0f} ms at most, discarding {min(looks):.0f} to {max(looks):.0f}")
    return slowest, count


def attacked(place, agent):
    place.start("drips", sys.executable, HERE / "linger.py", "drips", agent.plain_port, CLIENTS)
    displaced = {"listener": "plain", "end": "displaced"}
    await_that("they drip", lambda: agent.metric("discards_total", **displaced) >= 2 * CLIENTS)
    stays = floods.opened(agent.plain_port, "/echo/")
    for _ in range(LOOKS):
        slowest, count = opens(agent)
        if slowest <= SOON:
            break
    need(slowest <= SOON, f"a tunnel opens within {SOON} s beside {CLIENTS} clients that drip, not {slowest:.3f}")
    served(stays, count)
    figure(f"{count} tunnels beside {CLIENTS} clients that drip: {slowest * 1000:.0f} ms at most")


def weighed():
    """What a connection that discards weighs, and that it ends with its client."""
    with Place() as place:
        agent = Agent(place, 10 * (FEW + MANY))
        # What the program takes once, whatever the number of its connections, is taken before the weighing.
        place.start("first", sys.executable, HERE / "linger.py", "drips", agent.plain_port, FEW, "in-turn")
        await_that("the first discard", lambda: agent.discarding() == FEW)
        before = agent.process.pss()
        place.start("drips", sys.executable, HERE / "linger.py", "drips", agent.plain_port, MANY, "in-turn")
        await_that("all discard", lambda: agent.discarding() == FEW + MANY)
        # In turn, since the allocator keeps for a while what a burst of heads takes.
        def each():
            weight = (agent.process.pss() - before) / MANY
            return weight < WEIGHT and weight

        weight = await_that(f"a connection that discards takes {WEIGHT} bytes at most", each)
        began = time.perf_counter()
        for _ in range(2):
            place.processes.pop().end()
        await_that("all are gone", lambda: agent.discarding() == 0)
        took = time.perf_counter() - began
        need(took < 4, f"a connection ends with its client, and not for its silence: the last after {took:.1f} s")
        figure(f"one that discards takes {weight / 1000:.1f} kB")


def main():
    if sys.argv[1:2] == ["drips"]:
        return drips(int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:] == ["in-turn"])
    with Place() as place:
        agent = Agent(place, PLACES)
        tells(agent)
        attacked(place, agent)
    weighed()


if __name__ == "__main__":
    sys.exit(main())
