#!/usr/bin/env python3
"""Prints the functions that a `sidegate` binary runs, for `ld.lld --symbol-ordering-file`.

    .ci/link_order.py BINARY > ORDER

Valgrind counts what a start runs, and then what tunnels, exchanges, refusals, a reload and a stop run. The functions of
the start come first, those of both in the middle. The kernel maps a program's code by 64 KiB around each page that runs,
so that functions which lie together keep the rest out of memory.
"""

import re
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests/system"))
sys.dont_write_bytecode = True

from harness import Authority, Place, Sidegate, await_that, need, run  # noqa: E402
from mirror import CLOSE, TEXT, Backend, closing, connect, masked  # noqa: E402

VALGRIND = ("valgrind", "--tool=callgrind", "--quiet", "--fair-sched=yes", "--demangle=no")
IDLE = 3
"""Seconds after the start that count as a part of it: the first turns of timers and of the watch on files."""

UPGRADE = b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"


class Recorded(Sidegate):
    """A Sidegate under Valgrind."""

    def __init__(self, place, binary):
        super().__init__(place)
        self.binary, self.authority = binary, Authority(place)
        self.certificate(self.authority.issue("localhost"))
        self.policy().policy("closed", '[client]\nallow = ["192.0.2.1"]\n')
        backend = f"http://127.0.0.1:{Backend().port}"
        self.route("ws", "/ws/", backend).route("closed", "/closed/", backend, "closed")
        self.route("plain", "/plain/", backend, http="forward")
        self.place.write("etc/sidegate.toml", self.toml())
        out = f"--callgrind-out-file={place.dir}/calls"
        self.process = place.start("sidegate", *VALGRIND, out, binary, "run", "--config", self.config, "--log", "json")
        await_that("sidegate is ready", self.ready, seconds=120)

    def dump(self):
        """Ends a part of the record."""
        run("vgdb", f"--pid={self.process.pid}", "dump")

    def request(self, path, fields=b"", frames=()):
        """The answer's status; of a tunnel, after the frames have been sent and it has been closed."""
        wire = connect(self.tls_port, self.authority.ca)
        with wire.connection:
            wire.send(b"GET %s HTTP/1.1\r\nHost: localhost\r\nOrigin: https://localhost\r\n%s\r\n" % (path, fields))
            start, answered = wire.head()
            if " 101 " in start:
                for payload in frames:
                    wire.send(masked(TEXT, payload))
                    wire.frame()
                wire.send(masked(CLOSE, closing(1000)))
                wire.rest()
            else:
                wire.body(answered)
        return int(start.split()[1])

    def serve(self):
        """What a usual day has: each twice, since the second time a client or a backend connection is known."""
        for _ in range(2):
            need(self.request(b"/ws/a", UPGRADE, [b"a", b"b" * 1000, b"c" * 70_000]) == 101, "a tunnel opens")
            need(self.request(b"/plain/a") == 200, "an exchange is answered")
            need(self.request(b"/closed/a", UPGRADE) == 403, "a client is refused")
            self.metrics()
            self.policy("closed", '[client]\nallow = ["192.0.2.1", "192.0.2.2"]\n')
            run(self.binary, "reload", "--wait", "--config", self.config)


def functions(record, binary):
    """The names of the binary's functions in a record, in no order."""
    objects, names, found, ours = {}, {}, set(), False
    for line in record.read_text().splitlines():
        if match := re.match(r"(c?)(ob|fn)=\((\d+)\)(?: (.+))?$", line):
            callee, kind, number, name = match.groups()
            known = objects if kind == "ob" else names
            if name:
                known[number] = name
            if kind == "ob" and not callee:
                ours = known[number] == binary
            elif kind == "fn" and not callee and ours and not known[number].startswith("0x"):
                found.add(known[number])
    return found


def main(binary):
    binary = str(Path(binary).resolve())
    with Place() as place:
        sidegate = Recorded(place, binary)
        time.sleep(IDLE)
        sidegate.dump()
        sidegate.serve()
        sidegate.process.end(seconds=60)
        # Dumps have a number; what follows the last of them has none.
        start, serve = (functions(place.dir / part, binary) for part in ("calls.1", "calls"))
    need(len(start) > 500 and len(serve) > 500, f"functions have names: {len(start)}, {len(serve)}")
    for group in (start - serve, start & serve, serve - start):
        print(*sorted(group), sep="\n")
    print(f"{len(start)} functions of a start, {len(serve)} of serving, {len(start | serve)} in all", file=sys.stderr)


if __name__ == "__main__":
    main(*sys.argv[1:])
