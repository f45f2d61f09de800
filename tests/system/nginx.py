"""The same conversations through nginx with the classic recipe and through Sidegate, in front of the same backend.

Statuses, subprotocols, close codes and end-to-end headers must be equal in both directions. Each intended difference is
asserted, and docs/from-nginx.md lists exactly these.
"""

import re
import sys
from dataclasses import dataclass, field

from harness import HERE, Authority, Nginx, Place, Sidegate, await_that, figure, need, note
from mirror import BINARY, CLOSE, PING, RSV1, TEXT, Backend, closing, connect, masked, values

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
UPGRADE = [("Upgrade", "websocket"), ("Connection", "Upgrade")]
HANDSHAKE = [*UPGRADE, ("Sec-WebSocket-Key", KEY), ("Sec-WebSocket-Version", "13")]
HELLO = [(TEXT, b"hello", {})]
LONG = [
    (BINARY, bytes(range(256)) * 800, {}),
    (TEXT, b"one ", {"fin": False}),
    (PING, b"between", {}),
    (0, b"two", {}),
    (TEXT, b"", {}),
]


@dataclass
class Case:
    """A request, the data sent through its tunnel, and the side that ends it: the client, or the backend after a text."""

    name: str
    target: str
    fields: list = field(default_factory=list)
    method: str = "GET"
    body: bytes = b""
    frames: list = field(default_factory=lambda: HELLO)
    early: bool = False
    close: bytes = closing(1000)
    tell: bytes = b""

    @property
    def attempt(self):
        return any(name.lower() == "sec-websocket-key" for name, _ in self.fields)


def tunnel(name, target="/ws/echo", fields=(), **more):
    return Case(name, target, [*HANDSHAKE, *fields], **more)


CASES = [
    tunnel("a bare handshake"),
    tunnel("subprotocols in one field", "/ws/echo?choose=v2.ticks", [("Sec-WebSocket-Protocol", "v1.ticks, v2.ticks")]),
    tunnel(
        "subprotocols in two fields",
        "/ws/echo?choose=v1.ticks",
        [("Sec-WebSocket-Protocol", "v2.ticks"), ("Sec-WebSocket-Protocol", "v1.ticks")],
    ),
    tunnel("no subprotocol chosen", fields=[("Sec-WebSocket-Protocol", "chat")]),
    tunnel(
        "an extension agreed on",
        "/ws/echo?extension=permessage-deflate;server_no_context_takeover",
        [("Sec-WebSocket-Extensions", "permessage-deflate; server_no_context_takeover; client_max_window_bits")],
        frames=[(TEXT, bytes.fromhex("f248cdc9c90700"), {"rsv": RSV1})],
    ),
    tunnel("an extension declined", fields=[("Sec-WebSocket-Extensions", "permessage-deflate")]),
    tunnel(
        "cookies and credentials",
        fields=[("Cookie", "session=a%20b; theme=dark"), ("Authorization", "Bearer eyJ.x.y"), ("User-Agent", "Mozilla/5.0")],
    ),
    Case(
        "any casing",
        "/ws/echo",
        [
            ("connection", "keep-alive, UPGRADE"),
            ("UPGRADE", "websocket"),
            ("sec-websocket-key", KEY),
            ("SEC-WEBSOCKET-VERSION", "13"),
            ("x-MiXeD-cAsE", "As It Came"),
        ],
    ),
    tunnel("a forged scheme", fields=[("X-Forwarded-Proto", "http")]),
    tunnel("an origin", fields=[("Origin", "https://app.example.com")]),
    tunnel("a query", "/ws/echo?token=a%2Fb%20c&x=1&x=2&y=+&z"),
    tunnel("an escaped path", "/ws/caf%C3%A9;v=1/@a:b,c/~d/"),
    tunnel("one name twice", fields=[("X-Multi", "first"), ("X-Other", "o"), ("X-Multi", "second, third")]),
    tunnel("long, empty and fragmented messages", frames=LONG),
    tunnel("frames before the 101", frames=LONG[:1] + HELLO, early=True),
    tunnel("the client closes with a code of its own", close=closing(4001, "bye")),
    tunnel("the client closes without a code", close=closing()),
    tunnel("the backend closes with a code of its own", tell=b"close 4002 enough"),
    tunnel("the backend closes with 1011", tell=b"close 1011"),
    tunnel("the backend closes without a code", tell=b"close"),
    tunnel("the backend goes without a Close", tell=b"drop"),
    tunnel("the backend wants a login", "/ws/status/401"),
    tunnel("the backend redirects", "/ws/status/302"),
    tunnel("the backend knows no such feed", "/ws/status/404"),
    tunnel("the backend is busy", "/ws/status/503"),
    Case("a plain GET", "/plain/page?a=1&b=%2F", [("Accept", "text/*"), ("If-None-Match", '"v0"')]),
    Case("a long answer", "/plain/big"),
    Case("a chunked answer", "/plain/chunked"),
    Case("a POST", "/plain/form", [("Content-Type", "application/json")], "POST", b'{"a": 1}' * 5000),
    Case("an empty POST", "/plain/form", [("Content-Length", "0")], "POST"),
    Case("PUT and DELETE pass", "/plain/thing", [], "DELETE"),
    Case("a HEAD", "/plain/page", [], "HEAD"),
    Case("not modified", "/plain/etag", [("If-None-Match", '"v1"')]),
    Case("no content", "/plain/204", [("Origin", "https://app.example.com")], "OPTIONS"),
    Case("a plain 401", "/plain/401"),
]


@dataclass
class Seen:
    """What both ends saw of one conversation."""

    status: int
    fields: list
    body: bytes
    frames: list
    close: bytes
    backend: dict


class World:
    def __init__(self, place):
        authority = Authority(place)
        self.ca, self.backend = authority.ca, Backend()
        certificate, behind = authority.issue("localhost"), f"http://127.0.0.1:{self.backend.port}"
        self.nginx = Nginx(place, certificate, self.backend.port).tls_port
        sidegate = Sidegate(place).certificate(certificate).policy()
        sidegate.route("feed", "/ws/", behind).route("plain", "/plain/", behind, http="forward")
        sidegate.route("slash", "/slash/", behind, http="forward")
        self.sidegate = sidegate.run().tls_port

    def both(self, case):
        return self.observe(case, self.nginx, "nginx"), self.observe(case, self.sidegate, "sidegate")

    def observe(self, case, port, by):
        tag = f"{case.name}, by {by}".replace(" ", "-")
        fields = [("Host", f"localhost:{port}"), *case.fields, ("X-Case", tag)]
        if case.body and not values(fields, "transfer-encoding"):
            fields.append(("Content-Length", str(len(case.body))))
        head = f"{case.method} {case.target} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in fields)
        frames = b"".join(masked(opcode, payload, **more) for opcode, payload, more in case.frames)

        wire = connect(port, self.ca)
        wire.send(head.encode() + b"\r\n" + (frames if case.early else case.body))
        start, answer = wire.head()
        status = int(start.split()[1])
        seen = Seen(status, [(name, value.replace(str(port), "PORT")) for name, value in answer], b"", [], None, {})
        if status == 101:
            self.through(wire, case, b"" if case.early else frames, seen)
        elif case.method != "HEAD" and status not in (204, 304):
            body = wire.body(answer)
            seen.body = wire.rest() if body is None else body
        wire.connection.close()
        seen.backend = await_that(f"the backend saw {tag}", lambda: self.backend.seen[tag], seconds=5)[-1]
        if status == 101:
            await_that(f"the backend saw the end of {tag}", lambda: seen.backend["end"] is not None, seconds=10)
        seen.backend["fields"] = [(name, value.replace(str(port), "PORT")) for name, value in seen.backend["fields"]]
        return seen

    @staticmethod
    def through(wire, case, frames, seen):
        wire.send(frames)
        seen.frames = [wire.frame() for _ in case.frames]
        wire.send(masked(TEXT, case.tell) if case.tell else masked(CLOSE, case.close))
        if case.tell == b"drop":
            seen.close = wire.rest()
            return
        first, seen.close = wire.frame()
        need(first == 0x80 | CLOSE, f"a Close ends {case.name}: {first:#x}")
        if case.tell:
            wire.send(masked(CLOSE, seen.close))
        need(wire.rest() == b"", f"nothing follows the Close of {case.name}")


def sorted_fields(fields, without):
    """By name, the values of one name in their order; the names spelled as they came."""
    return sorted(((name, value) for name, value in fields if name.lower() not in without), key=lambda pair: pair[0].lower())


# What differs on purpose is left out of the comparison, and asserted by the functions below.
OF_THE_PROXY = {"connection", "date", "server", "x-request-id"}
TO_THE_BACKEND = {
    "host", "connection", "upgrade", "x-case", "x-request-id", "x-real-ip",
    "x-forwarded-for", "x-forwarded-host", "x-forwarded-port",
}  # fmt: skip


def same(case, nginx, sidegate):
    """Every difference that is not listed."""

    def sides(seen):
        backend = seen.backend
        return {
            "status": seen.status,
            "answer": sorted_fields(seen.fields, OF_THE_PROXY),
            "body": seen.body,
            "frames": seen.frames,
            "close": seen.close,
            "request": backend["start"],
            "request's fields": sorted_fields(backend["fields"], TO_THE_BACKEND),
            "request's body": backend["body"] or b"",
            "backend's frames": backend["frames"],
            "backend's end": backend["end"],
        }

    theirs, ours = sides(nginx), sides(sidegate)
    return [
        f"{case.name}: {what}: nginx {theirs[what]!r}, sidegate {ours[what]!r}" for what in theirs if theirs[what] != ours[what]
    ]


DIFFERENCES = {}


def difference(title):
    """One row of the table in docs/from-nginx.md."""

    def keep(check):
        DIFFERENCES[title] = check
        return check

    return keep


def equal(actual, expected):
    need(actual == expected, f"{actual!r}, where {expected!r} is expected")


def to_backend(world, case, name):
    """What the backend gets of one field, from nginx and from Sidegate."""
    return tuple(values(seen.backend["fields"], name) for seen in world.both(case))


def to_client(world, case, name):
    return tuple(values(seen.fields, name) for seen in world.both(case))


@difference("`Host`")
def host(world):
    equal(to_backend(world, tunnel("host"), "host"), (["localhost"], ["localhost:PORT"]))


@difference("`X-Forwarded-For`")
def forwarded_for(world):
    equal(to_backend(world, tunnel("for"), "x-forwarded-for"), (["127.0.0.1"], ["127.0.0.1"]))
    forged = tunnel("a forged for", fields=[("X-Forwarded-For", "203.0.113.1")])
    equal(to_backend(world, forged, "x-forwarded-for"), (["203.0.113.1, 127.0.0.1"], ["127.0.0.1"]))


@difference("`X-Forwarded-Host`, `X-Forwarded-Port`")
def forwarded_host(world):
    equal(to_backend(world, tunnel("forwarded host"), "x-forwarded-host"), ([], ["localhost:PORT"]))
    equal(to_backend(world, tunnel("forwarded port"), "x-forwarded-port"), ([], ["PORT"]))


@difference("`X-Real-IP` and its kin")
def real_ip(world):
    forged = tunnel("a forged address", fields=[("X-Real-IP", "203.0.113.1"), ("True-Client-IP", "203.0.113.1")])
    equal(to_backend(world, forged, "x-real-ip"), (["127.0.0.1"], []))
    equal(to_backend(world, forged, "true-client-ip"), (["203.0.113.1"], []))


@difference("`X-Request-Id`")
def request_id(world):
    theirs, ours = to_backend(world, tunnel("an id"), "x-request-id")
    need(theirs == [] and len(ours) == 1 and ours[0], f"an id of Sidegate's: {theirs}, {ours}")
    theirs, ours = to_backend(world, tunnel("an id brought along", fields=[("X-Request-Id", "mine")]), "x-request-id")
    need(theirs == ["mine"] and len(ours) == 1 and ours != ["mine"], f"a stranger's id is replaced: {theirs}, {ours}")


@difference("Case of `Connection` and `Upgrade`")
def case_of_connection(world):
    shouted = Case("shouted", "/ws/echo", [("UPGRADE", "WebSocket"), ("CONNECTION", "UPGRADE"), *HANDSHAKE[2:]])
    equal(to_backend(world, shouted, "connection"), (["upgrade"], ["Upgrade"]))
    equal(to_backend(world, shouted, "upgrade"), (["WebSocket"], ["websocket"]))
    theirs, ours = to_client(world, shouted, "connection")
    equal([one.lower() for one in theirs + ours], ["upgrade", "upgrade"])


@difference("Order of the header fields")
def order(world):
    case = tunnel("order", fields=[("X-B", "2"), ("X-A", "1"), ("X-B", "3"), ("X-A", "4")])
    for name in ("x-a", "x-b"):
        theirs, ours = to_backend(world, case, name)
        equal(theirs, ours)


@difference("Fields that `Connection` names")
def named_in_connection(world):
    fields = [("Upgrade", "websocket"), ("Connection", "Upgrade, X-Hop"), *HANDSHAKE[2:], ("X-Hop", "1")]
    equal(to_backend(world, Case("a named field", "/ws/echo", fields), "x-hop"), (["1"], []))


@difference("Names with an underscore")
def underscore(world):
    equal(to_backend(world, tunnel("underscore", fields=[("X_Tenant", "acme")]), "x_tenant"), ([], ["acme"]))


@difference("The path")
def path(world):
    case = tunnel("a crooked path", "/ws/a/../%65cho//x?b=%65")
    starts = tuple(seen.backend["start"].split()[1] for seen in world.both(case))
    equal(starts, ("/ws/a/../%65cho//x?b=%65", "/ws/echo/x?b=%65"))


def targets(world, method, target):
    """What the backend gets of a target, byte for byte, from nginx and from Sidegate."""
    fields = HANDSHAKE if method == "ws" else []
    case = Case(f"{method} {target}".encode().hex(), target, fields)
    return tuple(seen.backend["start"].split(" ")[1].encode("latin-1").decode() for seen in world.both(case))


def statuses(world, target):
    """The answers of nginx and Sidegate to a plain request for a target."""
    found = []
    for port in (world.nginx, world.sidegate):
        wire = connect(port, world.ca)
        wire.send(f"GET {target} HTTP/1.1\r\nHost: localhost:{port}\r\nX-Case: {target.encode().hex()}\r\n\r\n".encode())
        found.append(int(wire.head()[0].split()[1]))
        wire.connection.close()
    return tuple(found)


@difference("`%2F`, `%23` and `%3F` in a path")
def hidden(world):
    for code in ("%2F", "%2f", "%23", "%3F"):
        equal(statuses(world, f"/plain/a{code}b"), (200, 400))


@difference("`..;`, `\\` and `%5C` in a path")
def dots(world):
    for odd in ("..;/x", "\\x", "%5Cx"):
        equal(statuses(world, f"/plain/{odd}"), (200, 400))
    for odd in ("/plain/%00", "/plain/%zz", "/plain/a b", "/plain/?a b", "/plain/?\x7f", "/plain/?\x1b"):
        equal(statuses(world, odd), (400, 400))
    equal(statuses(world, "/plain/?" + "a" * 8192), (414, 414))


@difference("Raw `<`, `>`, `` ` `` and non-ASCII in a path")
def raw_path(world):
    equal(targets(world, "ws", '/ws/<é>`"{}|^'), ('/ws/<é>`"{}|^', '/ws/%3C%C3%A9%3E%60"{}|^'))


@difference('Raw `"`, `<`, `>` and non-ASCII in a query')
def raw_query(world):
    query = '/page?{"a":"<é>"}|^`'
    equal(targets(world, "ws", f"/ws{query}"), (f"/ws{query}", f"/ws{query}"))
    equal(targets(world, "plain", f"/plain{query}"), (f"/plain{query}", "/plain/page?{%22a%22:%22%3C%C3%A9%3E%22}|^`"))


@difference("A fragment")
def fragment(world):
    equal(targets(world, "plain", "/plain/page?a#b"), ("/plain/page?a#b", "/plain/page?a"))


@difference("Connections to the backend")
def reuse(world):
    equal(to_backend(world, Case("a reused connection", "/plain/page"), "connection"), (["close"], []))


@difference("Chunked requests")
def chunked(world):
    body = b"5\r\nhello\r\n0\r\n\r\n"
    case = Case("a chunked POST", "/plain/form", [("Transfer-Encoding", "chunked")], "POST", body)
    theirs, ours = world.both(case)
    equal([seen.backend["body"] for seen in (theirs, ours)], [b"hello", b"hello"])
    equal([seen.body for seen in (theirs, ours)], [b"hello", b"hello"])
    equal([values(seen.backend["fields"], "content-length") for seen in (theirs, ours)], [["5"], []])
    equal([values(seen.backend["fields"], "transfer-encoding") for seen in (theirs, ours)], [[], ["chunked"]])


@difference("`Server` and `Date`")
def server(world):
    theirs, ours = to_client(world, Case("whose server", "/plain/page"), "server")
    need(theirs[0].startswith("nginx/") and ours == ["mirror"], f"nginx names itself, Sidegate stays out: {theirs}, {ours}")
    theirs, ours = to_client(world, Case("whose date", "/plain/page"), "date")
    need(theirs != ours and ours == ["Tue, 15 Nov 1994 08:12:31 GMT"], f"the backend's date: {theirs}, {ours}")


def sent_on(world, port, target, fields=()):
    """The status of a request without a body, and where its answer leads."""
    wire = connect(port, world.ca)
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields)
    wire.send(f"GET {target} HTTP/1.1\r\nHost: localhost:{port}\r\n{lines}\r\n".encode())
    start, answered = wire.head()
    wire.connection.close()
    return int(start.split()[1]), values(answered, "location")


@difference("`/ticks` where the location is `/ticks/`")
def slash(world):
    equal(sent_on(world, world.nginx, "/slash?a=1"), (301, [f"https://localhost:{world.nginx}/slash/?a=1"]))
    equal(sent_on(world, world.sidegate, "/slash?a=1"), (308, ["/slash/?a=1"]))
    attempts = [sent_on(world, port, "/slash", HANDSHAKE) for port in (world.nginx, world.sidegate)]
    equal([status for status, _ in attempts], [301, 404])


@difference("Plain HTTP on a WebSocket route")
def plain(world):
    page = Case("plain where only tunnels go", "/ws/status/page")
    equal(world.observe(page, world.nginx, "nginx").status, 200)
    wire = connect(world.sidegate, world.ca)
    wire.send(f"GET {page.target} HTTP/1.1\r\nHost: localhost:{world.sidegate}\r\n\r\n".encode())
    start, fields = wire.head()
    need(start.startswith("HTTP/1.1 426"), f"Sidegate asks for an upgrade: {start}")
    equal(values(fields, "sec-websocket-version"), ["13"])


def listed():
    """The rows of the table in docs/from-nginx.md."""
    text = (HERE.parent.parent / "docs/from-nginx.md").read_text()
    table = text.partition("## What differs")[2].partition("\n## ")[0]
    return re.findall(r"^\| \*\*(.+?)\*\* \|", table, re.M)


def main():
    with Place() as place:
        world = World(place)
        unlike = []
        for case in CASES:
            found = same(case, *world.both(case))
            unlike += found
            note(f"{'differs' if found else 'same'}: {case.name}")
        for title, check in DIFFERENCES.items():
            try:
                check(world)
                note(f"as documented: {title}")
            except AssertionError as fault:
                unlike.append(f"{title}: {fault}")
        need(not unlike, "differences that are not listed:\n" + "\n".join(unlike))
        need(listed() == list(DIFFERENCES), f"docs/from-nginx.md lists what is asserted here: {listed()}")
        figure(f"{len(CASES)} conversations alike, {len(DIFFERENCES)} differences as documented")


if __name__ == "__main__":
    sys.exit(main())
