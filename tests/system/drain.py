"""A drain serves all clients that the kernel has accepted for Sidegate, also connections that no thread has accepted yet.

They would be reset with the socket in whose queue they wait. The accepting threads are stopped meanwhile, as under load.
"""

import collections
import contextlib
import socket
import sys

from halted import halted, named
from harness import Authority, Place, Sidegate, await_that, echo_backend, figure, need
from mirror import Ended, Wire, values

WAITING, THREADS = 200, 2
ATTEMPT = (
    b"GET /echo/ HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


def came(sidegate, at):
    """The client of that number, which has connected and sent a request."""
    wire = Wire(socket.create_connection(("127.0.0.1", sidegate.plain_port), 10, source_address=(f"127.0.1.{at % 250 + 1}", 0)))
    wire.send(ATTEMPT)
    return wire


def answered(wire):
    """What became of it, in a word."""
    with wire.connection, contextlib.suppress(Ended, OSError):
        start, fields = wire.head()
        return f"{start.split()[1]} {', '.join(values(fields, 'connection'))}"
    return "reset"


def queued(sidegate):
    """Who came before the order is answered, though no thread had taken the connection by then."""
    # It is ready before each of its threads is.
    await_that("its threads are there", lambda: len(named(sidegate.process.pid, "data-")) == THREADS)
    with halted(named(sidegate.process.pid, "data-")):
        waiting = [came(sidegate, at) for at in range(WAITING)]
        sidegate.process.popen.terminate()
        await_that("it drains", lambda: sidegate.ask_metrics("readyz")[0] == 503)
        accepted = sidegate.metric("connections_accepted_total", listener="plain")
        need(not accepted, f"no thread has taken one: {accepted}")
    became = collections.Counter(map(answered, waiting))
    need(became == {"503 close": WAITING}, f"each is answered, and told to come elsewhere: {dict(became)}")
    need(sidegate.process.end() == 0, "it ends in order")
    figure(f"{WAITING} connections that none of {THREADS} threads had taken at the order: {dict(became)}")


def main():
    with Place() as place:
        sidegate = Sidegate(place).certificate(Authority(place).issue("localhost")).policy()
        sidegate.settings = f"[process]\nthreads = {THREADS}"
        queued(sidegate.route("echo", "/echo/", f"http://127.0.0.1:{echo_backend(place)}").run())


if __name__ == "__main__":
    sys.exit(main())
