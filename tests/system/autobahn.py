"""Autobahn's suite, direct and through Sidegate: every case has the same result.

The 301 cases without compression, against an echo server on npm's `ws`, and against a client on it. Each goes direct,
through Sidegate in the clear and over TLS. `ws` answers a message before it looks at the next frame. A server that stops
answering at a Close, as Python's `websockets` does, passes or fails a few cases by its own timing, direct as well.
It takes some minutes, so it runs by name only: `tests/system/run --only autobahn`.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from harness import HERE, Authority, Place, Sidegate, await_that, echo_backend, figure, free_port, listening, need, note

TREE = Path(os.environ.get("SYSTEM_AUTOBAHN", HERE.parent.parent / "target/system/autobahn"))
COMPRESSION = ["12.*", "13.*"]
CASES = 301
WAYS = ("direct", "plain", "tls")
JUDGED = ("behavior", "behaviorClose", "remoteCloseCode")
AGAIN = 3  # times that cases are run again which differ: timers of a second decide some of them


class Suite:
    """`wstest` in a tree with Python 2; its specifications and reports lie there too."""

    def __init__(self, place):
        self.place = place
        self.dir = Path(tempfile.mkdtemp(prefix="run-", dir=TREE / "tmp"))
        self.inside = Path("/tmp") / self.dir.name

    def start(self, mode, name, **spec):
        spec |= {"outdir": str(self.inside / name), "exclude-agent-cases": {}}
        (self.dir / f"{name}.json").write_text(json.dumps(spec))
        argv = ["wstest", "-m", mode, "-u", "0", "-s", self.inside / f"{name}.json"]
        return self.place.start(f"wstest-{name}", "chroot", TREE, *argv)

    def results(self, name):
        """Of each way, the result of each case."""
        index = json.loads((self.dir / name / "index.json").read_text())
        results = {
            way: {case: tuple(found[key] for key in JUDGED) for case, found in cases.items()} for way, cases in index.items()
        }
        shutil.rmtree(self.dir / name)
        return results


def differing(results):
    """The cases that differ from direct on some way, and how."""
    direct = results["direct"]
    found = {}
    for way, cases in results.items():
        need(cases.keys() == direct.keys(), f"{way} has other cases than direct: {cases.keys() ^ direct.keys()}")
        for case, result in cases.items():
            if result != direct[case]:
                found.setdefault(case, []).append(f"{way} {result}, direct {direct[case]}")
    return found


def some(differs, most=10):
    """The first few of them, to be read."""
    shown = dict(list(differs.items())[:most])
    return f"{shown}, and {len(differs) - most} more" if len(differs) > most else str(shown)


def compare(name, take):
    """All cases by `take`, which is given the cases to run; those that differ are run again."""
    began = time.monotonic()
    results = take(["*"])
    need(len(results["direct"]) == CASES, f"{len(results['direct'])} cases, not {CASES}")
    counts = Counter(result[:2] for result in results["direct"].values())
    note(f"{name}, direct: {dict(counts)}")
    differs = differing(results)
    first = len(differs)
    for _ in range(AGAIN):
        if not differs:
            break
        note(f"{name}, to be run again: {some(differs)}")
        differs = differing(take(sorted(differs)))
    need(not differs, f"{name}: {len(differs)} of {CASES} cases differ from direct: {some(differs)}")
    took = time.monotonic() - began
    figure(f"{name}: {CASES} of {CASES} as direct ({first} at the second try), {took:.0f} s")


def as_client(suite, name, urls):
    """Autobahn is the client of a server at these URLs."""

    def take(cases):
        servers = [{"agent": way, "url": urls[way]} for way in WAYS]
        wstest = suite.start("fuzzingclient", name, servers=servers, cases=cases, **{"exclude-cases": COMPRESSION})
        need(wstest.popen.wait(900) == 0, f"wstest ends well: {wstest.popen.returncode}")
        return suite.results(name)

    compare(name, take)


def as_server(suite, name, port, urls, ca):
    """Autobahn is the server at `port` of a client that goes to these URLs."""

    def take(cases):
        spec = {"url": f"ws://127.0.0.1:{port}", "cases": cases, "exclude-cases": COMPRESSION}
        wstest = suite.start("fuzzingserver", name, **spec)
        await_that("wstest listens", lambda: wstest.alive() and listening(port))
        count = CASES if cases == ["*"] else len(cases)
        numbers = ",".join(map(str, range(1, count + 1)))
        for way in WAYS:
            run_client(suite.place, urls[way], way, numbers, ca)
        report(port)
        wstest.end()
        return suite.results(name)

    compare(name, take)


def run_client(place, base, agent, numbers, ca):
    client = place.start(f"client-{agent}", "node", HERE / "autobahn.js", base, agent, numbers, ca)
    try:
        need(client.popen.wait(600) == 0, f"the client ends well: {client.popen.returncode}")
    except subprocess.TimeoutExpired:
        need(False, "the client takes no longer than 600 s")


def report(port):
    """Has the server write its reports, and waits until it has."""
    from websockets.sync.client import connect

    with connect(f"ws://127.0.0.1:{port}/updateReports?agent=direct", compression=None) as socket:
        for _ in socket:
            pass


def main():
    need((TREE / "usr/bin/python2").exists(), f"there is a Python 2 below {TREE}")
    with Place() as place:
        authority, suite = Authority(place), Suite(place)
        sidegate = Sidegate(place).certificate(authority.issue("localhost")).policy()
        echo, fuzzing = echo_backend(place, "ws", deflate=False), free_port()
        sidegate.route("echo", "/echo/", f"http://127.0.0.1:{echo}")
        sidegate.route("fuzzing", "/runCase", f"http://127.0.0.1:{fuzzing}")
        sidegate.run()

        def urls(port, path):
            bases = (f"ws://localhost:{port}", f"ws://localhost:{sidegate.plain_port}", f"wss://localhost:{sidegate.tls_port}")
            return {way: base + path for way, base in zip(WAYS, bases)}

        try:
            as_client(suite, "server", urls(echo, "/echo/"))
            as_server(suite, "client", fuzzing, urls(fuzzing, ""), authority.ca)
        finally:
            shutil.rmtree(suite.dir, ignore_errors=True)
        need(sidegate.process.end(40) == 0, "SIGTERM drains, and the exit code is 0")


if __name__ == "__main__":
    sys.exit(main())
