"""Sidegate beside other proxies: starts them in turn, round after round, and prints and writes what came of it.

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
from figures import FIGURES, ONCE, Amounts, Bench
from proxies import PROXIES

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
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="how often each peer's turn comes (3)")
    parser.add_argument("--quick", action="store_true", help="one short round: for a look, not for figures")
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
    bench, rounds, values, failed = Bench(amounts, cpu), 1 if order.quick else order.rounds, {}, {}
    others = [by_others()]
    if others[0] > QUIET:
        print(f"- not quiet: others use {others[0]:.0%} of the machine, so times and latencies are theirs too", flush=True)
    began = time.monotonic()
    for turn in range(rounds):
        for figure in order.figures or FIGURES:
            if figure in ONCE and turn > 0:
                continue
            # Another one begins in each round.
            for name in chosen[turn % len(chosen) :] + chosen[: turn % len(chosen)]:
                kind = PROXIES[name]
                if figure not in kind.figures:
                    continue
                try:
                    found = getattr(bench, figure)(kind)
                except (AssertionError, OSError, ValueError) as error:
                    # One that fails is said, and not counted; the others are measured none the less.
                    print(f"- FAILED {figure} of {kind.label}, round {turn + 1}: {error}", flush=True)
                    failed.setdefault(name, []).append(f"{figure}, round {turn + 1}: {str(error).splitlines()[0][:200]}")
                    continue
                for key, value in found.items():
                    values.setdefault(key, {}).setdefault(name, {})[str(turn)] = value
                if not found:
                    continue
                shown = ", ".join(f"{key} {page.plain(key, value)}" for key, value in found.items())
                print(f"- round {turn + 1} {kind.label}: {shown}", flush=True)
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
        "failed": failed,
        "values": values,
    }


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
    words += ["--quick"] if order.quick else [f"--rounds {order.rounds}"] if order.rounds != 3 else []
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
