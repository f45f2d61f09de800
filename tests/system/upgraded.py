"""Ten upgrades in a row under load: 2,000 tunnels exchange messages, and 500 clients a second come, are served and leave.

None of them may be dropped, refused or corrupted, and no process may stay behind. A client at its cap stays at it through
the upgrades, and a new deny reaches the tunnels of every process.
"""

import collections
import contextlib
import json
import os
import re
import signal
import sys
import time

from harness import HERE, SIDEGATE, Authority, Place, Sidegate, await_that, echo_backend, figure, need, run
from mirror import CLOSE, Ended, connect, masked

TUNNELS, UPGRADES = 2000, 10
COMING = 500  # clients a second, without TLS: a handshake for each would take more than this machine has
GROUND = [f"127.0.1.{last}" for last in range(2, 250)]
GUEST, STRANGER = "127.0.0.7", "127.0.0.8"
CAP = 3  # tunnels a client
LATE = 3.0  # seconds for a client that comes during a switch, three times what a quiet machine needs
POLICY = """[client]
allow = ["any"]
deny = [{deny}]
[limits]
connections = {{ per_client = 4000 }}
[[limits.for]]
client = ["{guest}"]
connections = {{ per_client = {cap} }}
"""
ATTEMPT = (
    b"GET /echo/ HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


class World:
    """A Sidegate that is upgraded again and again, and its clients."""

    def __init__(self, place):
        self.place, self.guests = place, []
        self.authority = Authority(place)
        self.sidegate = Sidegate(place).certificate(self.authority.issue("localhost"))
        self.sidegate.policy(text=self.policy(())).route("echo", "/echo/", f"http://127.0.0.1:{echo_backend(place)}")
        self.sidegate.settings = '[reload]\nrevoke_spread = "0s"\n'
        self.sidegate.run()
        self.pids = [self.sidegate.process.pid]

    def policy(self, deny):
        return POLICY.format(deny=", ".join(f'"{one}"' for one in deny), guest=GUEST, cap=CAP)

    def pump(self, name, **target):
        own = {"path": "/echo/", "port": self.sidegate.plain_port, **target}
        return self.place.start(name, "node", HERE / "pump.js", json.dumps(own), talks=True)

    def upgrade(self):
        began = time.monotonic()
        answer = json.loads(run(SIDEGATE, "upgrade", "--json", "--config", self.sidegate.config))
        took = time.monotonic() - began
        need(answer["outcome"] == "upgraded" and answer["former_pid"] == self.pids[-1], f"the newest hands over: {answer}")
        self.pids.append(answer["pid"])
        return took

    def open(self, source):
        """A tunnel of this client, or the status of its refusal."""
        wire = connect(self.sidegate.tls_port, self.authority.ca, source=source)
        wire.send(ATTEMPT)
        start, _ = wire.head()
        return wire if " 101 " in start else start.split()[1]

    def end(self):
        """Drains the newest process; none of the others is left either."""
        run(SIDEGATE, "drain", "--config", self.sidegate.config)
        await_that("every process has ended", lambda: not any(map(alive, self.pids)), 30, every=0.05)


def alive(pid):
    with contextlib.suppress(OSError):
        os.kill(pid, 0)
        # One that was started by another process of this suite has no parent that waits for it.
        return " Z " not in open(f"/proc/{pid}/stat").read().partition(")")[2][:4]
    return False


def ten_times(world):
    """The upgrades, under load."""
    pump, coming = world.pump("tunnels"), world.pump("coming")
    need(pump.ask(do="open", count=TUNNELS)["open"] == TUNNELS, "every tunnel opens")
    pump.ask(do="pump", size=256, pause=1000)
    world.guests = [world.open(GUEST) for _ in range(CAP)]
    need(world.open(GUEST) == "429", "the client is at its cap")
    coming.ask(do="come", rate=COMING, **{"from": GROUND})
    took = []
    for _ in range(UPGRADES):
        took.append(world.upgrade())
        need(world.open(GUEST) == "429", "a client at its cap stays at it")
        served_for(world, 0.5)
    came = coming.ask(do="came")
    need(came["became"] == {"served": came["begun"]}, f"every client is served: {came}")
    need(came["longest"] < LATE * 1000, f"none waits for long: {came}")
    stats = pump.ask(do="rest")
    lost = (stats["open"], stats["dropped"], stats["corrupted"])
    need(lost == (TUNNELS, 0, 0), f"no tunnel is dropped or corrupted: {stats}")
    need(world.sidegate.metric("tunnels_draining") >= TUNNELS, "they are the first process' still")
    figure(
        f"{UPGRADES} upgrades: {TUNNELS} tunnels and {came['begun']} clients, 0 dropped, 0 refused, 0 corrupted; "
        f"an upgrade took {sorted(took)[len(took) // 2]:.2f} s, the slowest client {came['longest'] / 1000:.2f} s"
    )
    return pump


def served_for(world, seconds):
    """Clients come while the newest process serves, for so long."""
    before = time.monotonic()
    opened = world.sidegate.metric("tunnels_opened_total")
    await_that("clients come", lambda: time.monotonic() - before > seconds, 10, every=0.05)
    need(world.sidegate.metric("tunnels_opened_total") > opened, "the newest process serves them")


def judged(world, pump):
    """A stricter policy reaches the tunnels of a process that has read no file since."""
    since = time.monotonic()
    world.sidegate.policy(text=world.policy((GUEST,)))
    for wire in world.guests:
        first, payload = wire.frame()
        need(first & 15 == CLOSE and payload[:2] == (1008).to_bytes(2, "big"), f"revoked with 1008: {first:#x} {payload!r}")
    took = time.monotonic() - since
    need(world.open(GUEST) == "403", "and is not let in again")
    need(pump.ask(do="rest")["open"] == TUNNELS, "the others stay")
    figure(f"a deny ended {CAP} tunnels of the first process after {took:.2f} s")


def denied_to_others(world):
    """Only root and the agent's own user may order it, whoever else may use the socket."""
    os.chmod(world.place.dir / "admin.sock", 0o666)
    os.chmod(world.place.dir, 0o755)
    script = (
        # The folders above may be closed to others, and the working directory stays.
        "import os, socket, sys; os.chdir(sys.argv[1]); os.setgroups([]); os.setgid(65534); os.setuid(65534); "
        "s = socket.socket(socket.AF_UNIX); s.connect('admin.sock'); s.sendall(b'POST /v1/upgrade HTTP/1.1\\r\\nHost: a\\r\\nConnection: close\\r\\n\\r\\n'); "
        "print(s.recv(4096).decode())"
    )
    said = run(sys.executable, "-c", script, world.place.dir)
    need(re.match("HTTP/1.1 403 ", said) and "only root" in said, f"another user is refused: {said}")


def main():
    with Place() as place:
        world = World(place)
        pump = ten_times(world)
        judged(world, pump)
        denied_to_others(world)
        pump.ask(do="close")
        await_that(
            "the processes without tunnels end", lambda: collections.Counter(map(alive, world.pids))[True] == 1, 20, every=0.1
        )
        world.end()
        figure("then no process is left")


if __name__ == "__main__":
    sys.exit(main())
