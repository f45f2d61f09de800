"""The nouns of the system suites: a place (a folder, and the processes in it), certificates, backends, Sidegate, nginx.

It starts real programs on free ports of the loopback and ends them with their place. It makes no assertions: they are in
the suites.
"""

import contextlib
import json
import os
import random
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

HERE = Path(__file__).resolve().parent
SIDEGATE = os.environ.get("SIDEGATE", str(HERE.parent.parent / "target/dist/sidegate"))
GIVEN = set()
"""The ports that `free_port` gave: none is given twice."""


def figure(text):
    """One figure for the summary line of this suite."""
    print(f"= {text}", flush=True)


def note(text):
    """Prints a line in the suite's log."""
    print(f"- {text}", flush=True)


def need(holds, claim):
    """The suites' assertion: it holds with `python -O` too, and says what it claims."""
    if not holds:
        raise AssertionError(claim)


def await_that(claim, check, seconds=20, every=0.01):
    """Asks `check` until it answers something true, and returns that."""
    deadline = time.monotonic() + seconds
    while True:
        answer = check()
        if answer:
            return answer
        need(time.monotonic() < deadline, f"not within {seconds} s: {claim}")
        time.sleep(every)


def free_port():
    """A port that nothing listens on and that no outgoing connection takes: the kernel gives those only ephemeral ones."""
    ephemeral = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    need(ephemeral > 12000, f"ephemeral ports begin at {ephemeral}, which leaves too few for the programs that are started here")
    while True:
        port = random.SystemRandom().randrange(10000, ephemeral)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            if port not in GIVEN:
                GIVEN.add(port)
                return port


def listening(port):
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def leave(*_):
    """Ends the suite in order; who says so once more, as `timeout` does, doesn't disturb that."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(1)


class Place:
    """A folder of its own, and the processes that were started in it; both are gone when it is left."""

    def __enter__(self):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        signal.signal(signal.SIGTERM, leave)
        self.dir = Path(tempfile.mkdtemp(prefix="place-", dir=os.environ.get("SYSTEM_TMP")))
        self.processes = []
        return self

    def __exit__(self, kind, error, _):
        for process in reversed(self.processes):
            process.end()
        if kind is not None:
            # First, in one line: a long log may be cut before its end.
            print("!", kind.__name__, *str(error).splitlines()[:1], flush=True)
            for process in self.processes:
                process.show()
        shutil.rmtree(self.dir, ignore_errors=True)

    def write(self, name, text):
        path = self.dir / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def start(self, name, *argv, **more):
        process = Process(self, name, [str(word) for word in argv], **more)
        self.processes.append(process)
        return process


class Process:
    """A program that runs in a place, its output in `NAME.out` and `NAME.err` there."""

    def __init__(self, place, name, argv, talks=False):
        self.name, self.out, self.err = name, place.dir / f"{name}.out", place.dir / f"{name}.err"
        pipe = subprocess.PIPE if talks else None
        with open(self.out, "wb") as out, open(self.err, "wb") as err:
            self.popen = subprocess.Popen(
                argv, cwd=place.dir, stdin=pipe or subprocess.DEVNULL, stdout=pipe or out, stderr=err, text=talks or None
            )

    @property
    def pid(self):
        return self.popen.pid

    def running(self):
        return self.popen.poll() is None

    def alive(self):
        """True; a process that ended by itself is a failure."""
        need(self.running(), f"{self.name} ended by itself, exit {self.popen.poll()}")
        return True

    def ask(self, **command):
        """One JSON line to a process that talks, and its one line of answer."""
        self.popen.stdin.write(json.dumps(command) + "\n")
        self.popen.stdin.flush()
        answer = self.popen.stdout.readline()
        need(answer, f"{self.name} ended instead of answering {command}")
        return json.loads(answer)

    def end(self, seconds=10):
        """SIGTERM, then SIGKILL; the exit code."""
        if self.running():
            self.popen.terminate()
        try:
            return self.popen.wait(seconds)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            return self.popen.wait()
        finally:
            for stream in (self.popen.stdin, self.popen.stdout):
                if stream:
                    with contextlib.suppress(OSError):
                        stream.close()

    def show(self, lines=40):
        for path in (self.out, self.err):
            tail = path.read_text(errors="replace").splitlines()[-lines:] if path.exists() else []
            if tail:
                print(f"--- {path.name}, its end", *tail, sep="\n", flush=True)

    def tree(self):
        """Its process id and those of its children."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return [self.pid, *map(int, children)]

    def cpu(self):
        """Seconds of CPU that it and its children have used: in the program itself, and in the kernel for it."""
        ticks = [0, 0]
        for pid in self.tree():
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks = [ticks[0] + int(fields[11]), ticks[1] + int(fields[12])]
        return [count / os.sysconf("SC_CLK_TCK") for count in ticks]

    def pss(self):
        """Bytes of memory that it and its children hold, shared pages by share."""
        total = 0
        for pid in self.tree():
            # One of the children may be ending.
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
                total += int(re.search(r"^Pss:\s+(\d+) kB", rollup, re.M)[1]) * 1024
        return total


class Authority:
    """A certificate authority of this place; `issue` writes chain and key into one file."""

    def __init__(self, place):
        self.place, self.ca = place, place.dir / "ca.pem"
        self.config = place.write(
            "openssl.cnf",
            "[req]\ndistinguished_name = dn\nprompt = no\n[dn]\nCN = Sidegate system suites\n"
            "[ca]\nbasicConstraints = critical, CA:true\nkeyUsage = critical, keyCertSign\nsubjectKeyIdentifier = hash\n"
            "[leaf]\nbasicConstraints = critical, CA:false\nkeyUsage = critical, digitalSignature\n"
            "extendedKeyUsage = serverAuth\nsubjectKeyIdentifier = hash\nauthorityKeyIdentifier = keyid\n"
            "subjectAltName = DNS:localhost, IP:127.0.0.1\n",
        )
        self.openssl("-extensions", "ca", "-keyout", "ca.key", "-out", self.ca)

    def issue(self, name, names="DNS:localhost, IP:127.0.0.1"):
        """A certificate for `names` in `certs/NAME.pem`, its key in the same file."""
        self.config.write_text(re.sub("subjectAltName = .*", f"subjectAltName = {names}", self.config.read_text()))
        self.openssl("-extensions", "leaf", "-CA", self.ca, "-CAkey", "ca.key", "-keyout", "leaf.key", "-out", "leaf.pem")
        pem = (self.place.dir / "leaf.pem").read_text() + (self.place.dir / "leaf.key").read_text()
        path = self.place.write(f"certs/{name}.pem", pem)
        path.chmod(0o600)
        return path

    def openssl(self, *more):
        run(
            "openssl", "req", "-x509", "-config", self.config, "-days", "2", "-nodes", "-newkey", "ec",
            "-pkeyopt", "ec_paramgen_curve:prime256v1", *more, cwd=self.place.dir,
        )  # fmt: skip


@contextlib.contextmanager
def environment(**more):
    """Programs started within it have these variables beside all others."""
    before = dict(os.environ)
    os.environ.update(more)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def run(*argv, code=0, **more):
    """Runs a command to its end and returns its output, both streams; another exit code than `code` is a failure."""
    done = subprocess.run(
        [str(word) for word in argv], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60, **more
    )
    need(done.returncode == code, f"{' '.join(map(str, argv))}: exit {done.returncode}, not {code}\n{done.stdout}")
    return done.stdout


def echo_backend(place, kind="ws", deflate=True, port=None):
    """A WebSocket server that echoes: npm's `ws`, or Python's `websockets`. Returns its port."""
    port = port or free_port()
    argv = ["node", HERE / "echo.js"] if kind == "ws" else [sys.executable, HERE / "echo.py"]
    process = place.start(f"echo-{kind}", *argv, port, "deflate" if deflate else "plain")
    await_that(f"the {kind} backend listens", lambda: process.alive() and listening(port))
    return port


class Sidegate:
    """One running `sidegate run`, its files in the place under `etc/`."""

    def __init__(self, place, name="sidegate"):
        self.place, self.name = place, name
        self.dir = place.dir / "etc"
        self.config = self.dir / "sidegate.toml"
        self.tls_port, self.plain_port, self.metrics_port = free_port(), free_port(), free_port()
        self.certificates, self.routes, self.settings = [], [], ""
        self.public = []  # more keys of the TLS listener, a line each
        self.admin = []  # more keys of `[admin]`
        self.log = "json"

    def certificate(self, path):
        self.certificates.append(path)
        return self

    def route(self, name, path, backend, policy="open", **more):
        self.routes.append({"name": name, "path": path, "backend": backend, "policy": policy, **more})
        return self

    def policy(self, name="open", text='[client]\nallow = ["any"]\n'):
        self.place.write(f"etc/policies/{name}.toml", f"schema = 1\n{text}")
        return self

    def toml(self):
        """The current `sidegate.toml`: a TLS and a plain listener, the certificates, the routes."""
        lines = [
            "schema = 1",
            "[metrics]", f'listen = "127.0.0.1:{self.metrics_port}"',
            "[admin]", f'socket = "{self.place.dir}/admin.sock"', *self.admin,
            "[[listener]]", 'name = "public"', f'listen = "127.0.0.1:{self.tls_port}"', *self.public,
            "[[listener]]", 'name = "plain"', f'listen = "127.0.0.1:{self.plain_port}"', "tls = false",
            self.settings,
        ]  # fmt: skip
        for path in self.certificates:
            lines += ["[[certificate]]", f'chain = "{path}"', f'key = "{path}"']
        for route in self.routes:
            lines += ["[[route]]", 'host = "localhost"', *(f"{key} = {json.dumps(value)}" for key, value in route.items())]
        return "\n".join(lines) + "\n"

    def run(self):
        self.place.write("etc/sidegate.toml", self.toml())
        self.process = self.place.start(self.name, SIDEGATE, "run", "--config", self.config, "--log", self.log)
        await_that("sidegate is ready", self.ready)
        return self

    def ready(self):
        with contextlib.suppress(OSError):
            return self.process.alive() and self.ask_metrics("readyz")[0] == 200

    def reload(self, code=0):
        """`sidegate reload --wait`; what it printed."""
        return run(SIDEGATE, "reload", "--wait", "--config", self.config, code=code)

    def metric(self, name, **labels):
        """The sum of the series of `sidegate_NAME` that carry these labels; None where there is none."""
        found = [value for series, value in self.metrics() if matches(series, f"sidegate_{name}", labels)]
        return sum(found) if found else None

    def metrics(self):
        status, body = self.ask_metrics("metrics")
        need(status == 200, f"/metrics answers {status}")
        pairs = (line.rsplit(" ", 1) for line in body.splitlines() if line and not line.startswith("#"))
        return [(series, float(value)) for series, value in pairs]

    def ask_metrics(self, path):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as refused:
            return refused.code, refused.read().decode()


def matches(series, name, labels):
    bare, _, rest = series.partition("{")
    return bare == name and all(f'{key}="{value}"' in rest for key, value in labels.items())


def replace(path, text):
    """Saves as careful editors do: another file, renamed over this one. Returns the moment before the rename."""
    beside = path.with_name(f".{path.name}.new")
    beside.write_text(text)
    beside.chmod(path.stat().st_mode)
    saved = time.monotonic()
    beside.rename(path)
    return saved


def save(path, text):
    """Saves in place: truncates, writes, closes. Returns the moment of the close."""
    with open(path, "w") as file:
        file.write(text)
    return time.monotonic()


class Nginx:
    """Debian's nginx with the classic WebSocket recipe, in front of one backend."""

    RECIPE = """
daemon off;
user root;
worker_processes 1;
worker_rlimit_nofile 16384;
pid {dir}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 8192; }}
http {{
    access_log off;
    client_body_temp_path {dir}/body;
    proxy_temp_path {dir}/proxy;
    fastcgi_temp_path {dir}/fastcgi;
    uwsgi_temp_path {dir}/uwsgi;
    scgi_temp_path {dir}/scgi;

    map $http_upgrade $connection_upgrade {{
        default upgrade;
        ''      close;
    }}
    upstream backend {{ server 127.0.0.1:{backend}; }}
    server {{
        listen 127.0.0.1:{tls_port} ssl;
        listen 127.0.0.1:{plain_port};
        server_name localhost;
        ssl_certificate     {certificate};
        ssl_certificate_key {certificate};
        ssl_protocols TLSv1.2 TLSv1.3;
        location / {{
            proxy_pass http://backend;
            proxy_http_version 1.1;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection $connection_upgrade;
            proxy_set_header Host $host;
            proxy_set_header X-Real-IP $remote_addr;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_set_header X-Forwarded-Proto $scheme;
            proxy_read_timeout 1h;
        }}
        location /slash/ {{ proxy_pass http://backend; }}
    }}
}}
"""

    def __init__(self, place, certificate, backend):
        self.tls_port, self.plain_port = free_port(), free_port()
        folder = place.dir / "nginx"
        folder.mkdir()
        recipe = self.RECIPE.format(
            dir=folder, backend=backend, certificate=certificate, tls_port=self.tls_port, plain_port=self.plain_port
        )
        config = place.write("nginx/nginx.conf", recipe)
        self.process = place.start("nginx", "nginx", "-p", folder, "-c", config, "-e", "stderr")
        await_that("nginx listens", lambda: self.process.alive() and listening(self.tls_port))
