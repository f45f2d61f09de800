"""The PROXY protocol: a real HAProxy in front, and HAProxy and nginx as backends that expect a header."""

import json
import socket

from harness import Sidegate, await_that, echo_backend, free_port, listening, need
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

ADMITTED, OTHER, DENIED = "127.0.0.2", "127.0.0.3", "127.0.0.4"
POLICY = f'''[client]
allow = ["127.0.0.0/29"]
deny  = ["{DENIED}", "127.0.0.1"]
[limits]
connections = {{ per_client = 2 }}
'''
HAPROXY = """
defaults
  timeout connect 5s
  timeout client 60s
  timeout server 60s
"""
IN_FRONT = """
frontend public
  mode tcp
  bind 127.0.0.1:{public}
  unique-id-format %ci-%cp
  default_backend sidegate
backend sidegate
  mode tcp
  server sidegate 127.0.0.1:{sidegate} {options} check inter 100ms
"""
BEHIND = """
frontend app
  mode http
  bind 127.0.0.1:{port} accept-proxy
  http-request return status 200 content-type text/plain lf-string "%[src] %[src_port] %[dst_port]"
"""
NGINX = """
daemon off;
pid nginx.pid;
error_log stderr;
events {{}}
http {{
  access_log off;
  client_body_temp_path nginx-body;
  server {{
    listen 127.0.0.1:{port} proxy_protocol;
    location / {{ return 200 "$proxy_protocol_addr $proxy_protocol_port $proxy_protocol_server_port"; }}
  }}
}}
"""


def haproxy(place, name, text, port):
    """Starts HAProxy with this configuration, and waits until it listens on `port`."""
    place.start(name, "haproxy", "-db", "-f", place.write(f"{name}.cfg", HAPROXY + text))
    await_that(f"{name} listens", lambda: listening(port))


class Balanced:
    """Sidegate behind HAProxy, and an echo server behind Sidegate."""

    def __init__(self, place, options="send-proxy-v2 proxy-v2-options crc32c,unique-id"):
        backend = echo_backend(place, kind="python")
        self.sidegate = Sidegate(place).policy(text=POLICY)
        self.sidegate.route("chat", "/", f"http://127.0.0.1:{backend}")
        self.sidegate.public.append("tls = false")
        self.sidegate.public.append('proxy_protocol = { from = ["127.0.0.1"] }')
        self.sidegate.run()
        self.port = free_port()
        text = IN_FRONT.format(public=self.port, sidegate=self.sidegate.tls_port, options=options)
        haproxy(place, "haproxy", text, self.port)

    def open(self, client):
        url = f"ws://localhost:{self.port}/"
        return connect(url, source_address=(client, 0), proxy=None)

    def status(self, client):
        """The status that the client gets: 101, or a refusal's."""
        try:
            with self.open(client):
                return 101
        except InvalidStatus as refused:
            return refused.response.status_code

    def lines(self):
        lines = self.sidegate.process.err.read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def decisions(self, count):
        """The lines of so many decisions, once they are written."""
        decided = lambda: [line for line in self.lines() if line.get("result")]  # noqa: E731
        await_that(f"{count} decisions are logged", lambda: len(decided()) >= count)
        return decided()


def judged(place, options, version):
    behind = Balanced(place, options)
    statuses = [behind.status(client) for client in (ADMITTED, OTHER, DENIED)]
    need(statuses == [101, 101, 403], f"judged by their own addresses: {statuses}")
    told = behind.decisions(3)
    facts = [(line["client"], line["peer"], line["proxy"]) for line in told]
    expected = [(client, "127.0.0.1", version) for client in (ADMITTED, OTHER, DENIED)]
    need(facts == expected, f"the log names client and balancer: {facts}")
    return told


def test_policy_judges_the_clients_of_haproxy(place):
    told = judged(place, "send-proxy-v2 proxy-v2-options crc32c,unique-id", "v2")
    need(told[0]["proxy_tlvs"].startswith(f'unique_id="{ADMITTED}-'), f"the unique id is logged: {told[0]['proxy_tlvs']}")


def test_policy_judges_the_clients_of_version_1(place):
    judged(place, "send-proxy", "v1")


def test_limits_count_the_clients_of_haproxy_apart(place):
    behind = Balanced(place)
    held = [behind.open(ADMITTED), behind.open(ADMITTED), behind.open(OTHER)]
    need(behind.status(ADMITTED) == 429, "a third tunnel of one client")
    held.append(behind.open(OTHER))
    behind.sidegate.policy(text=POLICY.replace("deny  = [", f'deny  = ["{ADMITTED}", '))
    behind.sidegate.reload()
    for tunnel in held[:2]:
        try:
            tunnel.recv(timeout=10)
            need(False, "the denied tunnel ends")
        except ConnectionClosed as closed:
            need((closed.rcvd.code, closed.rcvd.reason) == (1008, "network"), f"closed: {closed}")
    for tunnel in held[2:]:
        tunnel.send("hello")
        need(tunnel.recv(timeout=5) == "hello", "the tunnel of another client echoes")
        tunnel.close()


def test_forged_proxy_header_changes_nothing(place):
    behind = Balanced(place)
    request = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
    forged = f"PROXY TCP4 {ADMITTED} 127.0.0.1 1 2\r\n".encode()
    # Through HAProxy it is a second header, and beside HAProxy one of a peer that is not listed.
    for client, port in ((DENIED, behind.port), (DENIED, behind.sidegate.tls_port), (ADMITTED, behind.sidegate.tls_port)):
        with socket.create_connection(("127.0.0.1", port), 5, source_address=(client, 0)) as raw:
            raw.sendall(forged + request)
            try:
                answer = raw.recv(100)
            except ConnectionResetError:
                answer = b""
        need(answer == b"", f"closed without an answer: {answer}")
    reasons = [line["reason"] for line in behind.decisions(3)]
    need(reasons == ["proxy"] * 3, f"refused for the header: {reasons}")


def test_health_checks_of_haproxy_are_probes(place):
    behind = Balanced(place)
    probes = lambda: behind.sidegate.metric("probes_total", listener="public")  # noqa: E731
    await_that("checks are counted", lambda: probes() >= 5)
    need(not any(line.get("reason") for line in behind.lines()), "no check is logged")
    need(behind.sidegate.metric("refusals_total", reason="proxy") == 0, "no check is refused")


def test_backends_are_told_the_client(place):
    of_haproxy, of_nginx = free_port(), free_port()
    haproxy(place, "backend", BEHIND.format(port=of_haproxy), of_haproxy)
    config = place.write("backend.conf", NGINX.format(port=of_nginx))
    place.start("nginx-backend", "nginx", "-p", place.dir, "-c", config)
    await_that("nginx listens", lambda: listening(of_nginx))
    sidegate = Sidegate(place).policy()
    for name, port in (("haproxy", of_haproxy), ("nginx", of_nginx)):
        sidegate.route(name, f"/{name}", f"http://127.0.0.1:{port}", http="forward", proxy_protocol="v2")
    sidegate.public.append("tls = false")
    sidegate.run()
    for name in ("haproxy", "nginx"):
        for client in (ADMITTED, OTHER, ADMITTED, OTHER):
            with socket.create_connection(("127.0.0.1", sidegate.tls_port), 5, source_address=(client, 0)) as raw:
                own = raw.getsockname()[1]
                for _ in range(3):
                    raw.sendall(f"GET /{name} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
                    answer = raw.recv(4096).decode()
                    expected = f"{client} {own} {sidegate.tls_port}"
                    need(answer.endswith(expected), f"{name} is told {expected}: {answer!r}")
