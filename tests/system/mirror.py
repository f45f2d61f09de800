"""A backend that records the bytes of every request, and a client that writes its bytes itself.

Both handle WebSocket frame by frame, so that no library normalises anything. The request's path alone determines the
backend's answer.
"""

import base64
import collections
import contextlib
import hashlib
import os
import socket
import ssl
import struct
import threading

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
RSV1 = 0x40


class Ended(Exception):
    """The other side ended the connection."""


class Wire:
    """A socket that is read by lines' ends and by counts."""

    def __init__(self, connection):
        self.connection, self.unread = connection, b""

    def more(self):
        try:
            bytes = self.connection.recv(65536)
        except ConnectionError:
            bytes = b""
        if not bytes:
            raise Ended
        self.unread += bytes

    def exactly(self, count):
        while len(self.unread) < count:
            self.more()
        taken, self.unread = self.unread[:count], self.unread[count:]
        return taken

    def until(self, mark):
        while mark not in self.unread:
            self.more()
        taken, _, self.unread = self.unread.partition(mark)
        return taken

    def rest(self):
        with contextlib.suppress(Ended):
            while True:
                self.more()
        return self.exactly(len(self.unread))

    def head(self):
        """Start line and fields, the names as they were spelled."""
        start, *lines = self.until(b"\r\n\r\n").decode("latin-1").split("\r\n")
        return start, [tuple(line.split(": ", 1)) for line in lines]

    def body(self, fields):
        """The body that these fields announce; None where only the end of the connection would tell."""
        if (values(fields, "transfer-encoding") or [""])[-1] == "chunked":
            body = b""
            while size := int(self.until(b"\r\n").split(b";")[0], 16):
                body += self.exactly(size)
                self.until(b"\r\n")
            self.until(b"\r\n")
            return body
        length = values(fields, "content-length")
        return self.exactly(int(length[0])) if length else None

    def send(self, bytes):
        self.connection.sendall(bytes)

    def frame(self):
        """First byte and payload, unmasked."""
        first, length = self.exactly(2)
        masked, length = length & 0x80, length & 0x7F
        if length >= 126:
            length = int.from_bytes(self.exactly(2 if length == 126 else 8), "big")
        mask = self.exactly(4) if masked else bytes(4)
        return first, xor(self.exactly(length), mask)


def frame(opcode, payload=b"", mask=b"", fin=True, rsv=0):
    size = len(payload)
    length = bytes([size]) if size < 126 else struct.pack("!BH", 126, size) if size < 65536 else struct.pack("!BQ", 127, size)
    head = bytes([(0x80 if fin else 0) | rsv | opcode, length[0] | (0x80 if mask else 0)]) + length[1:]
    return head + mask + xor(payload, mask)


def masked(opcode, payload=b"", **more):
    return frame(opcode, payload, mask=os.urandom(4), **more)


def xor(payload, mask):
    if not any(mask):
        return payload
    long = (mask * (len(payload) // 4 + 1))[: len(payload)]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(long, "big")).to_bytes(len(payload), "big")


def closing(code=None, reason=""):
    return b"" if code is None else struct.pack("!H", code) + reason.encode()


def values(fields, name):
    return [value for key, value in fields if key.lower() == name]


class Backend:
    """Answers what the path says, and keeps what it saw under the request's `X-Case`."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = self.listener.getsockname()[1]
        self.seen = collections.defaultdict(list)
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            connection, _ = self.listener.accept()
            threading.Thread(target=self.serve, args=(Wire(connection),), daemon=True).start()

    def serve(self, wire):
        with wire.connection, contextlib.suppress(Ended):
            while True:
                start, fields = wire.head()
                seen = {"start": start, "fields": fields, "body": wire.body(fields), "frames": [], "end": None}
                for case in values(fields, "x-case"):
                    self.seen[case].append(seen)
                path = start.split()[1].partition("?")[0]
                if path.startswith("/ws/") and not path.startswith("/ws/status/"):
                    return self.tunnel(wire, start, fields, seen)
                self.answer(wire, path, start, fields, seen)
                if "close" in values(fields, "connection"):
                    return

    def answer(self, wire, path, start, fields, seen):
        name = path.rsplit("/", 1)[-1]
        common = (
            "Server: mirror\r\nDate: Tue, 15 Nov 1994 08:12:31 GMT\r\nContent-Type: text/plain; charset=utf-8\r\n"
            "Set-Cookie: first=1; Path=/\r\nSet-Cookie: second=2; HttpOnly\r\nX-Mirror: one, two\r\nx-lower: kept\r\n"
        )
        text = {
            "401": 'HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Bearer realm="feed"\r\n',
            "302": "HTTP/1.1 302 Found\r\nLocation: https://login.example.com/?next=%2Ffeed\r\n",
            "404": "HTTP/1.1 404 Not Found\r\n",
            "503": "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 7\r\n",
            "204": "HTTP/1.1 204 No Content\r\n",
            "etag": 'HTTP/1.1 304 Not Modified\r\nETag: "v1"\r\n',
        }.get(name, 'HTTP/1.1 200 OK\r\nETag: "v1"\r\nCache-Control: max-age=60\r\n')
        body = seen["body"] if seen["body"] is not None else f"the answer of {path}\n".encode()
        if name in ("204", "etag"):
            return wire.send(f"{text}{common}\r\n".encode())
        if name == "chunked":
            pieces = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in (body, b"x" * 70_000))
            return wire.send(f"{text}{common}Transfer-Encoding: chunked\r\n\r\n".encode() + pieces + b"0\r\n\r\n")
        if name == "big":
            body *= 20_000
        head = f"{text}{common}Content-Length: {len(body)}\r\n\r\n".encode()
        wire.send(head if start.startswith("HEAD") else head + body)

    def tunnel(self, wire, start, fields, seen):
        """Echoes frames; a text `close CODE REASON` or `drop` ends it from this side."""
        asked = dict(pair.split("=", 1) for pair in start.split()[1].partition("?")[2].split("&") if "=" in pair)
        key = values(fields, "sec-websocket-key")[0]
        accept = hashlib.sha1(f"{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode()).digest()
        answer = "Upgrade: websocket\r\nConnection: Upgrade\r\nSet-Cookie: first=1\r\nSet-Cookie: second=2\r\nX-Mirror: one\r\n"
        answer += f"Sec-WebSocket-Accept: {base64.b64encode(accept).decode()}\r\n"
        if choice := asked.get("choose"):
            answer += f"Sec-WebSocket-Protocol: {choice}\r\n"
        if extension := asked.get("extension"):
            answer += f"Sec-WebSocket-Extensions: {extension}\r\n"
        wire.send(f"HTTP/1.1 101 Switching Protocols\r\n{answer}\r\n".encode())
        closed = False
        try:
            while True:
                first, payload = wire.frame()
                seen["frames"].append((first, payload))
                opcode = first & 15
                if opcode == CLOSE:
                    seen["end"] = payload
                    return None if closed else wire.send(frame(CLOSE, payload))
                if opcode == TEXT and payload == b"drop":
                    seen["end"] = b"dropped"
                    return
                if opcode == TEXT and payload.startswith(b"close"):
                    _, *rest = payload.decode().split(" ", 2)
                    closed = True
                    wire.send(frame(CLOSE, closing(int(rest[0]), *rest[1:]) if rest else b""))
                elif opcode == PING:
                    wire.send(frame(PONG, payload))
                else:
                    wire.send(frame(opcode, payload, fin=bool(first & 0x80), rsv=first & 0x70))
        except Ended:
            seen["end"] = seen["end"] or b"gone"


def connect(port, ca, address="127.0.0.1", source=""):
    """A client's TLS connection; from an address of its own where `source` says so."""
    plain = socket.create_connection((address, port), 10, (source, 0))
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return Wire(ssl.create_default_context(cafile=ca).wrap_socket(plain, server_hostname="localhost"))
