"""The nouns of the suites about bans: a Sidegate whose clients are named by a header, and their requests and tunnels.

The plain listener believes the loopback about its clients, so that each client has an address of its own, IPv4 or IPv6.
"""

import socket
import struct

from harness import Sidegate, echo_backend, need
from mirror import CLOSE, TEXT, Wire, masked

HEAD = "GET {path} HTTP/1.1\r\nHost: {host}\r\nX-Forwarded-For: {client}\r\n{more}\r\n"
UPGRADE = (
    "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    "Sec-WebSocket-Version: 13\r\n"
)


class Named(Sidegate):
    """A Sidegate whose clients are named by `X-Forwarded-For`; it keeps bans in a folder of its own."""

    def __init__(self, place, name="sidegate"):
        super().__init__(place, name)
        self.public = ["tls = false"]
        # The first line belongs to the plain listener.
        self.settings = (
            'forwarded = { header = "x-forwarded-for", from = ["127.0.0.1"] }\n'
            f'[process]\nstate = "{place.dir}/state"\n[reload]\nrevoke_spread = "0s"'
        )
        self.policy().route("echo", "/echo/", f"http://127.0.0.1:{echo_backend(place)}")

    def connect(self):
        return Wire(socket.create_connection(("127.0.0.1", self.plain_port), 10))

    def status(self, client, path="/echo/", host="localhost", more=""):
        """The status of a plain request; a path that no route has is a refusal."""
        wire = self.connect()
        with wire.connection:
            wire.send(HEAD.format(path=path, host=host, client=client, more=more).encode())
            return int(wire.head()[0].split()[1])

    def opens(self, client):
        """A tunnel of this client; None where it is refused with 403."""
        wire = self.connect()
        wire.send(HEAD.format(path="/echo/", host="localhost", client=client, more=UPGRADE).encode())
        status = wire.head()[0].split()[1]
        need(status in ("101", "403"), f"an attempt is answered {status}")
        if status == "101":
            return wire
        wire.connection.close()
        return None


def echoes(wire, text=b"still here"):
    wire.send(masked(TEXT, text))
    need(wire.frame() == (0x80 | TEXT, text), "the same message comes back")


def expect_banned(wire):
    """The tunnel ends with Close 1008 `banned`, within the timeout of its socket."""
    first, payload = wire.frame()
    code = struct.unpack("!H", payload[:2])[0] if first == 0x80 | CLOSE else None
    need((code, payload[2:]) == (1008, b"banned"), f"a banned tunnel ends with {code} {payload[2:]}")
    wire.connection.close()
