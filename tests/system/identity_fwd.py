"""Forwarded headers: a real nginx in front, which appends to X-Forwarded-For, and clients from three addresses."""

import json

from harness import Authority, Nginx, Sidegate, await_that, echo_backend, need
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

ADMITTED, OTHER, DENIED = "127.0.0.2", "127.0.0.3", "127.0.0.4"
POLICY = f'''[client]
allow = ["127.0.0.0/29"]
deny  = ["{DENIED}", "127.0.0.1"]
[limits]
connections = {{ per_client = 2 }}
'''


class Behind:
    """Sidegate behind nginx, and an echo server behind Sidegate."""

    def __init__(self, place, header="x-forwarded-for"):
        backend = echo_backend(place, kind="python")
        self.sidegate = Sidegate(place).policy(text=POLICY)
        self.sidegate.route("chat", "/", f"http://127.0.0.1:{backend}")
        believed = f'forwarded = {{ header = "{header}", from = ["127.0.0.1"] }}'
        self.sidegate.settings = believed  # The plain listener is the last before the settings.
        authority = Authority(place)
        self.sidegate.certificate(authority.issue("sidegate"))
        self.sidegate.run()
        self.nginx = Nginx(place, authority.issue("nginx"), self.sidegate.plain_port)

    def open(self, client, **headers):
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        url = f"ws://localhost:{self.nginx.plain_port}/"
        return connect(url, source_address=(client, 0), additional_headers=fields, proxy=None)

    def status(self, client, **headers):
        """The status that the client gets: 101, or a refusal's."""
        try:
            with self.open(client, **headers):
                return 101
        except InvalidStatus as refused:
            return refused.response.status_code

    def decisions(self):
        lines = self.sidegate.process.err.read_text().splitlines()
        all_lines = [json.loads(line) for line in lines if line.startswith("{")]
        return [line for line in all_lines if "result" in line]


def echoes(tunnel):
    tunnel.send("hello")
    need(tunnel.recv(timeout=5) == "hello", "the tunnel echoes")


def test_policy_judges_the_clients_of_nginx(place):
    behind = Behind(place)
    statuses = [behind.status(client) for client in (ADMITTED, OTHER, DENIED)]
    need(statuses == [101, 101, 403], f"judged by their own addresses: {statuses}")
    named = (DENIED, "127.0.0.1", f"peer 127.0.0.1 is listed; {DENIED} is not: the client")

    def told():
        return [(line["client"], line["peer"], line.get("derived")) for line in behind.decisions()]

    await_that("the log derives the client", lambda: named in told())


def test_forged_header_changes_nothing(place):
    behind = Behind(place)
    for forged in (ADMITTED, f"{ADMITTED}, {ADMITTED}", "127.0.0.1", "garbage", "unknown", ",", f"for={ADMITTED}"):
        status = behind.status(DENIED, X_Forwarded_For=forged, Forwarded=f"for={ADMITTED}", X_Real_IP=ADMITTED)
        need(status == 403, f"{forged!r} of a denied client: {status}")
        status = behind.status(ADMITTED, X_Forwarded_For=DENIED)
        need(status == 101, f"{DENIED} of an admitted client: {status}")
    # Straight to Sidegate the header is that of a client.
    url = f"ws://localhost:{behind.sidegate.plain_port}/"
    try:
        connect(url, source_address=(DENIED, 0), additional_headers={"X-Forwarded-For": ADMITTED}, proxy=None)
        need(False, "a denied client is refused beside nginx")
    except InvalidStatus as refused:
        need(refused.response.status_code == 403, "a denied client gets 403 beside nginx")


def test_limits_count_the_clients_apart(place):
    behind = Behind(place)
    held = [behind.open(ADMITTED), behind.open(ADMITTED), behind.open(OTHER)]
    need(behind.status(ADMITTED) == 429, "a third tunnel of one client")
    need(behind.status(ADMITTED, X_Forwarded_For=OTHER) == 429, "a third tunnel under another's name")
    held.append(behind.open(OTHER))
    for tunnel in held:
        echoes(tunnel)
        tunnel.close()


def test_reload_closes_the_denied_client_alone(place):
    behind = Behind(place)
    denied, other = behind.open(ADMITTED), behind.open(OTHER)
    behind.sidegate.policy(text=POLICY.replace("deny  = [", f'deny  = ["{ADMITTED}", '))
    behind.sidegate.reload()
    try:
        denied.recv(timeout=10)
        need(False, "the denied tunnel ends")
    except ConnectionClosed as closed:
        need((closed.rcvd.code, closed.rcvd.reason) == (1008, "network"), f"closed: {closed}")
    echoes(other)
    other.close()
