"""Sidegate beside other proxies: has them take turns, and prints and writes what came of it.

    benches/peers/run [--rounds N] [--quick] [--only NAMES] [--figures NAMES] [--json FILE] [--docs]
    benches/peers/run --from FILE [--docs]
"""

import argparse
import datetime
import json
import os
import platform
import re
import resource
import signal
import sys
import time
from pathlib import Path

import page
from figures import FAILURES, FIGURES, SIDE_BY_SIDE, Amounts, Bench
from proxies import PROXIES, Straight

from harness import need, run

QUIET = 0.05  # of the machine, used by others


def main():
    order = orders()
    if order.source:
        report = json.loads(order.source.read_text())
    else:
        report = measure(order)
    if order.json:
        order.json.write_text(json.dumps(report, indent=1) + "\n")
    print("\n" + page.tables(report))
    if order.docs:
        page.save(report)
        print(f"written: {page.PAGE}")


def orders():
    parser = argparse.ArgumentParser(prog="benches/peers/run", description="Sidegate beside other proxies on the same work")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="how often each proxy's turn comes (5)")
    parser.add_argument("--quick", action="store_true", help="two short turns: for a look, not for figures")
    parser.add_argument("--only", type=names(PROXIES), metavar="NAMES", help=f"some of {','.join(PROXIES)}")
    parser.add_argument("--figures", type=names(FIGURES), metavar="NAMES", help=f"some of {','.join(FIGURES)}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="writes all values there")
    parser.add_argument("--from", type=Path, metavar="FILE", dest="source", help="prints what an earlier --json wrote")
    parser.add_argument("--docs", action="store_true", help=f"rewrites its part of {page.PAGE}")
    return parser.parse_args()


def names(known):
    def parse(text):
        chosen = text.split(",")
        for name in chosen:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(known)}")
        return [name for name in known if name in chosen]

    return parse


def measure(order):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    amounts = Amounts.quick() if order.quick else Amounts()
    need(hard >= 2 * amounts.idle + 500, f"{amounts.idle} tunnels need {2 * amounts.idle + 500} descriptors, not {hard}")
    chosen, missing = [], []
    for name in order.only or PROXIES:
        (chosen if PROXIES[name].program() else missing).append(name)
    for name in missing:
        print(f"- missing: {PROXIES[name].label} is not installed, so it is not measured", flush=True)
    need(chosen, "at least one proxy is installed")

    cpu = max(os.sched_getaffinity(0))
    bench, rounds, books = Bench(amounts, cpu), 2 if order.quick else order.rounds, Books()
    others = [by_others()]
    if others[0] > QUIET:
        print(f"- not quiet: others use {others[0]:.0%} of the machine, so times and latencies are theirs too", flush=True)
    began = time.monotonic()
    for figure in order.figures or FIGURES:
        take(bench, figure, [PROXIES[name] for name in chosen if figure in PROXIES[name].figures], rounds, books)
    said = {name: [*filter(None, [PROXIES[name].cannot]), *bench.said.get(name, [])] for name in chosen}
    return {
        "schema": 1,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": machine(),
        "command": command(order),
        "seconds": round(time.monotonic() - began),
        "rounds": rounds,
        "quick": order.quick,
        "others": max(*others, by_others()),
        "idle": amounts.idle,
        "open": list(amounts.open),
        "counted_by": getattr(bench, "method", None),
        "versions": {name: PROXIES[name].version() for name in chosen},
        "said": {name: words for name, words in said.items() if words},
        "missing": missing,
        "failed": books.failed,
        "values": books.values,
    }


class Books:
    """What came of each turn."""

    def __init__(self):
        self.values, self.failed = {}, {}

    def note(self, turn, kind, found):
        for key, value in found.items():
            self.values.setdefault(key, {}).setdefault(kind.name, {})[str(turn)] = value
        shown = ", ".join(f"{key} {page.plain(key, value)}" for key, value in found.items())
        print(f"- {kind.label}: {shown}", flush=True)

    def fails(self, figure, kind, error):
        """One that fails is said, and not counted; the others are measured none the less."""
        print(f"- FAILED {figure} of {kind.label}: {error}", flush=True)
        words = f"{figure}: {str(error).splitlines()[0][:200]}"
        if words not in self.failed.setdefault(kind.name, []):
            self.failed[kind.name].append(words)


def take(bench, figure, kinds, rounds, books):
    """Takes one figure of all these: in turns, or once of one after the other."""
    take_one = getattr(bench, figure)
    if figure not in SIDE_BY_SIDE:
        for kind in kinds:
            try:
                books.note(0, kind, take_one(kind))
            except FAILURES as error:
                books.fails(figure, kind, error)
        return
    with bench.standing(figure, kinds, lambda kind, error: books.fails(figure, kind, error)) as standing:
        if standing and figure == "latency":
            standing = [(Straight, Straight, standing[0][1].load(straight=True).open(200)), *standing]
        for turn in range(rounds):
            # Another one begins in each turn.
            at = turn % max(1, len(standing))
            for kind, proxy, load in standing[at:] + standing[:at]:
                try:
                    books.note(turn, kind, take_one(proxy, load))
                except FAILURES as error:
                    books.fails(figure, kind, error)


def by_others(seconds=2):
    """The share of the machine that is used, or taken by the host it runs on, while nothing of ours runs."""

    def spent():
        user, nice, system, idle, waiting, *more = map(int, Path("/proc/stat").read_text().splitlines()[0].split()[1:9])
        return user + nice + system + sum(more), idle + waiting

    (used, unused) = spent()
    time.sleep(seconds)
    used, unused = (now - then for now, then in zip(spent(), (used, unused), strict=True))
    return used / max(1, used + unused)


def command(order):
    """How to repeat it, without where its results were to go."""
    words = ["benches/peers/run"]
    words += ["--quick"] if order.quick else [f"--rounds {order.rounds}"] if order.rounds != 5 else []
    words += [f"--only {','.join(order.only)}"] if order.only else []
    words += [f"--figures {','.join(order.figures)}"] if order.figures else []
    return " ".join(words)


def interrupted(*_):
    """Ctrl-C ends what runs, in order; a second one doesn't disturb that."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt


def machine():
    model = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.M)
    return {
        "cpu": model[1] if model else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "kernel": re.match(r"\d+\.\d+\.\d+|.*", platform.release())[0],
        "openssl": run("openssl", "version").split()[1],
    }


if __name__ == "__main__":
    signal.signal(signal.SIGINT, interrupted)
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
