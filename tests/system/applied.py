"""`sidegate apply`, killed with SIGKILL at each system call that changes something, beside a running agent.

strace counts these calls in an undisturbed run, and kills at one after the other. After each kill the agent serves one
whole set, at once and after a restart; the command that puts the files right says what it found and leaves nothing behind.
"""

import re
import shutil
import socket
import subprocess

from harness import SIDEGATE, Authority, Place, Sidegate, await_that, figure, free_port, need, run

CALLS = "rename,renameat,renameat2,link,linkat,unlink,unlinkat,fsync,fdatasync,fchmod,fchown,connect,sendto,writev,write"
SETS = ("one", "two")
"""The two sets: each refuses one address, on one route by a list and on the other by the policy itself."""
RESTARTED = 5
"""Of so many kills, one is followed by a restart of the agent."""


class Applied(Sidegate):
    def __init__(self, place):
        super().__init__(place)
        self.certificate(Authority(place).issue("leaf"))
        for name in ("list", "own"):
            self.route(name, f"/{name}", f"http://127.0.0.1:{free_port()}", policy=name)
        self.write(self.dir, "one")
        self.run()
        for name in SETS:
            shutil.copytree(self.dir, place.dir / name)
            self.write(place.dir / name, name)

    @staticmethod
    def write(folder, name):
        address = f"127.1.0.{SETS.index(name) + 1}"
        lists = folder / "policies/lists"
        lists.mkdir(parents=True, exist_ok=True)
        (lists / "banned.cidr").write_text(f"{address}\n")
        rules = 'schema = 1\nlists.banned = {{ file = "lists/banned.cidr" }}\n[client]\nallow = ["any"]\ndeny = ["{}"]\n'
        (folder / "policies/list.toml").write_text(rules.format("banned"))
        own = f'schema = 1\n[client]\nallow = ["any"]\ndeny = ["{address}"]\n'
        (folder / "policies/own.toml").write_text(own)

    def files(self):
        """The set that the files are of, whatever is in force; None for a mixture."""
        text = (self.dir / "policies/lists/banned.cidr").read_text() + (self.dir / "policies/own.toml").read_text()
        found = {SETS[int(number) - 1] for number in re.findall(r"127\.1\.0\.([12])", text)}
        return found.pop() if len(found) == 1 else None

    def in_force(self):
        """The set that decides; None for a mixture."""
        refused = {route: tuple(self.status(route, number) == 403 for number in (1, 2)) for route in ("/list", "/own")}
        one = {(True, False): "one", (False, True): "two"}
        found = {one.get(verdict) for verdict in refused.values()}
        return found.pop() if len(found) == 1 else None

    def status(self, route, number):
        address = (f"127.1.0.{number}", 0)
        with socket.create_connection(("127.0.0.1", self.plain_port), 10, source_address=address) as connection:
            head = f"GET {route} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            more = "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            connection.sendall((head + more).encode())
            return int(connection.recv(4096).split()[1])

    def apply(self, name):
        return [SIDEGATE, "apply", "--config", self.config, "--yes", self.place.dir / name]

    def hidden(self):
        return [path for path in self.dir.rglob(".*") if "sidegate" in path.name]

    def restart(self):
        self.process.end()
        self.run()


def calls(sidegate):
    """Each call of an undisturbed run: its name and its number among those of this name."""
    trace = sidegate.place.dir / "trace"
    run("strace", "-f", "-qq", "-o", trace, "-e", f"trace={CALLS}", *sidegate.apply("two"))
    need(sidegate.in_force() == "two" and not sidegate.hidden(), "an undisturbed run applies the other set")
    counts, found = {}, []
    for name in re.findall(r"^\d+ +(\w+)\(", trace.read_text(), re.M):
        counts[name] = counts.get(name, 0) + 1
        found.append((name, counts[name]))
    need({"rename", "linkat", "unlink", "fsync"} <= counts.keys(), f"the run links, renames and syncs: {counts}")
    return found


def killed(sidegate, call, number):
    """Kills an apply of the other set there. Returns the set in force."""
    before = sidegate.in_force()
    after = SETS[1 - SETS.index(before)]
    inject = f"inject={call}:signal=SIGKILL:when={number}"
    argv = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={CALLS}", "-e", inject, *sidegate.apply(after)]
    done = subprocess.run([str(word) for word in argv], capture_output=True, text=True, timeout=60)
    at = f"{call} {number}: {done.stdout}{done.stderr}"
    need(done.returncode in (-9, 137), f"it is killed ({done.returncode}) at {at}")
    # A sound generation or none: a mixture would be published at once, as no pause outlives the command.
    run(SIDEGATE, "reload", "--wait", "--config", sidegate.config)
    found = sidegate.in_force()
    need(found in (before, after), f"a whole set is in force ({found}) after a kill at {at}")
    return found


def recovered(sidegate, found, at):
    """Puts the files right, and checks what is said and left."""
    interrupted = (sidegate.dir / ".sidegate-apply.json").exists()
    said = run(SIDEGATE, "apply", "--recover", "--config", sidegate.config)
    expected = ("was rolled back", "was complete") if interrupted else ("no interrupted apply was found",)
    need(any(words in said for words in expected), f"recovery says what it found at {at}: {said}")
    need(sidegate.files() == found, f"the files are of the set in force at {at}: {sidegate.files()}, not {found}")
    run(SIDEGATE, "reload", "--wait", "--config", sidegate.config)
    need(sidegate.in_force() == found, f"the set stays in force at {at}")
    # Without a journal nothing is known of them, and the next apply replaces them.
    need(not interrupted or not sidegate.hidden(), f"nothing is left at {at}: {sidegate.hidden()}")
    return interrupted


def main():
    with Place() as place:
        sidegate = Applied(place)
        need(sidegate.in_force() == "one", "the first set is in force")
        steps, journals, restarts = calls(sidegate), 0, 0
        for at, (call, number) in enumerate(steps):
            found = killed(sidegate, call, number)
            if at % RESTARTED == 0:
                restarts += 1
                sidegate.restart()
                await_that(f"the set is in force after a restart at {call} {number}", lambda: sidegate.in_force() == found)
            journals += recovered(sidegate, found, f"{call} {number}")
        need(journals > 5, f"some kills leave a journal: {journals}")
        # The next apply recovers by itself.
        last = [number for call, number in steps if call == "rename"][-2]
        found = killed(sidegate, "rename", last)
        said = run(*sidegate.apply(SETS[1 - SETS.index(found)]))
        need("an interrupted apply" in said, f"the next apply says what it found: {said}")
        need(sidegate.in_force() != found and not sidegate.hidden(), "the next apply applies")
        figure(f"{len(steps)} kills, {journals} of them with a journal, {restarts} restarts: one whole set each time")


main()
