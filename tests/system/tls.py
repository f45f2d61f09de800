"""OpenSSL's own client in front of Sidegate: both versions, groups and ciphers, resumption, key updates, endings.

`openssl s_client` uses another TLS library than Sidegate. WebSocket frames are written by hand, masked with zeros, and
echoed by npm's `ws`.
"""

import contextlib
import os
import select
import subprocess
import sys
import time

from harness import Authority, Place, Sidegate, await_that, echo_backend, figure, need

HEAD = (
    "GET /echo HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
SECONDS = 20


def frame(first, payload, masked):
    """A whole frame; one of a client's is masked with zeros, which leaves its payload as it is."""
    mask_bit = 0x80 if masked else 0
    if len(payload) < 126:
        length = bytes([mask_bit | len(payload)])
    elif len(payload) < 1 << 16:
        length = bytes([mask_bit | 126]) + len(payload).to_bytes(2, "big")
    else:
        length = bytes([mask_bit | 127]) + len(payload).to_bytes(8, "big")
    return bytes([first]) + length + (bytes(4) if masked else b"") + payload


class Openssl:
    """One `openssl s_client`, connected to Sidegate; it ends with its block."""

    def __init__(self, sidegate, ca, *options):
        argv = ["openssl", "s_client", "-connect", f"127.0.0.1:{sidegate.tls_port}", "-servername", "localhost"]
        argv += ["-CAfile", str(ca), "-verify_return_error", "-brief", *map(str, options)]
        self.name = " ".join(map(str, options))
        pipe = subprocess.PIPE
        self.popen = subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=pipe, bufsize=0)
        self.out, self.err = b"", b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.popen.kill()
        self.popen.wait()
        for stream in (self.popen.stdin, self.popen.stdout, self.popen.stderr):
            with contextlib.suppress(OSError):
                stream.close()

    def listen(self, claim, check, send=b""):
        """Sends while it can, and reads both streams until `check` holds; the end of both is the last chance."""
        deadline = time.monotonic() + SECONDS
        reads = [self.popen.stdout, self.popen.stderr]
        while not check() or send:
            need(time.monotonic() < deadline, f"{self.name}: not within {SECONDS} s: {claim}\n{self.err.decode()}")
            writes = [self.popen.stdin] if send else []
            ready, writable, _ = select.select(reads, writes, [], 0.1)
            if writable:
                send = send[os.write(self.popen.stdin.fileno(), send[:4096]) :]
            for stream in ready:
                some = os.read(stream.fileno(), 1 << 16)
                if not some:
                    reads.remove(stream)
                if stream is self.popen.stdout:
                    self.out += some
                else:
                    self.err += some
            need(reads or check(), f"{self.name}: it ended, without: {claim}\n{self.err.decode()}")

    def open(self):
        """Opens the WebSocket."""
        self.listen("a 101", lambda: b"\r\n\r\n" in self.out, HEAD.encode())
        head, _, self.out = self.out.partition(b"\r\n\r\n")
        need(head.startswith(b"HTTP/1.1 101 "), f"{self.name}: {head}")
        return self

    def echo(self, size):
        """A message there and back."""
        payload = (bytes(range(256)) * (size // 256 + 1))[:size]
        self.exchange(frame(0x82, payload, True), frame(0x82, payload, False))

    def exchange(self, there, back):
        self.listen(f"{len(back)} bytes back", lambda: len(self.out) >= len(back), there)
        need(self.out == back, f"{self.name}: what came back differs")
        self.out = b""

    def command(self, letter, answer):
        """One of s_client's commands: a line of its own, which says that it was obeyed."""
        before = self.err.count(answer)
        self.listen(answer.decode(), lambda: self.err.count(answer) > before, letter + b"\n")

    def end(self):
        """Reads to the end of both streams; the exit code."""
        with contextlib.suppress(AssertionError):
            self.listen("the end", lambda: False)
        return self.popen.wait(SECONDS)

    def close_input(self):
        self.popen.stdin.close()


def speaks(sidegate, ca):
    """Versions, cipher suites, groups and sizes of records: what OpenSSL can, echoes."""
    dialects = [
        ["-tls1_3"],
        ["-tls1_3", "-ciphersuites", "TLS_AES_128_GCM_SHA256"],
        ["-tls1_3", "-ciphersuites", "TLS_CHACHA20_POLY1305_SHA256"],
        ["-tls1_3", "-groups", "P-384"],
        ["-tls1_3", "-groups", "X448:P-256"],  # a share of a group that rustls lacks: it asks for a second ClientHello
        ["-tls1_3", "-max_send_frag", "512"],
        ["-tls1_2"],
        ["-tls1_2", "-cipher", "ECDHE-ECDSA-CHACHA20-POLY1305"],
        ["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256", "-groups", "P-256"],
        ["-tls1_2", "-max_send_frag", "512"],
    ]
    for dialect in dialects:
        with Openssl(sidegate, ca, *dialect) as client:
            client.open()
            for size in (0, 64, 1 << 16, 1 << 20):
                client.echo(size)
    figure(f"{len(dialects)} dialects echo up to 1 MiB")


def resumes(sidegate, ca, place):
    """A session of each version is resumed, over and over from the ticket that came last."""

    def resumed():
        return sidegate.metric("tls_handshakes_total", result="resumed") or 0

    for version in ("-tls1_3", "-tls1_2"):
        session = place.dir / f"session{version}"
        with Openssl(sidegate, ca, version, "-sess_out", session) as client:
            client.open().echo(64)
            await_that("the session is saved", session.exists)
        for again in range(3):
            before = resumed()
            with Openssl(sidegate, ca, version, "-sess_in", session, "-sess_out", session) as client:
                client.open().echo(1 << 16)
            need(resumed() == before + 1, f"{version}: not resumed, time {again}")
    figure("both versions resume")


def left(sidegate):
    """How many tunnels were left by their clients, once none is open any more."""
    await_that("no tunnel is open", lambda: sidegate.metric("tunnels_open") == 0)
    return sidegate.metric("tunnels_closed_total", reason="client_gone")


def updates(sidegate, ca):
    """Key updates, asking for one in return (K) and not (k), with data between them; too many without are the client's end."""
    with Openssl(sidegate, ca, "-tls1_3") as client:
        client.open()
        for _ in range(20):
            client.command(b"K", b"KEYUPDATE")
            client.echo(64)
            client.command(b"k", b"KEYUPDATE")
            client.echo(1 << 15)
        client.echo(1 << 20)
    before = left(sidegate)
    with Openssl(sidegate, ca, "-tls1_3") as client:
        client.open().echo(64)
        for _ in range(32):
            client.command(b"k", b"KEYUPDATE")
        client.echo(64)
        with contextlib.suppress(AssertionError, BrokenPipeError):
            for _ in range(40):
                client.command(b"k", b"KEYUPDATE")
        client.end()
        need(left(sidegate) == before + 1, "a flood of key updates ends its tunnel")
    figure("40 key updates pass, a flood of them ends its tunnel")


def ends(sidegate, ca):
    """Endings from either side are clean ones, and a renegotiation is none of ours."""
    for version in ("-tls1_3", "-tls1_2"):
        with Openssl(sidegate, ca, version) as client:
            client.open().exchange(frame(0x88, b"\x03\xe8", True), frame(0x88, b"\x03\xe8", False))
            need(client.end() == 0, f"{version}: Sidegate's end is no clean one\n{client.err.decode()}")
        before = left(sidegate)
        with Openssl(sidegate, ca, version) as client:
            client.open().echo(64)
            client.close_input()  # close_notify, and FIN
            need(client.end() == 0, f"{version}: half a close is no clean end\n{client.err.decode()}")
        need(left(sidegate) == before + 1, f"{version}: a client that ends leaves its tunnel")
    with Openssl(sidegate, ca, "-tls1_2") as client:
        client.open().echo(64)
        client.command(b"R", b"RENEGOTIATING")
        client.end()  # OpenSSL takes a no for the end
    need(b"no renegotiation" in client.err, f"a renegotiation: {client.err.decode()}")
    with Openssl(sidegate, ca, "-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0") as client:
        need(client.end() != 0 and b"SSL alert number" in client.err, f"TLS 1.1: {client.err.decode()}")
    figure("ends are clean, renegotiation and TLS 1.1 are declined")


def main():
    with Place() as place:
        authority = Authority(place)
        sidegate = Sidegate(place).certificate(authority.issue("localhost")).policy()
        sidegate.route("echo", "/echo", f"http://127.0.0.1:{echo_backend(place, deflate=False)}")
        sidegate.run()
        speaks(sidegate, authority.ca)
        resumes(sidegate, authority.ca, place)
        updates(sidegate, authority.ca)
        ends(sidegate, authority.ca)
        left(sidegate)
        need(not sidegate.metric("panics_total"), "something has panicked")
        need(sidegate.process.end(40) == 0, "SIGTERM drains, and the exit code is 0")


if __name__ == "__main__":
    sys.exit(main())
