"""nginx and the output of `sidegate import nginx` for its configuration, side by side in front of one backend.

For each configuration in `import/` a few hundred attempts (client, host, path) go to both: either both open the WebSocket
or both refuse it, except for the differences in the report. Lines `# host`, `# path`, `# burst` and `# hold` in a
configuration add attempts to those that follow from its own names, and `# field` fields of which some attempts have one.
"""

import concurrent.futures
import contextlib
import http.client
import ipaddress
import itertools
import json
import os
import random
import re
import shutil
import socket
import ssl
import sys
import threading
import urllib.parse
from dataclasses import dataclass

from harness import HERE, SIDEGATE, Authority, Place, await_that, figure, free_port, need, note, run
from mirror import Ended, Wire, values

FOLDER = HERE / "import"
WANTED = 200  # attempts that have to end alike, for each configuration
KEY = "dGhlIHNhbXBsZSBub25jZQ=="
UPGRADE = f"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n"
PLAIN = "Connection: close\r\n"
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
UNIX, SOCKET = "unix", "public.sock"
ANY_NAME = ssl.create_default_context()
ANY_NAME.check_hostname, ANY_NAME.verify_mode = False, ssl.CERT_NONE

TEMPORARY = "".join(
    f"{kind}_temp_path {{dir}}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
)


class Backend:
    """Opens every valid WebSocket, and refuses all other requests; reports the requested path."""

    def __init__(self, listener):
        self.listener = listener
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.listener.accept()
                threading.Thread(target=self.serve, args=(Wire(connection),), daemon=True).start()

    def serve(self, wire):
        with wire.connection, contextlib.suppress(Ended, OSError):
            start, fields = wire.head()
            upgrade = [value.lower() for name in ("upgrade", "connection") for value in values(fields, name)]
            opens = start.endswith("HTTP/1.1") and upgrade == ["websocket", "upgrade"]
            seen = f"X-Path: {start.split()[1]}\r\n"
            if not opens:
                return wire.send(f"HTTP/1.1 426 Upgrade Required\r\n{seen}Content-Length: 0\r\nConnection: close\r\n\r\n".encode())
            answer = f"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {ACCEPT}\r\n"
            wire.send(f"HTTP/1.1 101 Switching Protocols\r\n{answer}{seen}\r\n".encode())
            wire.rest()


@dataclass(frozen=True)
class Probe:
    """One attempt: from this client, to this socket of the configuration, for this host and path."""

    client: str
    listen: tuple
    host: str
    path: str
    field: str = ""
    proxied: str = ""


@dataclass
class Answer:
    opens: bool
    path: str = ""
    connection: socket.socket = None
    status: int = 0
    to: str = ""

    def adds_slash(self, probe):
        """Whether it sends the client to the same path with a slash behind it."""
        to = urllib.parse.unquote(urllib.parse.urlsplit(self.to).path)
        return 300 < self.status < 400 and to == canonical(probe.path) + "/"

    def end(self):
        """Ends the tunnel, and waits until it is over."""
        with contextlib.suppress(OSError), self.connection:
            if not isinstance(self.connection, ssl.SSLSocket):
                self.connection.shutdown(socket.SHUT_WR)
                Wire(self.connection).rest()


def connected(probe, ports):
    address, written = probe.listen
    if address != UNIX:
        return socket.create_connection((address, ports[written]), 10, source_address=(probe.client, 0))
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(10)
    connection.connect(ports[written])
    return connection


def attempt(probe, ports, tls, keep=False, upgrade=UPGRADE):
    connection = None
    try:
        connection = connected(probe, ports)
        connection.sendall(probe.proxied.encode())
        if tls:
            connection = ANY_NAME.wrap_socket(connection, server_hostname=probe.host.split(":")[0].rstrip("."))
        connection.sendall(f"GET {probe.path} HTTP/1.1\r\nHost: {probe.host}\r\n{upgrade}{probe.field}\r\n".encode())
        start, fields = Wire(connection).head()
    except (OSError, Ended, http.client.HTTPException):
        if connection:
            connection.close()
        return Answer(False)
    path, to = ((values(fields, name) or [""])[0] for name in ("x-path", "location"))
    status = int(start.split()[1])
    answer = Answer(status == 101, path, connection, status, to)
    if not keep or not answer.opens:
        answer.end()
    return answer


class Subject:
    """One configuration: its text, the names in it, and the attempts to make."""

    def __init__(self, path, backends):
        self.name, self.text, self.backends = path.stem, path.read_text(), backends
        every = "\n".join([self.text, *(other.read_text() for other in FOLDER.rglob("*.conf") if other.parent != FOLDER)])
        self.all_text = every if self.name == "includes" else self.text
        self.listens = {}
        for address, port, more in re.findall(r"listen (127\.0\.0\.1|\[::1\]):(\d+)([^;]*);", self.all_text):
            self.listens.setdefault((address.strip("[]"), int(port)), set()).update(more.split())
        for more in re.findall(rf"listen unix:{SOCKET}([^;]*);", self.all_text):
            self.listens.setdefault((UNIX, SOCKET), set()).update(more.split())
        self.random = random.Random(self.name)

    def told(self, word):
        return [line.split()[2:] for line in self.text.splitlines() if line.startswith(f"# {word} ")]

    def ports(self):
        """Where each socket of the configuration is; the path of a Unix socket follows from the folder."""
        return {port: free_port() for address, port in self.listens if address != UNIX}

    def place(self, folder, ports):
        """Its files with other ports, in `folder`."""

        def other(match):
            port = int(match[2])
            return f"{match[1]}:{ports.get(port) or self.backends.get(port) or port}"

        shutil.copytree(FOLDER, folder)
        if (UNIX, SOCKET) in self.listens:
            ports[SOCKET] = str(folder / SOCKET)
        for path in folder.rglob("*.conf"):
            text = re.sub(r"(127\.0\.0\.1|localhost|\[::1\]):(\d+)", other, path.read_text())
            text = text.replace(f"unix:{SOCKET}", f"unix:{folder / SOCKET}")
            path.write_text(text.replace("unix:backend.sock", f"unix:{self.backends['socket']}"))
        (folder / "users").write_text("")
        return folder / f"{self.name}.conf"

    def clients(self):
        """Addresses in, around and apart from all networks that it names."""
        named = re.findall(r"(?:allow|deny)\s+(127[0-9.]+(?:/\d+)?);", self.all_text)
        some = [ipaddress.ip_address(0x7F000000 + self.random.randrange(2, 1 << 24)) for _ in range(20)]
        for network in [ipaddress.ip_network(text, strict=False) for text in named] * 2:
            first, last = int(network[0]), int(network[-1])
            edges = [first - 1, first, first + 1, last - 1, last, last + 1]
            some += map(ipaddress.ip_address, [*edges, *(self.random.randrange(first, last + 1) for _ in range(6))])
        loopback = ipaddress.ip_network("127.0.0.0/8")
        return [str(client) for client in some if client in loopback and client not in (loopback[0], loopback[-1])]

    def hosts(self, report):
        hosts = {"other.example.net", *(host for (host,) in self.told("host"))}
        for host in {host for config in report["configs"] for host in config["hosts"]}:
            hosts |= {"unknown.example.com"} if host == "_" else {host.replace("*", "some"), host.replace("*", "deep.er")}
        written = re.findall(r"(?<![$])server_name ([^;]+);", self.all_text)
        named = [name for names in written for name in names.split() if name[0].isalnum() and "*" not in name]
        return [*hosts, *named, *named, *(odd for host in named[:1] for odd in (host.upper(), f"{host}.", f"{host}:8443"))]

    def paths(self):
        paths = {"/", "/other", "/other/deep", *(path for (path,) in self.told("path"))}
        for sign, path in re.findall(r'location (=|\^~|~\*|~)? ?("[^"]+"|[^ {]+)', self.all_text):
            path = path.strip('"').lstrip("^").replace("\\", "").replace(".*", "").rstrip("$")
            if sign.startswith("~") and not path.startswith("/") or path.startswith("@"):
                continue
            path = urllib.parse.quote(path, safe="/:@!$&'()*+,;=~.-_[]")
            bare = path.rstrip("/")
            paths |= {path, f"{path}x", f"{bare}/x", f"{bare}/x/y", bare or "/", f"{bare}x/y", f"{bare}/"}
            paths |= {f"/.{path}", f"/{path}", f"/x/..{path}", path.replace("a", "%61"), f"{path}?a=/b"}
        return sorted(paths)

    def probes(self, report):
        """Attempts without end; no client comes twice where clients are counted."""
        clients, hosts, paths = self.clients(), self.hosts(report), self.paths()
        fields = ["", *(f"{name} {' '.join(values)}\r\n" for name, *values in self.told("field"))]
        once, seen = "limit_" in self.all_text, set()
        while True:
            listen = self.random.choice(list(self.listens))
            client = "::1" if ":" in listen[0] else self.random.choice(clients)
            if once and client in seen:
                network = ipaddress.ip_network(f"{client}/16", strict=False)
                client = str(network[self.random.randrange(2, 65534)])
            if once and client in seen:
                continue
            seen.add(client)
            field, proxied = self.random.choice(fields), ""
            if "proxy_protocol" in self.listens[listen] and self.random.random() < 0.9:
                proxied = f"PROXY TCP4 {self.random.choice(clients)} 127.0.0.1 4000 80\r\n"
            yield Probe(client, listen, self.random.choice(hosts), self.random.choice(paths), field, proxied)


class Report:
    """What the importer said, and whether an attempt is among what it said to differ."""

    def __init__(self, answer):
        self.configs = answer["configs"]
        notes = [note for line in answer["lines"] for note in line["notes"]]
        self.scopes = [(note["word"], scope) for note in notes for scope in note["attempts"]]

    def words(self, probe, port):
        """The words under which this attempt, at Sidegate's `port`, may end otherwise."""
        host = probe.host.split(":")[0].rstrip(".").lower()
        path = canonical(probe.path)
        here = [number for number, config in enumerate(self.configs) if is_at(config, port)]
        scopes = [(word, scope) for word, scope in self.scopes if scope["config"] in (None, *here)]
        return {word for word, scope in scopes if self.is_host(scope, host) and in_scope(scope, path)}

    def is_host(self, scope, host):
        if scope["host"] == "_":
            return not any(is_name(name, host) for name in self.configs[scope["config"]]["hosts"])
        return scope["host"] == "*" or is_name(scope["host"], host)


def is_at(config, port):
    return any(listen.endswith(f":{port}") for listen in config["listen"])


def is_name(name, host):
    """As nginx compares a `server_name`."""
    if name.startswith("~"):
        return bool(re.search(name[1:].replace("(?<", "(?P<"), host))
    if name.startswith("*."):
        return host.endswith(name[1:])
    return host.startswith(name[:-1]) if name.endswith(".*") else host == name


def in_scope(scope, path):
    return is_location(scope["path"], path) and not any(is_location(but, path) for but in scope["but"])


def is_location(location, path):
    sign, _, rest = location.partition(" ")
    if sign == "=":
        return path == rest
    if sign in ("~", "~*"):
        return bool(re.search(rest, path, re.I if sign == "~*" else 0))
    return path.startswith(location)


def canonical(path):
    """As nginx sees a path: decoded, without empty and dot segments."""
    path = urllib.parse.unquote(path.partition("?")[0])
    kept = []
    for segment in path.split("/")[1:]:
        if segment == "..":
            kept = kept[:-1]
        elif segment not in ("", "."):
            kept.append(segment)
    ends = path.endswith(("/", "/.", "/.."))
    return "/" + "/".join(kept) + ("/" if ends and kept else "")


def start_nginx(place, subject, config, ports):
    text = config.read_text()
    config.write_text(text.replace("http {", "http { access_log off; " + TEMPORARY.format(dir=place.dir), 1))
    main = f"daemon off; user root; worker_processes 1; worker_rlimit_nofile 8192; pid {place.dir}/nginx.pid; error_log stderr;"
    process = place.start("nginx", "nginx", "-p", config.parent, "-c", config, "-e", "stderr", "-g", main)
    await_that(f"nginx listens for {subject.name}", lambda: process.alive() and all_listen(ports.values()))


def start_sidegate(place, subject, configs):
    processes = []
    listens = [listen for config in configs for listen in config["listen"]]
    ports = [listen[5:] if listen.startswith("unix:") else int(listen.rpartition(":")[2]) for listen in listens]
    for number, config in enumerate(config["file"] for config in configs):
        text = open(config).read()
        text = text.split("[metrics]")[0] + text.split("[metrics]")[-1].partition("\n\n")[2] if "[metrics]" in text else text
        off = 'schema = 1\n[metrics]\nlisten = "off"\n[admin]\nsocket = "off"\n'
        with open(config, "w") as file:
            file.write(text.replace("schema = 1\n", off, 1))
        processes.append(place.start(f"sidegate-{number}", SIDEGATE, "run", "--config", config, "--log", "json"))
    alive = lambda: all(process.alive() for process in processes)
    await_that(f"Sidegate listens for {subject.name}", lambda: alive() and all_listen(ports))


def all_listen(ports):
    there = lambda port: os.path.exists(port) if isinstance(port, str) else listening("127.0.0.1", port) or listening("::1", port)
    return all(map(there, ports))


def listening(address, port):
    with contextlib.suppress(OSError), socket.create_connection((address, port), 1):
        return True
    return False


def compare(subject, report, ports):
    """Sends attempts to both until enough had to end alike; how many were admitted, refused, and said to differ."""
    limited = "limit_" in subject.all_text
    admitted = refused = excused = differed = 0
    told = Report(report)

    def both(probe):
        tls = "ssl" in subject.listens[probe.listen]
        return probe, attempt(probe, ports["nginx"], tls), attempt(probe, ports["sidegate"], tls)

    moved = tuple(path for (path,) in subject.told("moved"))
    probes = subject.probes(report)
    with concurrent.futures.ThreadPoolExecutor(1 if limited else 6) as pool:
        while admitted + refused < WANTED or min(admitted, refused) < 10:
            told_all = f"{subject.name}: {admitted} admitted, {refused} refused, {excused} said to differ: that shows little"
            need(admitted + refused + excused < 20 * WANTED, told_all)
            for probe, nginx, sidegate in pool.map(both, [next(probes) for _ in range(60)]):
                words = told.words(probe, ports["sidegate"][probe.listen[1]])
                if nginx.opens != sidegate.opens:
                    # What no Upgrade fields kept from a WebSocket had come to the backend all the same.
                    passed = {"upgrades"} if nginx.path else set()
                    allowed = {"opens"} | passed if sidegate.opens else {"closes", "differs"}
                    told_as = f"nginx {nginx}, Sidegate {sidegate}, said: {words}"
                    need(allowed & words, f"{subject.name}: {probe}: {told_as}")
                    differed += 1
                if {"opens", "closes", "differs", "upgrades"} & words:
                    excused += 1
                    continue
                admitted, refused = admitted + nginx.opens, refused + (not nginx.opens)
                if nginx.opens and re.fullmatch(r"(/\w+)+/?", probe.path) and not probe.path.startswith(moved or ("//",)):
                    need(nginx.path == sidegate.path, f"{subject.name}: {probe}: nginx {nginx}, Sidegate {sidegate}")
    return admitted, refused, excused, differed


def compare_plain(subject, report, ports):
    """Plain HTTP for every path: whether it comes to the backend or is sent to its slash; how many differed."""
    if "limit_" in subject.all_text:
        return
    told, differed = Report(report), 0
    hosts, paths = subject.hosts(report), subject.paths()
    clients = subject.random.sample(subject.clients(), 3)
    for listen, path in itertools.product(subject.listens, paths):
        client = "::1" if ":" in listen[0] else subject.random.choice(clients)
        probe = Probe(client, listen, subject.random.choice(hosts), path)
        tls = "ssl" in subject.listens[listen]

        def asked(side, probe=probe, tls=tls):
            return attempt(probe, ports[side], tls, upgrade=PLAIN)

        nginx, sidegate = asked("nginx"), asked("sidegate")
        if not nginx.status:
            continue  # the backend was asked, and its 101 to plain HTTP is nothing that nginx passes on
        words = told.words(probe, ports["sidegate"][listen[1]])
        slashed = Probe(client, listen, probe.host, f"{path.partition('?')[0]}/")
        allowed = None
        if sidegate.path and not nginx.path:
            allowed = {"opens"}
        elif nginx.path and not sidegate.path:
            allowed = {"closes", "differs"}
        elif sidegate.adds_slash(probe) and not nginx.adds_slash(probe):
            allowed = {"differs"}
        elif nginx.adds_slash(probe) and not sidegate.adds_slash(probe):
            # Sidegate judges the client first: a client that is refused behind the slash gets no redirect.
            allowed = {"closes", "differs"} if asked("nginx", slashed).path else None
        if allowed:
            told_as = f"nginx {nginx}, Sidegate {sidegate}, said: {words}"
            need(allowed & words, f"{subject.name}: plain {probe}: {told_as}")
            differed += 1
    note(f"{subject.name}: plain HTTP for {len(paths)} paths, of which {differed} differed and were told")


def compare_limits(subject, ports):
    """Bursts, one attempt right after the other, and tunnels held open together: as many pass both."""
    for word, keep in (("burst", False), ("hold", True)):
        for client, host, path, count, *unlimited in subject.told(word):
            passed = {}
            for side in ("nginx", "sidegate"):
                probe = Probe(client, next(iter(subject.listens)), host, path)
                answers = [attempt(probe, ports[side], False, keep) for _ in range(int(count))]
                passed[side] = sum(answer.opens for answer in answers)
                for answer in answers:
                    if keep and answer.opens:
                        answer.end()
            note(f"{subject.name}: {word} {client} {path}: {passed} of {count}")
            need(passed["nginx"] == passed["sidegate"], f"{subject.name}: {word} {client} {path}: {passed}")
            need((passed["nginx"] < int(count)) != bool(unlimited), f"{subject.name}: {word} {client} {path} shows nothing: {passed}")


def examine(path):
    with Place() as place:
        folder = place.dir / "backend.sock"
        unix = socket.socket(socket.AF_UNIX)
        unix.bind(str(folder))
        unix.listen(128)
        listeners = {port: socket.create_server(("127.0.0.1", 0), backlog=128) for port in (9001, 9002, 9003)}
        backends = {port: listener.getsockname()[1] for port, listener in listeners.items()}
        for listener in (*listeners.values(), unix):
            Backend(listener)
        subject = Subject(path, {**backends, "socket": folder})
        ports = {"nginx": subject.ports(), "sidegate": subject.ports()}
        configs = {side: subject.place(place.dir / side, ports[side]) for side in ports}
        if "ssl" in set().union(*subject.listens.values()):
            authority = Authority(place)
            for name, names in (("ws", "DNS:ws.example.com"), ("feed", "DNS:*.feed.example.com")):
                pem = authority.issue(name, names)
                for config in configs.values():
                    (config.parent / "certs").mkdir(exist_ok=True)
                    shutil.copy(pem, config.parent / "certs")
        report = json.loads(run(SIDEGATE, "import", "nginx", configs["sidegate"], "--out", place.dir / "out", "--json", "--accept-opens"))
        for config in report["configs"]:
            run(SIDEGATE, "check", "--config", config["file"])
        start_nginx(place, subject, configs["nginx"], ports["nginx"])
        start_sidegate(place, subject, report["configs"])
        counts = compare(subject, report, ports)
        compare_plain(subject, report, ports)
        compare_limits(subject, ports)
        for listener in (*listeners.values(), unix):
            listener.close()
        note("{}: {} admitted and {} refused by both; of {} said to differ {} did".format(subject.name, *counts))
        return counts


def main(names):
    paths = [path for path in sorted(FOLDER.glob("*.conf")) if not names or path.stem in names]
    results = [examine(path) for path in paths]
    admitted, refused, excused, differed = map(sum, zip(*results))
    figure(f"{len(paths)} configurations: {admitted} attempts admitted and {refused} refused by nginx and the imported Sidegate alike")
    figure(f"of {excused} that the report said to differ {differed} did")


if __name__ == "__main__":
    main(sys.argv[1:])
