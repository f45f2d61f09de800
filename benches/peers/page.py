"""What the figures say, as Markdown: for the terminal, and for its part of docs/performance.md. It never measures."""

import statistics
from pathlib import Path

from proxies import PROXIES, Straight

PAGE = Path("docs/performance.md")
TOP = Path(__file__).resolve().parent.parent.parent
BEGIN, END = "<!-- peers: begin -->", "<!-- peers: end -->"
YARDSTICK = "nginx"

RATIOS = {
    "echo_64": "64 B echo",
    "echo_1024": "1 KiB echo",
    "bulk_65536": "GB echoed, 64 KiB messages",
    "bulk_1048576": "GB echoed, 1 MiB messages",
    "connect_full": "connection: full TLS handshake, upgrade, close",
    "connect_resumed": "the same, resumed",
}
NEIGHBOUR = {"neighbour_p50": "echo beside {}, p50, ms", "neighbour_p99": "echo beside {}, p99, ms", "flooded": "{}, MB a second"}
BALANCE = {"balance": "the fuller one's share of all tunnels"}
MEMORY = {
    "idle": "an idle tunnel, kB",
    "touched": "a tunnel after a 16 KiB echo on each, kB",
    "kept": "kept when all have closed, MB",
    "base": "nothing connected, MB",
}
COUNTS = {
    "syscalls": "system calls a 64 B echo",
    "instructions_user": "instructions a 64 B echo, the program's own",
    "instructions_kernel": "the kernel's for it",
}


def plain(key, value):
    """A value in the unit that one speaks of it in."""
    scale, unit, digits = unit_of(key)
    return f"{value * scale:.{digits}f}{unit}"


def unit_of(key):
    if key.startswith("bulk"):
        return 1, " s", 2
    if key.startswith("connect"):
        return 1e6, " µs", 0
    if key.startswith(("echo", "flat_echo")):
        return 1e6, " µs", 2
    if key in ("base", "kept"):
        return 1e-6, " MB", 1
    if key in ("idle", "touched") or key.startswith("flat_bytes"):
        return 1e-3, " kB", 1
    if key.startswith("instructions"):
        return 1e-3, " k", 1
    if key in ("syscalls", "balance"):
        return 1, "", 2
    if key.startswith("neighbour"):
        return 1e3, " ms", 1
    if key.startswith("flooded"):
        return 1e-6, " MB/s", 0
    return 1e6, " µs", 0  # latency


class Report:
    """The values of one run, by figure, proxy and turn."""

    def __init__(self, report):
        self.report, self.values = report, report["values"]
        self.names = [name for name in PROXIES if name in report["versions"]]

    def rounds(self, key, name):
        return self.values.get(key, {}).get(name, {})

    def measured(self, *keys):
        return [name for name in self.names if any(self.rounds(key, name) for key in keys)]

    def shown(self, key, name):
        """Median, and least and most where they differ to the eye."""
        values = list(self.rounds(key, name).values())
        if not values:
            return "–"
        scale, _, digits = unit_of(key)
        return spread([value * scale for value in values], digits)

    def ratio(self, key, name, to=YARDSTICK):
        """The median of what it takes relative to the yardstick in the same turn."""
        mine, other = self.rounds(key, name), self.rounds(key, to)
        ratios = [mine[turn] / other[turn] for turn in mine if turn in other]
        return spread(ratios, 2) if ratios else "–"

    def added(self, quantile, name):
        """What the proxy adds to the way straight to the backend, in the same turn."""
        through, straight = self.rounds(f"latency_{quantile}", name), self.rounds(f"latency_{quantile}", Straight.name)
        values = [(through[turn] - straight[turn]) * 1e6 for turn in through if turn in straight]
        return spread(values, 0) if values else "–"


def spread(values, digits):
    middle, least, most = (f"{value:.{digits}f}" for value in (statistics.median(values), min(values), max(values)))
    return middle if least == most else f"{middle} ({least}–{most})"


def table(head, rows):
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def labels(names):
    return [PROXIES[name].label for name in names]


def cpu_tables(report):
    """All CPU, and the part of it outside of the kernel: that depends less on the machine."""
    for suffix, title in (("", "CPU"), ("_user", "of it outside of the kernel")):
        rows = {key + suffix: words for key, words in RATIOS.items() if report.values.get(key + suffix)}
        names = report.measured(*rows)
        others = [name for name in names if name != YARDSTICK]
        if YARDSTICK in names:
            cells = [
                [words, report.shown(key, YARDSTICK) + unit_of(key)[1], *(report.ratio(key, name) for name in others)]
                for key, words in rows.items()
            ]
            yield table([f"{title}, nginx = 1", "nginx itself", *labels(others)], cells)
        elif names:
            cells = [[f"{words},{unit_of(key)[1]}", *(report.shown(key, name) for name in names)] for key, words in rows.items()]
            yield table([title, *labels(names)], cells)


def neighbour_table(report):
    """An echo beside each kind of flood, and what of the flood is taken."""
    keys = [key for key in report.values if key.startswith(tuple(NEIGHBOUR))]
    names = report.measured(*keys)
    kinds = list(dict.fromkeys(key.partition(" ")[2] for key in keys))
    rows = [
        [words.format(kind), *(report.shown(f"{what} {kind}", name) for name in names)]
        for kind in kinds
        for what, words in NEIGHBOUR.items()
    ]
    if rows:
        yield table(["neighbour of a flood, one worker, over TLS", *labels(names)], rows)


def tables(source):
    """All that was measured: tables, and what is to be said about them."""
    report = Report(source)
    parts = list(cpu_tables(report))
    tunnels = f"{source['idle']:,} tunnels"
    titles = ((f"user memory (PSS), {tunnels}", MEMORY), (f"two threads or workers, {tunnels}", BALANCE), ("counted", COUNTS))
    for title, keys in titles:
        if names := report.measured(*keys):
            kept = {key: words for key, words in keys.items() if report.values.get(key)}
            rows = [[words, *(report.shown(key, name) for name in names)] for key, words in kept.items()]
            parts.append(table([title, *labels(names)], rows))
    if names := report.measured("latency_p50"):
        rows = [
            [f"added, {quantile}", report.shown(f"latency_{quantile}", Straight.name)]
            + [report.added(quantile, name) for name in names]
            for quantile in ("p50", "p99")
        ]
        head = ["latency at 5,000 messages a second over 200 tunnels, µs", "straight to the backend", *labels(names)]
        parts.append(table(head, rows))
    parts.extend(neighbour_table(report))
    if names := report.measured(*(f"flat_echo_{count}" for count in source["open"])):
        rows = []
        for what, words in (("flat_echo", "CPU of a 64 B echo, µs"), ("flat_bytes", "memory of each tunnel more, kB")):
            for count in source["open"][1:] if what == "flat_bytes" else source["open"]:
                rows.append([f"{words}, {count:,} open", *(report.shown(f"{what}_{count}", name) for name in names)])
        parts.append(table(["64 tunnels active", *labels(names)], rows))
    said = [f"- {PROXIES[name].label}: {'; '.join(words)}." for name, words in source["said"].items()]
    said += [f"- {PROXIES[name].label} was not installed, so it was not measured." for name in source["missing"]]
    said += [f"- {PROXIES[name].label} failed: {'; '.join(words)}." for name, words in source["failed"].items()]
    if source.get("counted_by"):
        said.append(f"- Instructions: `{source['counted_by']}`.")
    return "\n\n".join([*parts, *(["\n".join(said)] if said else [])])


def save(source):
    """Rewrites what stands between the two marks of the page, or appends it."""
    path = TOP / PAGE
    text = path.read_text()
    if BEGIN not in text:
        text = f"{text.rstrip()}\n\n{BEGIN}\n{END}\n"
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    path.write_text(f"{before}{BEGIN}\n{section(source)}\n{END}{after}")


def section(source):
    machine = source["machine"]
    measured = [name for name in PROXIES if name in source["versions"] and name != "sidegate-unix"]
    versions = ", ".join(f"{PROXIES[name].label} {source['versions'][name]}" for name in measured)
    busy = source["others"]
    noise = f" Others used {busy:.0%} of the machine meanwhile: ratios and counts hold, times and latencies don't." if busy > 0.05 else ""
    quick = " A quick look (`--quick`): no figures to go by." if source["quick"] else ""
    return f"""## Beside other proxies

`{source['command']}`, {source['date']}, {source['rounds']} turns in {source['seconds'] / 60:.0f} minutes on {machine['cores']} cores of {machine['cpu']}, Linux {machine['kernel']}, OpenSSL {machine['openssl']}: {versions}.{quick}{noise}
This section is written by that command (`--docs`); edit `benches/peers/page.py` instead.

The setup is the same for all: TLS 1.3 with AES-128-GCM, X25519 and a P-256 certificate, 1,001 admitted networks, a rate limit that is never reached, and no access log.
Sidegate has `SIDEGATE_LOG=info,sidegate::permitted=off`, and still writes its line for each tunnel that ends, counts, reads frames and pings.
For CPU and latency all of them run at the same time and take short turns, so that load on the machine affects all of them.
A cell is the median of the turns, with the minimum and the maximum, and a ratio is to nginx in the same turn.

- CPU: of all the proxy's processes, from the scheduler's own count; the part outside of the kernel by the clock's ticks.
  One thread or worker; proxy, backend and load share one CPU; 64 tunnels with one message in flight each, others for each size of a GB, or 64 lanes that connect.
  A connection is a TLS handshake, the upgrade, a Close in both directions, and the end.
- Memory: `smaps_rollup`'s PSS of all processes, two threads or workers, once the proxy is idle.
  The memory kept is read twelve seconds after the last connection has closed.
- Latency: a message is due every 200 µs, independent of the answers; its time counts from the moment it was due (no coordinated omission).
  Two threads or workers, no pinning: proxy, backend and load share the machine.
- Neighbour of a flood: one client floods over TLS, its backend reads all of it, and every 4 ms another tunnel has an echo.
  One thread or worker, no pinning.
  The flood's throughput includes the headers of frames.
  Sidegate's `frames`, which would end such a client, is off.
- Every byte of an answer is compared with the sent one; the backend's counts of connections and messages must equal the load's; protocol, suite, group and resumption are read from each TLS handshake; an address that is not listed must be refused.

{tables(source)}"""
