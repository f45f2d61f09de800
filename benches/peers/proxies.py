"""The proxies, and what stands around one: a backend, a certificate, the networks that are let in, and a load.

All have the same work: TLS 1.3 with AES-128-GCM, X25519 and a P-256 certificate, 1,001 networks let in, a rate limit
that nobody reaches, no access log, an hour of patience. What a proxy can't is said in `cannot`, and stands in the report.
It starts and ends them, and never measures.
"""

import contextlib
import json
import os
import re
import shutil
import socket
import ssl
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent.parent / "tests/system"))

from harness import SIDEGATE, Authority, Sidegate, await_that, environment, free_port, listening, need, run  # noqa: E402

LOAD = os.environ.get("SIDEGATE_LOAD", str(HERE.parent.parent / "target/peers/build/dist/sidegate-load"))
NETWORKS = [f"10.{at // 256}.{at % 256}.0/24" for at in range(1000)] + ["127.0.0.1/32"]
STRANGER = "127.0.0.9"  # in none of them
RATE = 100_000  # upgrades a second and client: all proxies look, none refuses
PATIENCE = 3600  # seconds without a byte


class Proxy:
    """One proxy in front of a backend of its own, in a place."""

    name = label = None
    networks = rate = True  # whether it can let in by network, and limit a rate
    cannot = ""  # what it can't do of all this
    tls = True
    variables = {}  # of its environment
    figures = ("echo", "bulk", "large", "connect", "memory", "balance", "latency", "neighbour", "syscalls")  # those that are taken of it

    def __init__(self, place, workers, cpu=None, prefix=()):
        """With `cpu`, proxy, backend and load all run on that CPU alone, as batch jobs: whoever is woken waits until the
        other has done what it can, or each message would cost switches whose number is luck. `prefix` stands before the
        proxy's command."""
        self.place, self.workers, self.authority = place, workers, Authority(place)
        self.alone = bool(prefix)  # in one process, so that what stands before it sees all
        self.pinned = ("chrt", "--batch", "0", "taskset", "--cpu-list", str(cpu)) if cpu is not None else ()
        self.certificate = self.authority.issue("localhost")
        self.port, self.backend_port, self.backend_path = free_port(), free_port(), place.dir / "backend.sock"
        self.backend = place.start(
            "backend", *self.pinned, LOAD, "backend", self.backend_port, self.backend_path, talks=True
        )
        await_that("the backend listens", lambda: self.backend.alive() and listening(self.backend_port))
        with environment(**self.variables):
            self.process = place.start(self.name, *self.pinned, *prefix, *self.command())
        await_that(f"{self.label} is ready", self.ready, seconds=90 if prefix else 30)

    def command(self):
        """Writes its files; the words that start it."""
        raise NotImplementedError

    def ready(self):
        return self.process.alive() and listening(self.port)

    @classmethod
    def program(cls):
        """Where it is; None where it is not installed."""
        return shutil.which(cls.name)

    @classmethod
    def version(cls):
        return re.search(r"\d+\.\d+\.\d+", run(cls.program(), "-v"))[0]

    def load(self, straight=False):
        """A load through it, or straight to the backend."""
        tls = self.tls and not straight
        target = (self.backend_port if straight else self.port, *([self.authority.ca] if tls else ()))
        return Load(tls, self.place.start("load", *self.pinned, LOAD, "load", *target, talks=True))

    def cpu(self):
        """Seconds of CPU that all its processes have used, to the nanosecond."""
        return sum(int(text.split()[0]) for text in self.tasks("schedstat")) / 1e9

    def user(self):
        """The part of it that they spent outside of the kernel, by the clock's ticks: to some hundredths of a second."""
        return sum(int(text.rpartition(")")[2].split()[11]) for text in self.tasks("stat")) / os.sysconf("SC_CLK_TCK")

    def tasks(self, file):
        """What the kernel says of each of their threads."""
        for pid in self.process.tree():
            for task in Path(f"/proc/{pid}/task").iterdir():
                with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                    yield (task / file).read_text()

    def attempt(self, source="127.0.0.1"):
        """The status that an attempt from this address gets; None where the connection ends without one."""
        context = ssl.create_default_context(cafile=self.authority.ca)
        with (
            contextlib.suppress(ConnectionError, ssl.SSLError),
            socket.create_connection(("127.0.0.1", self.port), 10, (source, 0)) as bare,
            context.wrap_socket(bare, server_hostname="localhost") if self.tls else bare as wire,
        ):
            wire.sendall(
                b"GET /ws/ HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
            )
            answer = wire.recv(65536).split()
            return int(answer[1]) if answer else None

    def check(self):
        """That it is the proxy it says it is: lets in whom it shall, and forwards to this backend."""
        upgraded = self.backend.ask(do="stats")["upgraded"]
        need(self.attempt() == 101, f"{self.label} lets in who is listed")
        need(self.backend.ask(do="stats")["upgraded"] == upgraded + 1, f"{self.label} forwards to the backend")
        if self.networks:
            need(self.attempt(STRANGER) == 403, f"{self.label} refuses who is not listed")
            need(self.backend.ask(do="stats")["upgraded"] == upgraded + 1, f"{self.label} forwards no stranger")


class Load:
    """The load on one proxy; an order that fails is a failure."""

    def __init__(self, tls, process):
        self.tls, self.process = tls, process

    def ask(self, do, **more):
        answer = self.process.ask(do=do, **more)
        need("error" not in answer, f"{do} {more}: {answer.get('error')}")
        return answer

    def open(self, count):
        """Opens so many more tunnels, and looks at what TLS agreed on."""
        answer = self.ask("open", count=count)
        if self.tls:
            agreed(answer, "Full", count)
        return self


class Straight:
    """No proxy: the load asks the backend itself."""

    name, label = "straight", "straight to the backend"


def agreed(answer, kind, count):
    """All of them TLS 1.3 with the one suite and the one group, and handshakes of this kind."""
    expected = f"TLSv1_3 TLS13_AES_128_GCM_SHA256 X25519 {kind}"
    need(answer["agreed"] == {expected: count}, f"{count} × {expected}, not {answer['agreed']}")


class Ours(Proxy):
    name, label, backend_url = "sidegate", "Sidegate", "http://127.0.0.1:{port}"
    variables = {"SIDEGATE_LOG": "info,sidegate::permitted=off"}
    figures = (*Proxy.figures, "flat", "instructions")

    def command(self):
        sidegate = Sidegate(self.place).certificate(self.certificate)
        sidegate.tls_port = self.port
        self.ready = lambda: self.process.alive() and self.answers(sidegate)
        limits = f'[limits]\nupgrades = {{ rate = "{RATE}/s", burst = {RATE} }}\nframes = "off"\n'
        sidegate.policy(text=f"[client]\nallow = {json.dumps(NETWORKS)}\n{limits}")
        sidegate.route("ws", "/ws/", self.backend_url.format(port=self.backend_port, path=self.backend_path))
        sidegate.settings = f"[process]\nthreads = {self.workers}"
        # All clients of a run come from one address. This rate is charged and never holds.
        sidegate.public = [f'handshakes_per_client = {{ rate = "{RATE}/s", burst = {RATE} }}']
        self.place.write("etc/sidegate.toml", sidegate.toml())
        return SIDEGATE, "run", "--config", sidegate.config, "--log", "json"

    @staticmethod
    def answers(sidegate):
        with contextlib.suppress(OSError):
            return sidegate.ask_metrics("readyz")[0] == 200

    @classmethod
    def program(cls):
        return SIDEGATE if os.access(SIDEGATE, os.X_OK) else None

    @classmethod
    def version(cls):
        return re.search(r"\d+\.\d+\.\d+\S*", run(cls.program(), "--version"))[0]


class Floor(Proxy):
    name, label, networks, rate, tls = "floor", "relay without TLS", False, False, False
    cannot = "it only moves bytes: what the kernel alone costs here"
    figures = ("echo", "bulk", "large", "syscalls")

    def command(self):
        return LOAD, "relay", self.port, self.backend_port

    @classmethod
    def program(cls):
        return LOAD

    @classmethod
    def version(cls):
        return "epoll"


class OursUnix(Ours):
    name, label, backend_url = "sidegate-unix", "Sidegate, Unix socket", "unix:{path}"
    figures = ("echo", "bulk", "large", "connect", "latency", "syscalls")


class Nginx(Proxy):
    name, label = "nginx", "nginx"
    figures = (*Proxy.figures, "flat", "instructions")

    def command(self):
        networks = "\n".join(f"        {network} 1;" for network in NETWORKS)
        folder = self.place.dir / "nginx"
        folder.mkdir()
        config = self.place.write(
            "nginx/nginx.conf",
            f"""
daemon off;
master_process {"off" if self.alone else "on"};
user root;
worker_processes {self.workers};
worker_rlimit_nofile 20000;
pid {folder}/nginx.pid;
error_log stderr error;
events {{ worker_connections 20000; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;

    map $http_upgrade $connection_upgrade {{
        default upgrade;
        ''      close;
    }}
    geo $allowed {{
        default 0;
{networks}
    }}
    limit_req_zone $binary_remote_addr zone=upgrades:10m rate={RATE}r/s;
    upstream backend {{ server 127.0.0.1:{self.backend_port}; }}
    server {{
        listen 127.0.0.1:{self.port} ssl reuseport backlog=4096;
        server_name localhost;
        ssl_certificate     {self.certificate};
        ssl_certificate_key {self.certificate};
        ssl_protocols TLSv1.3;
        ssl_ecdh_curve X25519;
        ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256;
        location / {{
            if ($allowed = 0) {{ return 403; }}
            limit_req zone=upgrades burst={RATE} nodelay;
            proxy_pass http://backend;
            proxy_http_version 1.1;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection $connection_upgrade;
            proxy_set_header Host $host;
            proxy_set_header X-Real-IP $remote_addr;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_set_header X-Forwarded-Proto $scheme;
            proxy_read_timeout {PATIENCE}s;
            proxy_send_timeout {PATIENCE}s;
        }}
    }}
}}
""",
        )
        return "nginx", "-p", folder, "-c", config, "-e", "stderr"

    def ready(self):
        # The master listens first; only its workers serve.
        return super().ready() and (self.alone or len(self.process.tree()) == 1 + self.workers)


class HAProxy(Proxy):
    name, label = "haproxy", "HAProxy"

    def command(self):
        networks = self.place.write("haproxy/networks", "\n".join(NETWORKS) + "\n")
        config = self.place.write(
            "haproxy/haproxy.cfg",
            f"""
global
    maxconn 9800
    nbthread {self.workers}
    ssl-default-bind-options ssl-min-ver TLSv1.3
    ssl-default-bind-ciphersuites TLS_AES_128_GCM_SHA256

defaults
    mode http
    timeout connect 5s
    timeout http-request 10s
    timeout client {PATIENCE}s
    timeout server {PATIENCE}s
    timeout tunnel {PATIENCE}s

frontend public
    maxconn 9800
    bind 127.0.0.1:{self.port} ssl crt {self.certificate} curves X25519 alpn http/1.1 backlog 4096
    stick-table type ip size 100k expire 10s store http_req_rate(1s)
    http-request deny deny_status 403 unless {{ src -f {networks} }}
    http-request track-sc0 src
    http-request deny deny_status 429 if {{ sc_http_req_rate(0) gt {RATE} }}
    option forwardfor
    http-request set-header X-Forwarded-Proto https
    default_backend echo

backend echo
    server echo 127.0.0.1:{self.backend_port}
""",
        )
        return "haproxy", "-db", "-f", config


class Envoy(Proxy):
    name, label = "envoy", "Envoy"
    cannot = "its rate limit is one for all clients"

    def command(self):
        def typed(kind, **more):
            return {"@type": f"type.googleapis.com/envoy.extensions.{kind}", **more}

        def http_filter(name, kind, **more):
            return {"name": name, "typed_config": typed(f"filters.http.{kind}", **more)}

        principals = [
            {"direct_remote_ip": {"address_prefix": address, "prefix_len": int(bits)}}
            for address, bits in (network.split("/") for network in NETWORKS)
        ]
        always = {"default_value": {"numerator": 100, "denominator": "HUNDRED"}}
        bucket = {"max_tokens": RATE, "tokens_per_fill": RATE, "fill_interval": "1s"}
        filters = [
            http_filter(
                "rbac", "rbac.v3.RBAC",
                rules={"action": "ALLOW", "policies": {"listed": {"permissions": [{"any": True}], "principals": principals}}},
            ),
            http_filter(
                "rate", "local_ratelimit.v3.LocalRateLimit",
                stat_prefix="rate", token_bucket=bucket, filter_enabled=always, filter_enforced=always,
            ),
            http_filter("router", "router.v3.Router"),
        ]  # fmt: skip
        manager = typed(
            "filters.network.http_connection_manager.v3.HttpConnectionManager",
            stat_prefix="public", codec_type="HTTP1", use_remote_address=True, http_filters=filters,
            stream_idle_timeout=f"{PATIENCE}s", upgrade_configs=[{"upgrade_type": "websocket"}],
            route_config={"virtual_hosts": [{
                "name": "all", "domains": ["*"],
                "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "echo", "timeout": "0s"}}],
            }]},
        )  # fmt: skip
        context = {
            "tls_params": {
                "tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3", "ecdh_curves": ["X25519"],
            },
            "tls_certificates": [
                {"certificate_chain": {"filename": str(self.certificate)}, "private_key": {"filename": str(self.certificate)}}
            ],
            "alpn_protocols": ["http/1.1"],
        }  # fmt: skip
        listener = {
            "name": "public", "address": address(self.port), "tcp_backlog_size": 4096,
            "filter_chains": [{
                "filters": [{"name": "http", "typed_config": manager}],
                "transport_socket": {"name": "tls", "typed_config": typed(
                    "transport_sockets.tls.v3.DownstreamTlsContext", common_tls_context=context,
                )},
            }],
        }  # fmt: skip
        plenty = {"max_connections": 100_000, "max_pending_requests": 100_000, "max_requests": 100_000}
        endpoint = {"endpoint": {"address": address(self.backend_port)}}
        cluster = {
            "name": "echo", "type": "STATIC", "connect_timeout": "5s", "circuit_breakers": {"thresholds": [plenty]},
            "load_assignment": {"cluster_name": "echo", "endpoints": [{"lb_endpoints": [endpoint]}]},
        }  # fmt: skip
        config = {"static_resources": {"listeners": [listener], "clusters": [cluster]}}
        path = self.place.write("envoy/envoy.json", json.dumps(config, indent=1))
        # What PyPI installs as `envoy` is a script that starts it: this is the program itself.
        return self.program(), "-c", path, "--concurrency", self.workers, "--disable-hot-restart", "--log-level", "error"

    @classmethod
    def program(cls):
        script = shutil.which("envoy")
        found = script and list(Path(script).resolve().parent.parent.glob("lib/python*/site-packages/envoy/_bin/envoy"))
        return str(found[0]) if found else script

    @classmethod
    def version(cls):
        return re.search(r"/(\d+\.\d+\.\d+)", run(cls.program(), "--version"))[1]


def address(port):
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


class Caddy(Proxy):
    name, label, rate = "caddy", "Caddy", False
    figures = tuple(figure for figure in Proxy.figures if figure != "balance")  # its threads wait at one place
    cannot = "it has no rate limit"

    def command(self):
        folder = self.place.dir / "caddy"
        folder.mkdir()
        config = self.place.write(
            "caddy/Caddyfile",
            f"""
{{
    admin off
    persist_config off
    auto_https off
    default_bind 127.0.0.1
    storage file_system {folder}
    log {{
        level ERROR
    }}
    servers {{
        protocols h1
    }}
}}
https://localhost:{self.port} {{
    tls {self.certificate} {self.certificate} {{
        protocols tls1.3
        curves x25519
    }}
    @stranger not remote_ip {" ".join(NETWORKS)}
    respond @stranger 403
    reverse_proxy 127.0.0.1:{self.backend_port}
}}
""",
        )
        home = f"HOME={folder}"
        return "env", f"GOMAXPROCS={self.workers}", home, self.program(), "run", "--config", config, "--adapter", "caddyfile"

    @classmethod
    def version(cls):
        return re.search(r"\d+\.\d+\.\d+", run(cls.program(), "version"))[0]


class Sozu(Proxy):
    name, label, networks, rate = "sozu", "Sōzu", False, False
    cannot = "it can neither let in by network nor limit a rate"

    def command(self):
        folder = self.place.dir / "sozu"
        folder.mkdir()
        config = self.place.write(
            "sozu/sozu.toml",
            f"""
command_socket = "{folder}/command.sock"
log_level = "error"
log_target = "stdout"
access_logs_target = "file:///dev/null"
worker_count = {self.workers}
worker_automatic_restart = false
handle_process_affinity = false
max_connections = 9800
max_buffers = 40000
activate_listeners = true

[[listeners]]
protocol = "https"
address = "127.0.0.1:{self.port}"
tls_versions = ["TLS_V13"]
cipher_list = ["TLS13_AES_128_GCM_SHA256"]
groups_list = ["x25519"]
alpn_protocols = ["http/1.1"]
front_timeout = {PATIENCE}
back_timeout = {PATIENCE}

[clusters.echo]
protocol = "http"
load_balancing = "ROUND_ROBIN"
backends = [{{ address = "127.0.0.1:{self.backend_port}" }}]

[[clusters.echo.frontends]]
address = "127.0.0.1:{self.port}"
hostname = "localhost"
certificate = "{self.certificate}"
key = "{self.certificate}"
certificate_chain = "{self.certificate}"
""",
        )
        return "sozu", "start", "-c", config

    def ready(self):
        # It listens before its workers know what they serve.
        with contextlib.suppress(OSError):
            return super().ready() and self.attempt() == 101
        return False

    @classmethod
    def version(cls):
        return re.search(r"\d+\.\d+\.\d+", run(cls.program(), "--version"))[0]


PROXIES = {kind.name: kind for kind in (Nginx, HAProxy, Envoy, Caddy, Sozu, Floor, Ours, OursUnix)}

