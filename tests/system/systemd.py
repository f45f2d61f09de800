"""Actions of operators and failures under systemd, in a Debian, installed as docs/operations.md says.

Live WebSocket clients count the effect of each. The commands below the document's headings are run unchanged, so that the
document itself is tested.
"""

import collections
import contextlib
import hashlib
import re
import socket
import sys
import time
from pathlib import Path

from debian import Debian, alone
from debugger import PLACE, Trap
from harness import Authority, Place, await_that, echo_backend, figure, need, note
from host import ACTIVATED, ATTEMPT, PORT, TUNNELS, Connecting, Host, attempt, ends
from mirror import PING, connect, masked

UNITS = ("sidegate.service", "sidegate@.service", "sidegate.socket")
CONFIG, POLICY = "/etc/sidegate/sidegate.toml", "/etc/sidegate/policies/main.toml"
AFAR = "192.0.2.1"  # an address of this host that isn't `localhost`: for IPAddressDeny= it stands for the network
STOP = 15  # seconds that a stop may take at most: [shutdown] spread is 5 s, clients answer at once
WATCHDOG = 3  # seconds, instead of the unit's 30: it holds through all of this, and fires only where it is meant to
PATIENCE = 2  # seconds that a stop has, instead of the unit's 45: less than a drain takes, so Sidegate has to ask for more
SPREAD = 5.0  # [shutdown] spread, as it is without being set
COMING = 100  # clients a second that connect through a restart, whether or not the former have been served
GROUND = [f"127.0.0.{last}" for last in range(2, 18)]  # where they come from: a client may only have so many that wait
JUDGING = "sidegate::snapshot::judge::<impl .*Snapshot>::judge_by"  # called for each request, by its connection's task
CONTROL = "sidegate::data::websocket::frame::Scanner::begin"  # for a control frame at the front of a read, by its tunnel
RESTART = 1.0  # seconds from a SIGKILL to a client that is served, on a quiet machine; three times as much is let pass here


# --- what an operator does --------------------------------------------------------------------------------------------


def installed(host):
    """As the document says; systemd finds nothing to complain of in the units."""
    debian = host.debian
    shorter = f"[Service]\nWatchdogSec={WATCHDOG}\nTimeoutStopSec={PATIENCE}\n"
    debian.write("/etc/systemd/system/sidegate.service.d/suite.conf", shorter)
    began = time.monotonic()
    host.type("The unit")
    took = time.monotonic() - began
    said = debian.run("systemd-analyze", "verify", *(f"systemd/{name}" for name in UNITS))
    need(not said, f"systemd-analyze verify is silent:\n{said}")
    unit = host.unit()
    need(unit["ActiveState"] == "active", f"`systemctl enable --now` returns once it serves: {unit['SubState']}")
    owner = debian.run("stat", "--format=%U:%G %a", "/etc/sidegate/certs/dev.key").strip()
    need(owner == "root:sidegate 640", f"the key is root's, for the group to read: {owner}")
    user = debian.run("stat", "--format=%U:%G", f"/proc/{unit['MainPID']}").strip()
    need(user == "sidegate:sidegate", f"it runs as {user}")
    need(host.served(), "a client is served")
    # All clients of this suite come from one address.
    written = debian.read(POLICY)
    need('"5/s", burst = 50' in written and "per_client = 100" in written, "what `init` writes limits a client")
    debian.write(POLICY, written.replace('"5/s", burst = 50', '"5000/s", burst = 5000').replace("per_client = 100", "per_client = 5000"))
    debian.run("systemctl", "restart", "sidegate")
    figure(f"installed, checked and started in {took:.1f} s")


def hardened(host, threshold):
    """`systemd-analyze security` finds no more exposure than promised."""
    arguments = ("--offline=true", "--no-pager", "sidegate.service")
    said = host.debian.run("systemd-analyze", "security", f"--threshold={round(threshold * 10)}", *arguments)
    return said.strip().rsplit("level for sidegate.service: ", 1)[1].split()[0]


def explained(host):
    """Only permitted users get the status; the metrics are served, those of the process included."""
    debian = host.debian
    shown = re.search(r'Status: "(generation 1 .*)"', debian.run("systemctl", "status", "sidegate"))
    need(shown, "`systemctl status` says what runs")
    note(f"status: {shown[1]}")
    said = debian.run("sidegate", "status")
    need(re.search(r"generation +1\b", said), f"`sidegate status` finds the service without being told where it is:\n{said}")
    need(host.metric("sidegate_generation") == 1, "the metrics are reachable")
    started = host.metric("process_start_time_seconds")
    need(started and abs(time.time() - started) < 120, f"the process knows when it started: {started}")
    for name in ("process_resident_memory_bytes", "process_open_fds", "process_cpu_seconds_total"):
        need(host.metric(name), f"{name} can be read inside the sandbox")
    for verb in ("status", "reload", "drain"):
        refused = debian.run("runuser", "-u", "nobody", "--", "sidegate", verb, code=1)
        need("permission denied" in refused, f"not everybody may ask for {verb}:\n{refused}")


def misspelt(policy):
    """A policy with an unknown key; `init` aligns the signs of a table."""
    broken, count = re.subn("^allow( *=)", r"alow\1", policy, count=1, flags=re.M)
    need(count == 1, f"the policy says `allow =`:\n{policy}")
    return broken


def reloaded(host):
    """`systemctl reload` takes up good files and fails over broken ones; neither disturbs a tunnel."""
    debian, pump = host.debian, host.clients()
    good = debian.read(POLICY)
    debian.write(POLICY, good.replace("[limits]", "[limits]\nlifetime = \"23h\"", 1))
    debian.run("systemctl", "reload", "sidegate")
    need(host.metric("sidegate_generation") == 2, "`systemctl reload` returns when the new generation runs")
    since = debian.cursor()
    broken = misspelt(good)
    line = 1 + broken[: broken.index("alow")].count("\n")
    debian.write(POLICY, broken)
    debian.run("systemctl", "reload", "sidegate", code=1)
    host.said(since, f"policies/main.toml:{line}:1")
    need(f"policies/main.toml:{line}" in debian.ask("systemctl", "status", "--lines=50", "sidegate").stdout, "`status` says why")
    unit = host.unit()
    need(unit["ActiveState"] == "active" and host.metric("sidegate_generation") == 2, f"what ran runs on: {unit['SubState']}")
    await_that("the sentence says that the files are not what runs", lambda: "rejected" in host.sentence(), 5)
    debian.write(POLICY, good)
    debian.run("systemctl", "reload", "sidegate")
    await_that("a good file clears it", lambda: "rejected" not in host.sentence(), 5)
    stats = pump.ask(do="rest")
    lost = (stats["dropped"], stats["corrupted"], TUNNELS - stats["open"])
    need(lost == (0, 0, 0), f"no reload costs a tunnel: {stats}")
    pump.ask(do="close")
    figure(f"reload good, broken (exit 1, says policies/main.toml:{line}), good: {TUNNELS} tunnels, 0 lost")


def upgraded(host):
    """A new process takes over, and systemd follows it. Its crash ends the tunnels of both, and the service is there again."""
    debian, pump = host.debian, host.clients()
    pids = [host.unit()["MainPID"]]
    restarts = host.unit()["NRestarts"]
    for _ in range(2):
        said = debian.run("sidegate", "upgrade")
        need("systemd knows the new main process" in said, said)
        unit = await_that("systemd follows", lambda: host.unit()["MainPID"] not in pids and host.runs(), 5, every=0.05)
        pids.append(unit["MainPID"])
    text = await_that("the new process reports", lambda: "generation" in host.sentence() and host.sentence(), 5)
    # Longer than the watchdog's interval: it is the new process that feeds it.
    time.sleep(WATCHDOG * 1.5)
    unit = host.unit()
    need((unit["MainPID"], unit["NRestarts"]) == (pids[-1], restarts), f"the watchdog is fed: {unit['SubState']}")
    debian.run("systemctl", "reload", "sidegate")
    need(host.metric("sidegate_tunnels_draining") == TUNNELS, "the metrics say what the first process keeps")
    stats = pump.ask(do="rest")
    lost = (stats["dropped"], stats["corrupted"], TUNNELS - stats["open"])
    need(lost == (0, 0, 0), f"no upgrade costs a tunnel: {stats}")
    began = time.monotonic()
    debian.run("systemctl", "kill", "--kill-whom=main", "--signal=KILL", "sidegate")
    closes = ends(pump)
    await_that("the service is there again", host.served, 20, every=0.05)
    took = time.monotonic() - began
    need(all(why.startswith("1001") for why in closes), f"systemd's SIGTERM drains the first process: {closes}")
    need(took < 3 * RESTART, f"the former process does not hold the restart up: {took:.2f} s")
    pump.ask(do="close")
    figure(f"2 upgrades: {TUNNELS} tunnels, 0 lost, MainPID follows; after a crash of the newest 1001, served again after {took:.2f} s; {text}")


def renewed(host):
    """certbot's hook of the document: a renewed certificate is served without anybody asking."""
    debian, authority = host.debian, Authority(host.place)
    host.type("Certificates")
    lineage = debian.root / "root/lineage"
    lineage.mkdir()

    def renew(name):
        """What certbot does: a new pair, the key for root alone, then its hooks."""
        chain, dash, key = authority.issue(name).read_text().partition("-----BEGIN PRIVATE KEY-----")
        (lineage / "fullchain.pem").write_text(chain)
        (lineage / "privkey.pem").write_text(dash + key)
        (lineage / "privkey.pem").chmod(0o600)
        debian.run("env", "RENEWED_LINEAGE=/root/lineage", "run-parts", "--exit-on-error", "/etc/letsencrypt/renewal-hooks/deploy")

    def served():
        wire = connect(PORT, authority.ca)
        with wire.connection as secured:
            return hashlib.sha256(secured.getpeercert(binary_form=True)).hexdigest()

    renew("first")
    key = debian.run("stat", "--format=%U:%G %a", "/etc/sidegate/certs/ws.example.com.key").strip()
    need(key == "root:sidegate 640", f"the hook leaves the key for the group to read: {key}")
    before = debian.read(CONFIG)
    debian.write(CONFIG, before.replace("certs/dev.", "certs/ws.example.com."))
    debian.run("systemctl", "reload", "sidegate")
    first = served()
    renew("second")
    await_that("the renewed certificate is served", lambda: served() != first, 10)
    debian.write(CONFIG, before)
    debian.run("systemctl", "reload", "sidegate")
    figure("a certificate renewed by certbot's hook is served")


# --- what goes wrong --------------------------------------------------------------------------------------------------


def hung(host):
    """Stopped for longer than the watchdog waits, it is ended and started again."""
    pump, since, before = host.clients(), host.debian.cursor(), host.runs()
    host.debian.run("systemctl", "kill", "--kill-whom=main", "--signal=STOP", "sidegate")
    began = time.monotonic()
    again = await_that("the watchdog ends it, and it is back", lambda: restarted(host, before), 4 * WATCHDOG, every=0.05)
    took = time.monotonic() - began
    host.said(since, "Watchdog timeout")
    lost = sum(ends(pump).values())
    need(host.served(), f"process {again['MainPID']} serves")
    figure(f"SIGSTOP: back after {took:.1f} s (WatchdogSec={WATCHDOG}), {lost} of {TUNNELS} tunnels lost with the process")


def restarted(host, before):
    """What systemd says about the unit, once another process than `before` runs in it; one more restart is counted."""
    unit = host.runs()
    if unit and unit["MainPID"] != before["MainPID"]:
        need(int(unit["NRestarts"]) == int(before["NRestarts"]) + 1, f"one restart: {unit['NRestarts']}")
        return unit


def killed(host):
    """F19: SIGKILL without socket activation: back soon, but who connects meanwhile is refused."""
    before = host.runs()
    host.debian.run("systemctl", "kill", "--kill-whom=main", "--signal=KILL", "sidegate")
    began = time.monotonic()
    await_that("a client is served again", lambda: host.served(), 10)
    took = time.monotonic() - began
    need(restarted(host, before), "one restart")
    figure(f"SIGKILL: serves again after {took:.2f} s")


def panicked(host):
    """A bug of Sidegate's ends the connection that met it, tunnel or not: the process and all others go on."""
    debian, pump, before = host.debian, host.clients(), host.runs()
    process = seen_from_here(int(before["MainPID"]))
    for bugs, (where, is_tunnel) in enumerate([(JUDGING, False), (CONTROL, True)], 1):
        since, wire = debian.cursor(), connect(PORT, host.ca)
        if is_tunnel:
            wire.send(ATTEMPT)
            need(" 101 " in wire.head()[0], "a tunnel opens")
        trap = Trap(host.place, process, where)
        wire.send(masked(PING, b"now") if is_tunnel else ATTEMPT)
        trap.sprung()
        with wire.connection:
            need(wire.rest() == b"", "the connection that met it just ends")
        met = host.said(since, "panicked")[0]
        need((met.get("PLACE"), met["PRIORITY"]) == (f"{PLACE}:1:1", "3"), f"the journal says where, as an error: {met}")
        need(met.get("THREAD", "").startswith("data-"), f"and on which thread: {met}")
        need(host.metric("sidegate_panics_total") == bugs, "it is counted")
        need(host.metric("sidegate_connections_closed_total", reason="panic") == bugs, "as that connection's end, too")
        closed = [one for one in host.journal(since) if one.get("REASON") == "panic"]
        need(len(closed) == 1, f"the end of the request, or of the tunnel, has its entry: {closed}")
        echoed = pump.ask(do="stats")["echoed"]
        await_that("the others go on", lambda: pump.ask(do="stats")["echoed"] > echoed + 3 * TUNNELS, 10, every=0.1)
        need(host.served(), "a new client is served")
    need(host.metric("sidegate_tunnels_closed_total", reason="panic") == 1, "the tunnel's end is counted")
    stats, unit = pump.ask(do="rest"), host.runs()
    lost = (stats["dropped"], stats["corrupted"], TUNNELS - stats["open"])
    need(lost == (0, 0, 0), f"no other tunnel notices: {stats}")
    same = [unit[name] == before[name] for name in ("MainPID", "NRestarts")]
    need(all(same), f"the process is the same: {before['MainPID']} {unit['MainPID']}")
    said = debian.run("sidegate", "status")
    need(f"{bugs} connections were ended by a bug" in said, f"`sidegate status` says so:\n{said}")
    pump.ask(do="close")
    figure(f"{bugs} panics, before a tunnel and in one: {bugs} connections ended, {TUNNELS} tunnels and the process unharmed")


def seen_from_here(pid):
    """The process id, in the suite's namespace, of a process of the Debian."""
    for status in Path("/proc").glob("[0-9]*/status"):
        with contextlib.suppress(OSError):
            fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
            if fields["Name"].strip() == "sidegate" and fields["NSpid"].split()[-1] == str(pid):
                return int(status.parent.name)
    need(False, f"process {pid} of the Debian is seen from here")


def wrong(host):
    """A wrong file at the start: exit 78, `failed`, and no further try."""
    debian, since, good = host.debian, host.debian.cursor(), host.debian.read(POLICY)
    pump = host.clients()
    debian.write(POLICY, misspelt(good))
    debian.run("systemctl", "restart", "sidegate", code=1)
    unit = host.unit()
    state = (unit["ActiveState"], unit["SubState"], unit["ExecMainStatus"], unit["NRestarts"])
    # A unit that is going to be tried again is `activating`, never `failed`.
    need(state == ("failed", "failed", "78", "0"), f"exit 78 stays down: {state}")
    host.said(since, "policies/main.toml:")
    starts = [one for one in host.journal(since) if one["MESSAGE"].startswith("Starting ")]
    need(len(starts) == 1, f"one try: {len(starts)}")
    closes = ends(pump)
    need(all(why.startswith("1001") for why in closes), f"the restart drained what was open before: {closes}")
    debian.write(POLICY, good)
    debian.run("systemctl", "start", "sidegate")
    figure("exit 78: failed at once, 1 try")


def taken(host):
    """A port that is taken: exit 75, again and again, until it is free."""
    debian, since = host.debian, host.debian.cursor()
    debian.run("systemctl", "stop", "sidegate")
    with socket.create_server(("127.0.0.1", PORT)):
        debian.run("systemctl", "start", "--no-block", "sidegate")
        tried = await_that("it is tried again and again", lambda: int(host.unit()["NRestarts"]) >= 3 and host.unit(), 20, every=0.1)
        need(tried["ActiveState"] == "activating", f"and not given up: {tried['ActiveState']}")
        host.said(since, f"127.0.0.1:{PORT}")
        exits = {one["EXIT_STATUS"] for one in host.journal(since) if "Main process exited" in one["MESSAGE"]}
        need(exits == {"75"}, f"each try ended with 75: {exits}")
    began = time.monotonic()
    await_that("it serves as soon as the port is free", host.served, 10)
    took = time.monotonic() - began
    figure(f"exit 75: {tried['NRestarts']} tries while the port was taken, serving {took:.1f} s after it was free")


# --- socket activation ------------------------------------------------------------------------------------------------


def activated(host):
    """F19, as the document says: systemd holds the port, so no client is refused while Sidegate is killed or restarted."""
    debian = host.debian
    host.type("Socket activation")
    process = debian.run("cat", f"/proc/{host.runs()['MainPID']}/status")
    left = [line for line in process.splitlines() if line.startswith("Cap") and line.split()[1].strip("0")]
    need(not left, f"no capability is left: {left}")
    outside = attempt(ACTIVATED, host.ca, AFAR)
    need(outside == "403", f"clients of other hosts reach it, and the policy decides: {outside}")
    pump, since = host.clients(ACTIVATED), debian.cursor()
    with Connecting(host) as clients:
        took = [survive(host, clients) for _ in range(3)]
    became, lost = clients.became, sum(ends(pump).values())
    need(became["refused"] == 0, f"no client is refused: {dict(became)}")
    need(set(became) <= {"served", "cut"}, f"each is served, unless it was inside the killed process: {dict(became)}")
    figure(
        f"socket activation: 3 SIGKILLs, {became['served']} connects served, 0 refused, {became['cut']} cut with the process; "
        f"serves again after {max(took):.2f} s at most; {lost} tunnels lost with it"
    )
    note(f"promised on a quiet machine: {RESTART} s")
    need(max(took) <= 3 * RESTART, f"it is back soon: {took}")


def swapped(host):
    """`systemctl restart` refuses no client: new ones wait, and open ones get a Close and reconnect."""
    pump, visitors, before = host.clients(ACTIVATED), host.pump(ACTIVATED), host.runs()
    pump.ask(do="return")
    visitors.ask(do="come", rate=COMING, **{"from": GROUND})
    began = time.monotonic()
    host.debian.run("systemctl", "restart", "sidegate")
    took = time.monotonic() - began
    again = host.runs()
    need(again and again["MainPID"] != before["MainPID"], "another process runs")
    need(host.served(ACTIVATED), "and serves")
    came = visitors.ask(do="came")
    await_that("all who were told to go are back", lambda: pump.ask(do="stats")["returned"] >= TUNNELS, 20, every=0.1)
    stats = pump.ask(do="stats")
    closes, shut_out = stats["closes"], stats["shut_out"]
    need(sum(closes.values()) == TUNNELS, f"each was told once: {closes}")
    need(all(why.startswith("1001") for why in closes), f"1001 to all who were in: {closes}")
    need((stats["returned"], stats["open"], shut_out) == (TUNNELS, TUNNELS, {}), f"all come back at the first try: {stats}")
    lasted = (stats["ended"]["last"] - stats["ended"]["first"]) / 1e3
    need(SPREAD / 2 < lasted < SPREAD + 1, f"they were told over [shutdown] spread, {SPREAD} s: {lasted:.1f} s")
    became = came["became"]
    need(sum(became.values()) == came["begun"] >= COMING * took, f"they came all the time: {came}")
    # Who was inside as the drain began was told so: 503 before the tunnel, 1001 in it.
    told = sum(count for why, count in became.items() if why == "503" or why.startswith("1001"))
    need(became["served"] + told == came["begun"], f"a restart refuses and cuts no client: {became}")
    need(told <= COMING / 4, f"few were inside as it began: {became}")
    pump.ask(do="rest")
    pump.ask(do="close")
    figure(
        f"`systemctl restart` in {took:.1f} s: {became['served']} served of {COMING} that came each second, 0 refused, {told} told to "
        f"come back, longest wait {came['longest'] / 1e3:.1f} s; {TUNNELS} tunnels told 1001 over {lasted:.1f} s, all back"
    )


def survive(host, clients):
    """Seconds from a SIGKILL until a client has been served that came after it."""
    before, began = host.runs(), time.monotonic()
    host.debian.run("systemctl", "kill", "--kill-whom=main", "--signal=KILL", "sidegate")
    clients.served_since(time.monotonic())
    took = time.monotonic() - began
    await_that("one restart", lambda: restarted(host, before), 10, every=0.05)
    return took


def more_sockets(host):
    """As the document says: metrics and admin socket from systemd, too; commands find the one, Prometheus the other."""
    debian = host.debian
    host.type("More sockets")
    need(host.metric("sidegate_generation") == 1, "the metrics are asked at systemd's socket")
    debian.run("systemctl", "reload", "sidegate")
    owner = debian.run("stat", "--format=%U:%G %a", "/run/sidegate-admin.sock").strip()
    need(owner == "sidegate:adm 660", f"the admin socket is as its unit says: {owner}")
    debian.run("systemctl", "restart", "sidegate")
    debian.run("systemctl", "reload", "sidegate")
    need(host.served(ACTIVATED), "a client is served")


# --- the end ----------------------------------------------------------------------------------------------------------


def journalled(host, since):
    """What the journal holds can be asked for by field: who was refused and why, and how tunnels ended."""
    entries = host.journal(since)
    refused = [one for one in entries if one.get("REASON") == "network" and one.get("CLIENT") == AFAR]
    need(refused, f"the client from {AFAR} was refused")
    fields = ("PRIORITY", "ROUTE", "POLICY", "RULE", "REQUEST_ID", "GENERATION", "LISTENER")
    missing = [name for name in fields if not refused[0].get(name)]
    need(not missing, f"a refusal says {missing}, too: {refused[0]}")
    ended = collections.Counter(one["REASON"] for one in entries if one.get("MESSAGES_FROM_CLIENT") and one.get("REASON"))
    need(ended["drain"] >= TUNNELS, f"each tunnel's end has an entry: {dict(ended)}")
    rejected = [one for one in entries if one["MESSAGE"].startswith("rejected: ") and one.get("GENERATION")]
    need(rejected and int(rejected[0]["PRIORITY"]) <= 4, f"a rejected reload is a warning at least: {rejected}")
    reasons = ", ".join(f"{why} {count}" for why, count in sorted(ended.items()))
    figure(f"journal: {len(entries)} entries; tunnels ended by {reasons}")


def drained(host):
    """`systemctl stop` drains: 1001 to every client, exit 0, and systemd saw it happen."""
    debian, pump, since = host.debian, host.clients(), host.debian.cursor()
    began = time.monotonic()
    debian.run("systemctl", "stop", "--no-block", "sidegate")
    text = await_that("the sentence says that it drains", lambda: draining(host), 5)
    closes = ends(pump)
    need(all(why.startswith("1001") for why in closes), f"1001 to every client: {closes}")
    unit = await_that("it has stopped", lambda: stopped(host), 10, every=0.05)
    took = time.monotonic() - began
    need((unit["Result"], unit["ExecMainStatus"]) == ("success", "0"), f"exit 0: {unit['Result']} {unit['ExecMainStatus']}")
    host.said(since, "Deactivated successfully")
    need("drained" in debian.ask("systemctl", "status", "sidegate").stdout, "`systemctl status` says how it ended")
    need(took < STOP, f"it is down in time: {took:.1f} s")
    figure(f"stop: {TUNNELS} tunnels closed with 1001, exit 0 after {took:.1f} s; it said: {text}")


def draining(host):
    text = host.sentence()
    return "drain" in text and text


def stopped(host):
    unit = host.unit()
    return unit["ActiveState"] == "inactive" and unit


def instance(host):
    """One instance per backend, each with its files, its sockets and its commands."""
    echo_backend(host.place, kind="websockets", port=8081)
    host.type("One instance per backend")
    ca = host.debian.root / "etc/sidegate/ticks/certs/dev.pem"
    need(attempt(8444, ca) == "served", "the instance serves its own backend")
    said = host.debian.run("sidegate", "reload", "--wait", "--config", "/etc/sidegate/ticks/sidegate.toml")
    need("unchanged" in said, f"its commands find it: {said}")
    host.debian.run("systemctl", "stop", "sidegate@ticks")


def main():
    alone(AFAR)
    with Place() as place, Debian(place) as debian:
        host = Host(place, debian)
        began = debian.cursor()
        installed(host)
        exposure = hardened(host, 1.5)
        explained(host)
        reloaded(host)
        upgraded(host)
        renewed(host)
        hung(host)
        killed(host)
        panicked(host)
        wrong(host)
        taken(host)
        instance(host)
        drained(host)
        activated(host)
        swapped(host)
        more_sockets(host)
        journalled(host, began)
        figure(f"exposure {exposure}, with socket activation {hardened(host, 1.2)}")


if __name__ == "__main__":
    sys.exit(main())
