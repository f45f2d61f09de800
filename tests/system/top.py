"""`sidegate top` on a terminal of its own, beside an agent with tunnels, refusals and bans.

It is started on pseudo-terminals of several sizes, kept by hostile texts, keys, signals, stops and a closed terminal, and
has to leave each terminal as it was: the line discipline, the main screen and the cursor.
"""

import contextlib
import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
import time

import pyte
from banned import Named
from harness import SIDEGATE, Authority, Place, await_that, environment, figure, need

WIDE = "例え👩🏽‍🚀é"
ALTERNATE, MAIN, SHOWN = b"\x1b[?1049h", b"\x1b[?1049l", b"\x1b[?25h"


class Terminal:
    """A pseudo-terminal, its screen, and the program on it."""

    def __init__(self, columns, lines, argv, **variables):
        self.columns, self.lines = columns, lines
        self.master, slave = pty.openpty()
        self.resize(columns, lines, tells=False)
        # A program that is stopped and continued finds its terminal as the shell has set it.
        self.before = termios.tcgetattr(slave)
        self.raw = b""
        environ = {"TERM": "xterm-256color", **os.environ, **variables}
        environ = {name: value for name, value in environ.items() if value is not None}
        # Its own session, whose controlling terminal is the pseudo-terminal.
        own = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execvp(sys.argv[1], sys.argv[1:])"
        self.program = subprocess.Popen(
            [sys.executable, "-c", own, *map(str, argv)], stdin=slave, stdout=slave, stderr=slave, env=environ, start_new_session=True
        )
        # Kept open: an ended program leaves its terminal to be looked at.
        self.slave = slave

    def __enter__(self):
        self.reads = True
        self.lock = threading.Lock()
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()
        return self

    def __exit__(self, *_):
        if self.program.poll() is None:
            self.program.kill()
        self.program.wait(5)
        self.close()

    def read(self):
        while self.reads:
            with contextlib.suppress(OSError, ValueError):
                if select.select([self.master], [], [], 0.02)[0]:
                    read = os.read(self.master, 65536)
                    with self.lock:
                        self.raw += read
                        self.stream.feed(read.decode(errors="replace"))

    def resize(self, columns, lines, tells=True):
        size = struct.pack("HHHH", lines, columns, 0, 0)
        self.columns, self.lines = columns, lines
        if tells:
            # One step for the reader: what the program draws anew belongs to the new size.
            with self.lock:
                fcntl.ioctl(self.master, termios.TIOCSWINSZ, size)
                self.screen.resize(lines, columns)
            return
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, size)
        self.screen = pyte.Screen(columns, lines)
        self.stream = pyte.Stream(self.screen)

    def rows(self):
        with self.lock:
            # The second cell of a wide character is empty.
            row = lambda at: "".join(self.screen.buffer[at][column].data for column in range(self.columns))
            return [row(at).rstrip() for at in range(self.lines)]

    def text(self):
        return "\n".join(self.rows())

    def shows(self, *parts, seconds=10):
        """Waits until all of `parts` are on the screen, and returns its rows."""
        missing = lambda: [part for part in parts if part not in self.text()]
        try:
            await_that("", lambda: not missing(), seconds)
        except AssertionError:
            raise AssertionError(f"not on {self.columns}×{self.lines}: {missing()}\n{self.text()}\n{self.raw[-300:]}") from None
        return self.rows()

    def awaits(self, claim, check, seconds=10):
        """Waits until `check` holds; else the screen is part of the failure."""
        try:
            await_that(claim, check, seconds)
        except AssertionError as failure:
            raise AssertionError(f"{failure}\n{self.text()}") from None

    def keys(self, text):
        os.write(self.master, text.encode())

    def ends(self, code, seconds=5):
        """It ends by itself with `code`, and leaves the terminal as it was."""
        try:
            got = self.program.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it goes on:\n{self.text()}") from None
        need(got == code, f"it ends with {got}, not {code}: {self.text()}")
        await_that("all output is read", lambda: not select.select([self.master], [], [], 0)[0])
        self.is_restored()

    def is_restored(self):
        need(termios.tcgetattr(self.slave) == self.before, "the line discipline is as it was")
        need(self.raw.rfind(MAIN) >= self.raw.rfind(ALTERNATE), "the main screen is back")
        need(not self.screen.cursor.hidden, "the cursor is shown")

    def has_started(self):
        self.shows("q quit")
        need(termios.tcgetattr(self.slave) != self.before, "it takes keys one by one")
        need(self.raw.count(ALTERNATE) == 1, "it has a screen of its own")

    def close(self):
        self.reads = False
        self.reader.join()
        for end in (self.master, self.slave):
            with contextlib.suppress(OSError):
                os.close(end)


class Agent(Named):
    """A Sidegate with open tunnels, refusals, and certificates of which one has a wide name."""

    def __init__(self, place):
        super().__init__(place)
        self.public = []
        self.settings += '\n[shutdown]\nspread = "0s"\ndeadline = "1s"'
        authority = Authority(place)
        own, wide = authority.issue("own"), authority.issue(WIDE, "DNS:wide.localhost")
        self.certificate(own).certificate(wide).run()

    def fill(self):
        tunnels = [self.opens(f"203.0.113.{at}") for at in range(1, 8)]
        tunnels += [self.opens("198.51.100.1") for _ in range(3)]
        need(all(tunnels), "tunnels open")
        for at in range(5):
            self.status(f"192.0.2.{at % 2}", path="/nothing/")
        self.tunnels = tunnels

    def argv(self, *more):
        return [SIDEGATE, "top", "--config", self.config, "--interval", "1s", *more]

    def top(self, columns, lines, *more, **variables):
        return Terminal(columns, lines, self.argv(*more), **variables)


def sizes(agent):
    """Each size has what fits, and a change of it draws anew."""
    with agent.top(80, 24) as terminal:
        rows = terminal.shows("ROUTES", "CLIENTS", "REFUSALS", "REFUSED CLIENTS", "CERTIFICATES", "BANS", "198.51.100.1", "q quit")
        need(len(rows) == 24 and "q quit" in rows[-1], "the keys are in the last line")
        terminal.has_started()
        for columns, lines, parts in (
            (200, 60, ["BACKENDS", "ENTRIES THAT LAPSE"]), (40, 10, ["ROUTES", "q quit"]), (20, 3, ["q quit"]), (1, 1, []), (80, 24, ["BANS"]),
        ):  # fmt: skip
            terminal.resize(columns, lines)
            terminal.shows(*parts)
            need(terminal.program.poll() is None, f"it goes on at {columns}×{lines}")
        terminal.keys("q")
        terminal.ends(0)
    with agent.top(80, 24, NO_COLOR="1") as terminal:
        terminal.shows("198.51.100.1")
        colors = re.findall(rb"\x1b\[[0-9;]*?(?:3[0-7]|4[0-7]|38|48|9[0-7])[;m]", terminal.raw)
        need(not colors, f"NO_COLOR has none: {colors[:3]}")
        terminal.keys("\x03")
        terminal.ends(0)
    for term in ("dumb", None):
        with agent.top(80, 24, TERM=term) as terminal:
            terminal.ends(0)
            need(b"\x1b" not in terminal.raw and b"ROUTES" in terminal.raw, f"TERM={term} has one plain screen")
    figure("80×24, 200×60, 40×10 and smaller, without colors, and TERM=dumb")


def keys(agent):
    """Sorting, filtering, one panel, the help, and the ways out of them."""
    with agent.top(100, 30) as terminal:
        terminal.has_started()
        terminal.shows("198.51.100.1")
        terminal.keys("3")
        rows = terminal.shows("▸CLIENTS", "FROM CLIENT", "203.0.113.7")
        first = next(at for at, row in enumerate(rows) if row.startswith("▸CLIENTS")) + 1
        terminal.awaits("the client with the most tunnels is first", lambda: "198.51.100.1" in terminal.rows()[first])
        terminal.shows("s sort: tunnels")
        terminal.keys("sss")
        terminal.shows("s sort: name")
        terminal.awaits("the names are in order", lambda: "198.51.100.1" in terminal.rows()[first])
        terminal.keys("/113.4")
        terminal.shows("filter: 113.4")
        terminal.keys("\r")
        terminal.awaits("only such rows are shown", lambda: "203.0.113.7" not in terminal.text() and "203.0.113.4" in terminal.text())
        terminal.keys("\x1b\x1b")  # to all panels, and no filter
        terminal.shows("ROUTES", "203.0.113")
        terminal.keys("?")
        terminal.shows("Shift-Tab")
        terminal.keys("?p")
        terminal.shows("PAUSED")
        terminal.keys("pq")
        terminal.ends(0)
    figure("sorted, filtered, zoomed, paused")


def endings(agent):
    """Signals restore the terminal, and a terminal that is gone ends it."""
    for one in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        with agent.top(80, 24) as terminal:
            terminal.has_started()
            terminal.program.send_signal(one)
            terminal.ends(0)
    with agent.top(80, 24) as terminal:
        terminal.has_started()
        terminal.reads = False
        terminal.reader.join()
        began = time.monotonic()
        os.close(terminal.slave)
        os.close(terminal.master)
        code = terminal.program.wait(5)
        took = time.monotonic() - began
        need(code in (0, 1), f"a closed terminal ends it: {code}")
    figure(f"a closed terminal ends it after {took:.1f} s")


def stops(agent):
    """Ctrl-Z leaves the shell its terminal, and `fg` brings the screen back. So does a stop from outside."""
    with Terminal(90, 24, ["sh", "-i"], PS1="ready> ", ENV=None) as terminal:
        terminal.shows("ready>")
        at_prompt = termios.tcgetattr(terminal.slave)
        terminal.keys(" ".join(f"'{word}'" for word in agent.argv()) + "\n")
        terminal.shows("ROUTES", "q quit")
        for turn in (1, 2):
            terminal.keys("\x1a")
            terminal.awaits("the main screen is back", lambda: terminal.raw.count(MAIN) == turn)
            terminal.awaits("the shell has its terminal", lambda: termios.tcgetattr(terminal.slave) == at_prompt)
            terminal.keys("echo $((40 + 2))-answers\n")
            terminal.awaits("the shell answers", lambda: b"42-answers" in terminal.raw)
            need(not terminal.screen.cursor.hidden, "with a cursor")
            terminal.screen.reset()
            terminal.keys("fg\n")
            terminal.shows("ROUTES", "q quit")
            need(terminal.raw.count(ALTERNATE) == turn + 1, "on its own screen again")
        top = int(subprocess.check_output(["pgrep", "-P", str(terminal.program.pid), "sidegate"]))
        for stop in (signal.SIGSTOP, signal.SIGTSTP):
            os.kill(top, stop)
            terminal.shows("topped")
            terminal.screen.reset()
            terminal.keys("fg\n")
            terminal.shows("ROUTES", "q quit")
            need(termios.tcgetattr(terminal.slave) != at_prompt, "it takes keys one by one")
        terminal.keys("q")
        terminal.awaits("the prompt is back", lambda: termios.tcgetattr(terminal.slave) == at_prompt)
        need(terminal.raw.rfind(MAIN) > terminal.raw.rfind(ALTERNATE), "the main screen is back")
        terminal.keys("exit 7\n")
        need(terminal.program.wait(5) == 7, "the shell ends")
    with agent.top(80, 24) as terminal:
        # The first process of its session: no shell could continue it.
        terminal.has_started()
        terminal.keys("\x1a")
        terminal.awaits("its screen is back by itself", lambda: terminal.raw.count(ALTERNATE) == 2)
        terminal.keys("q")
        terminal.ends(0)
    figure("stopped and continued by the shell, by a signal, and where no shell is")


def outages(agent):
    """An agent that restarts is said to be gone, and is shown again. Without any, a pipe ends with 1."""
    with agent.top(80, 24) as terminal:
        terminal.shows("198.51.100.1")
        agent.process.popen.kill()
        agent.process.popen.wait()
        terminal.shows("not reachable since", "198.51.100.1")
        for argv, code in ((agent.argv("--once"), 1), (agent.argv("--json"), 1)):
            done = subprocess.run(argv, capture_output=True, text=True, timeout=10)
            need((done.returncode, done.stdout) == (code, ""), f"without an agent: {done}")
            need("no agent" in done.stderr.lower() or "socket" in done.stderr, f"it says so: {done.stderr}")
        with agent.top(80, 24) as other:
            other.shows("waiting for the agent", "not reachable since")
            agent.run()
            other.shows("ROUTES")
            other.keys("q")
            other.ends(0)
        terminal.awaits("the agent is shown again", lambda: "not reachable" not in terminal.text())
        terminal.shows("ROUTES", "up ")
        terminal.keys("q")
        terminal.ends(0)
    figure("an agent that restarts is gone and back")


def pipes(agent):
    """A pipe gets one plain screen or JSON, and may close early."""
    for more in ([], ["--once"]):
        text = subprocess.check_output(agent.argv(*more), text=True, timeout=10)
        need("\x1b" not in text and "ROUTES" in text and "198.51.100.1" in text, f"{more}: {text}")
        need(all(line == line.rstrip() for line in text.splitlines()), "no blanks at the ends of lines")
    answer = json.loads(subprocess.check_output(agent.argv("--json"), timeout=10))
    need(answer["tunnels"] == len(agent.tunnels), f"JSON has the tunnels: {answer['tunnels']}")
    for more in (["--once"], ["--json"]):
        words = " ".join(f"'{word}'" for word in agent.argv(*more))
        done = subprocess.run(["bash", "-c", f"{words} | head -1; echo ${{PIPESTATUS[0]}}"], capture_output=True, text=True, timeout=10)
        need(done.stdout.splitlines()[-1] in ("0", "141") and not done.stderr, f"a closed pipe is no error: {done}")
        reader, writer = os.pipe()
        os.close(reader)
        done = subprocess.run(agent.argv(*more), stdout=writer, stderr=subprocess.PIPE, text=True, timeout=10)
        os.close(writer)
        need(done.returncode in (0, -signal.SIGPIPE) and not done.stderr, f"nor one that was never read: {done}")
    figure("pipes, also closed ones")


def texts(agent):
    """Hostile texts do nothing, and wide ones move no column."""
    subprocess.check_call([SIDEGATE, "ban", "192.0.2.200", "--for", "1h", "--why", f"why {WIDE}", "--config", agent.config], stdout=subprocess.DEVNULL)
    policy = agent.place.dir / "etc/policies/open.toml"
    good = policy.read_text()
    policy.write_text(good + '"\\u001b[2J\\u202eevil\\u2066 a\\u0301\\u200d" = 1\n')
    with agent.top(200, 60) as terminal:
        rows = terminal.shows("RELOAD ERRORS", "unknown key", "/例え", "why 例え")
        need(not any(mark in terminal.text() for mark in "\x1b\u202e\u2066\u200d\u0301"), "no mark of direction or join is shown")
        raw = terminal.raw.decode()
        need("\x1b[2J\u202e" not in raw and "\u2066" not in raw, "no text reaches the terminal as a control")
        at = next(at for at, row in enumerate(rows) if "CERTIFICATES" in row)
        with terminal.lock:
            cells = [[terminal.screen.buffer[row][column].data for column in range(200)] for row in range(at, at + 3)]
        # A wide character has two cells, so that cells are columns of the terminal.
        line = ["".join(cell or "\0" for cell in row) for row in cells]
        end = line[0].index("LEFT") + len("LEFT")
        need(all(row[end - 3 : end] == "1 d" for row in line[1:]), f"LEFT is above its column: {line}")
        terminal.keys("q")
        terminal.ends(0)
    policy.write_text(good)
    figure("hostile texts stay text, wide ones stay in their columns")


def main():
    with Place() as place, environment(NO_COLOR=""):
        os.environ.pop("NO_COLOR")
        agent = Agent(place)
        agent.fill()
        for test in (sizes, keys, endings, stops, pipes, texts, outages):
            test(agent)


if __name__ == "__main__":
    sys.exit(main())
