"""Floods: a client or a backend that sends frames of one kind, as fast as they are read, and reads all of its input.

    floods.py client PORT PATH KIND [CA]   floods; for each line that it reads it prints how many bytes have gone out
    floods.py taker PORT PATH [CA]         reads all of its input
    floods.py backend PORT                 /…/pour/KIND floods, /…/take takes, all else comes back frame by frame

With CA it is over TLS. This module makes no assertions.
"""

import base64
import contextlib
import ctypes
import hashlib
import json
import os
import socket
import ssl
import sys
import threading

from mirror import BINARY, PING, PONG, Ended, Wire, frame, values

MASK = bytes(4)  # as valid as any other
ATTEMPT = (
    "GET {} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
KINDS = {
    "pings": ((), (PING, b"", True), 8192),
    "pongs": ((), (PONG, b"", True), 8192),
    "empty messages": ((), (BINARY, b"", True), 8192),
    "empty continuations": ((BINARY, b"", False), (0, b"", False), 8192),
    "1 B fragments": ((BINARY, b"x", False), (0, b"x", False), 8192),
    "1 B messages": ((), (BINARY, b"x", True), 8192),
    "1 MiB messages": ((), (BINARY, bytes(1 << 20), True), 1),
}
RECORDS = "pings, a TLS record each"
UPDATES = "TLS KeyUpdates"


def frames(kind, by_client):
    """What a flood of this kind begins with, and what it goes on with."""
    first, (opcode, payload, fin), count = KINDS[kind]
    mask = MASK if by_client else b""
    begun = frame(first[0], first[1], mask=mask, fin=first[2]) if first else b""
    return begun, frame(opcode, payload, mask=mask, fin=fin) * count


# --- a client ---------------------------------------------------------------------------------------------------------


def opened(port, path, ca=None, source="127.0.0.1", seconds=10):
    """A tunnel's wire, past the 101."""
    connection = socket.create_connection(("127.0.0.1", port), seconds, (source, 0))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if ca:
        connection = ssl.create_default_context(cafile=ca).wrap_socket(connection, server_hostname="localhost")
    wire = Wire(connection)
    wire.send(ATTEMPT.format(path).encode())
    start, _ = wire.head()
    if " 101 " not in start:
        raise OSError(start)
    return wire


class Counted:
    """Prints the number of sent bytes for each line on standard input."""

    def __init__(self):
        self.sent = 0
        threading.Thread(target=self.tell, daemon=True).start()

    def tell(self):
        for _ in sys.stdin:
            print(json.dumps({"sent": self.sent}), flush=True)
        os._exit(0)


def client(port, path, kind, ca=None):
    counted = Counted()
    if kind == UPDATES:
        return updates(port, path, counted)
    wire = opened(port, path, ca)
    wire.connection.settimeout(None)
    if kind == RECORDS:
        one = frames("pings", True)[1][:6]
        while True:
            counted.sent += wire.connection.send(one)
    if not ca:  # what comes back over TLS is little, and one connection is not for two threads
        threading.Thread(target=take, args=(wire,), daemon=True).start()
    pour(wire, *frames(kind, True), counted)


def taker(port, path, ca=None):
    wire = opened(port, path, ca)
    wire.connection.settimeout(None)
    take(wire)


def pour(wire, first, more, counted=None):
    wire.connection.sendall(first)
    while True:
        wire.connection.sendall(more)
        if counted:
            counted.sent += len(more)


def take(wire):
    room = bytearray(1 << 20)
    with contextlib.suppress(OSError):
        while wire.connection.recv_into(room):
            pass


def updates(port, path, counted):
    """KeyUpdates (RFC 8446 §4.6.3) by OpenSSL itself, since Python's module has no call for them; a frame now and then,
    since a server may refuse more than 32 of them in a row."""
    library = ctypes.CDLL("libssl.so.3")
    for name in ("TLS_client_method", "SSL_CTX_new", "SSL_new"):
        getattr(library, name).restype = ctypes.c_void_p
    context = ctypes.c_void_p(library.SSL_CTX_new(ctypes.c_void_p(library.TLS_client_method())))
    session = ctypes.c_void_p(library.SSL_new(context))
    connection = socket.create_connection(("127.0.0.1", port), 10)
    connection.settimeout(None)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 0)
    library.SSL_set_fd(session, connection.fileno())
    if library.SSL_connect(session) != 1:
        raise OSError("no TLS handshake")
    asked, room = ATTEMPT.format(path).encode(), ctypes.create_string_buffer(4096)
    library.SSL_write(session, asked, len(asked))
    count = library.SSL_read(session, room, len(room))
    if b" 101 " not in room.raw[:count]:
        raise OSError("no 101")
    ping = frames("pings", True)[1][:6]
    while True:
        for _ in range(16):
            library.SSL_key_update(session, 0)
            if library.SSL_do_handshake(session) != 1:
                return
            counted.sent += 27
        if library.SSL_write(session, ping, len(ping)) != len(ping):
            return


# --- a backend --------------------------------------------------------------------------------------------------------


def backend(port):
    listener = socket.create_server(("127.0.0.1", port), backlog=128)
    while True:
        connection, _ = listener.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=serve, args=(Wire(connection),), daemon=True).start()


def serve(wire):
    with wire.connection, contextlib.suppress(Ended, OSError):
        start, fields = wire.head()
        path = start.split()[1]
        key = values(fields, "sec-websocket-key")[0]
        accept = hashlib.sha1(f"{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode()).digest()
        answer = f"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {base64.b64encode(accept).decode()}\r\n"
        wire.send(f"HTTP/1.1 101 Switching Protocols\r\n{answer}\r\n".encode())
        _, flooded, kind = path.partition("/pour/")
        if flooded:
            return pour(wire, *frames(kind.replace("%20", " "), False))
        if path.endswith("/take"):
            return take(wire)
        while True:
            first, payload = wire.frame()
            wire.send(frame(first & 15, payload, fin=bool(first & 0x80)))


def main():
    role, port, *more = sys.argv[1:]
    return {"backend": backend, "client": client, "taker": taker}[role](int(port), *more)


if __name__ == "__main__":
    sys.exit(main())
