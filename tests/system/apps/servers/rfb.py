"""A VNC server with a screen of 64 by 48 dots, for websockify: `rfb.py PORT`. Each key that is pressed paints the screen.

It speaks RFB 3.8 (RFC 6143) without authentication and with the raw encoding.
"""

import socketserver
import struct
import sys

WIDTH, HEIGHT = 64, 48
TRUE_COLOUR = struct.pack(">BBBBHHHBBBxxx", 32, 24, 0, 1, 255, 255, 255, 16, 8, 0)
CLIENT_MESSAGES = {0: 19, 3: 9, 4: 7, 5: 5}  # the bytes behind the type: format, update request, key, pointer


class Session(socketserver.StreamRequestHandler):
    def handle(self):
        self.greet()
        shade, wanted, shown = 0, False, None
        while kind := self.rfile.read(1):
            body = self.body(kind[0])
            if kind[0] == 3:
                wanted, shown = True, shown if body[0] else None
            elif kind[0] == 4 and body[0]:
                shade = struct.unpack(">I", body[3:7])[0] & 0xFF
            if wanted and shown != shade:
                self.paint(shade)
                wanted, shown = False, shade

    def greet(self):
        self.wfile.write(b"RFB 003.008\n")
        self.expect(b"RFB 003.008\n")
        self.wfile.write(b"\x01\x01")  # one type of security: none
        self.expect(b"\x01")
        self.wfile.write(bytes(4))
        self.rfile.read(1)  # whether others may share the screen
        self.wfile.write(struct.pack(">HH", WIDTH, HEIGHT) + TRUE_COLOUR + struct.pack(">I", 6) + b"screen")

    def expect(self, wanted):
        got = self.rfile.read(len(wanted))
        if got != wanted:
            raise ValueError(f"{got!r} instead of {wanted!r}")

    def body(self, kind):
        if kind == 2:  # the encodings that the client knows
            head = self.rfile.read(3)
            return head + self.rfile.read(4 * struct.unpack(">xH", head)[0])
        if kind == 6:  # the client's clipboard
            head = self.rfile.read(7)
            return head + self.rfile.read(struct.unpack(">3xI", head)[0])
        return self.rfile.read(CLIENT_MESSAGES[kind])

    def paint(self, shade):
        head = struct.pack(">BxH", 0, 1) + struct.pack(">HHHHi", 0, 0, WIDTH, HEIGHT, 0)
        self.wfile.write(head + bytes((shade, shade, shade, 0)) * (WIDTH * HEIGHT))


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = daemon_threads = True


if __name__ == "__main__":
    Server(("127.0.0.1", int(sys.argv[1])), Session).serve_forever()
