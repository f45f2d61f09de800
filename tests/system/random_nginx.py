"""Random nginx configurations, and the requests that try them.

A configuration is a tree of directives, so that a failing one can be made smaller. All randomness comes from the
generator that is passed in. It knows nothing of Sidegate.
"""

import urllib.parse
from dataclasses import dataclass

SEGMENTS = ["a", "b", "ab", "admin", "A", "a1", ".ht", "x.php"]

# Segments with signs that mean something elsewhere, and ends of prefixes that are no whole segments.
ODD = ["a*b", "{a}", "a b", "\u00e9", "%2f", ".a", "..a", "a;b", "a?b", "a+b", "...", "*"]
ENDS = [".", "..", "*", "/./x", "//", "/../x"]

# What a location for a path without its slash may do, beside the same path with it.
SHUTS = [
    "return 403", "return 404", "return 301 {path}/", "return 302 $scheme://$http_host{path}/", "return 301 $uri/",
    "return 301 /login", "return 301 {path}", "deny all", "auth_basic staff", "root /nowhere", "internal", "return 200",
]  # fmt: skip

# Durations, most of them unusually long.
TIMES = ["0", "10", "60s", "75", "250ms", "1h30m", '"1h 30m"', "1s5", "366d", "367d", "520w", "9223372036854775", "1m", "2m"]
TIMED = [
    "proxy_read_timeout", "proxy_send_timeout", "proxy_connect_timeout", "client_body_timeout", "send_timeout",
]  # fmt: skip
SIZES = ["0", "512", "10k", "8M", "2g", "8589934591g"]

# Regular expressions, and paths that each of them matches or nearly matches.
PATTERNS = [
    ("^/a/", ["/a/", "/a/x", "/A/x"]),
    ("^/a", ["/a", "/ax", "/a/b"]),
    ("^/(a|b)$", ["/a", "/b", "/a%0A", "/c"]),
    ("^/(a|ab)/", ["/a/x", "/ab/x"]),
    ("^/a/[0-9]+$", ["/a/7", "/a/x", "/a/7%0A"]),
    ("^/a/[0-9]+/b", ["/a/7/b", "/a/7"]),
    (r"\.php$", ["/x.php", "/a/x.php", "/b/x.PHP"]),
    ("admin", ["/admin", "/a/admin", "/xadminx", "/ADMIN"]),
    (r"/\.ht", ["/.ht", "/a/.htaccess"]),
    ("^/(?!b)", ["/a", "/b", "/b/x"]),
    ("^/a/(.*)$", ["/a/", "/a/x"]),
    ("^/[ab]/x", ["/a/x", "/b/xy", "/c/x"]),
    ("^/a?b", ["/ab", "/b", "/bx"]),
    ("^/b/.+", ["/b/", "/b/x"]),
    ("^/(a/)?b/", ["/a/b/x", "/b/x"]),
    (r"^/a\b", ["/a", "/a/x", "/ab"]),
    ("(?i)^/AB/", ["/ab/x", "/AB/x", "/Ab/x"]),
    ("^/admin.*x$", ["/adminx", "/admin/x", "/admin/y"]),
    ("^/a$|b", ["/a", "/xb", "/x"]),
    ("^/a+$", ["/a", "/aa"]),
    ("^/(?:a|b)(?:/x)?$", ["/a", "/a/x", "/b/x"]),
    ("/", ["/x"]),
]

# What a client may send besides, by which conditions and limits decide.
FIELDS = [(), (), (("X-Key", "no"),), (("X-Key", "yes"),), (("Referer", "http://evil.example/"),)]

NAMES = ["one.example", "*.one.example", ".two.example", r"~^r[0-9]\.example$", "one.*", "_", '""']
HOSTS = ["one.example", "a.one.example", "a.b.one.example", "two.example", "a.two.example", "r1.example", "one.net", "other.net"]

# Peers whose word counts for a client's address, and where that word is.
TRUSTED = [
    "127.1.0.0/16", "127.1.0.0/16", "127.1.0.7", "127.2.0.0/16", "127.0.0.0/8", "unix:", "unix:", "0.0.0.0/0", "::1",
    "::ffff:127.0.0.0/104", "localhost", "0.0.0.0/1", "128.0.0.0/1", "64.0.0.0/2",
]  # fmt: skip
NAMED_BY = ["X-Forwarded-For"] * 6 + ["proxy_protocol"] * 3 + ["x-forwarded-for", "X-Real-IP", "Forwarded", "X-Key"]

# Networks of IPv6: all of them, some with IPv4-mapped addresses, and one without.
NETWORKS6 = ["::/0", "::/0", "::/1", "::/64", "::ffff:127.2.0.0/112", "::ffff:127.1.0.7", "::ffff:0:0/96", "2001:db8::/32", "::1"]

# An address that a narrower `listen` has beside a wildcard.
NARROW = "127.0.0.9"

PORT = "PORT"
BACKEND = "BACKEND"
SOCKET = "SOCKET"

TABLES = {
    "map $http_upgrade $connection_upgrade": ["default upgrade", '"" close'],
    "map $http_x_key $mapped": ["default 0", "no 1"],
    "geo $near": ["default 1", "127.1.0.0/16 0"],
}
ZONES = [
    "limit_req_zone $binary_remote_addr zone=client:1m rate=1r/m",
    "limit_req_zone $binary_remote_addr zone=other:1m rate=2r/m",
    "limit_req_zone $http_x_key zone=keyed:1m rate=1r/m",
    "limit_conn_zone $binary_remote_addr zone=count:1m",
]


@dataclass
class Node:
    """A directive, or a block of them."""

    text: str
    inside: list = None

    def lines(self, depth=0):
        space = "    " * depth
        if self.inside is None:
            return [f"{space}{self.text};"]
        inner = [line for node in self.inside for line in node.lines(depth + 1)]
        return [f"{space}{self.text} {{", *inner, f"{space}}}"]


@dataclass(frozen=True)
class Probe:
    """One request, or the same one twice: the verdict is that of the last."""

    client: str
    host: str
    method: str
    path: str
    fields: tuple
    upgrade: bool
    times: int
    unix: bool = False
    proxied: str = ""
    to: str = "127.0.0.1"


class Generator:
    """A configuration and its requests, from one source of randomness."""

    def __init__(self, random):
        self.random = random
        self.paths = {"/", "/x", "/x/y"}
        self.texts = ["/"]
        self.twice = False
        # Both kinds of sockets lead to the same servers.
        self.unix, self.proxied, self.named = self.often(25), self.often(15), self.often(45)
        # Sockets whose IPv4 clients have IPv4-mapped addresses, and rules about IPv6.
        self.wide = self.pick(["127.0.0.1:"] * 6 + ["", "[::]:", "[::]:"])
        self.v6, self.narrow = self.often(20) or self.wide == "[::]:", self.wide == "" and self.often(70)

    def often(self, percent):
        return self.random.random() * 100 < percent

    def pick(self, options):
        return self.random.choice(options)

    def configuration(self):
        servers = [self.server(number) for number in range(self.pick([1, 1, 1, 2, 3]))]
        if self.proxied and not any(node.text.endswith("proxy_protocol") for server in servers for node in server.inside):
            servers[0].inside[0].text += " proxy_protocol"
        if self.narrow:
            servers.append(self.beside())
        level = [node for node in self.access() if self.often(20)]
        if self.named and self.often(50):
            level += self.trust()
        recipe = [
            Node("proxy_http_version 1.1"),
            Node("proxy_set_header Upgrade $http_upgrade"),
            Node("proxy_set_header Connection $connection_upgrade"),
        ]
        tables = [Node(name, [Node(line) for line in lines]) for name, lines in TABLES.items()]
        files = [Node("auth_basic_user_file /dev/null"), Node("root /nowhere")]
        return [Node("http", tables + [Node(zone) for zone in ZONES] + files + recipe + level + servers)]

    def server(self, number):
        shared = " ipv6only=off" if self.wide == "[::]:" and number == 0 else ""
        inside = [Node(f"listen {self.wide}{PORT}{shared}{self.pick(['', ' proxy_protocol']) if self.proxied else ''}")]
        if self.unix:
            inside.append(Node(f"listen unix:{SOCKET}"))
        if self.named and self.often(60):
            inside += self.trust()
        if number > 0 or self.often(60):
            inside.append(Node(f"server_name {self.pick(NAMES)}"))
        for chance, make in ((15, self.access), (6, self.guard), (8, self.condition), (12, self.rewrite)):
            if self.often(chance):
                inside += make()
        if self.often(2):
            inside.append(Node(f"return {self.pick([403, 404, 200])}"))
        seen, locations = set(), [self.location("/", "", 0)] if self.often(75) else []
        for _ in range(self.random.randrange(1, 6)):
            locations.append(self.location(*self.head(""), 0))
        if self.often(40):
            locations.append(Node("location @named", self.body("@named", 2)))
        if self.often(40):
            locations.append(self.without_slash())
        if self.often(10):
            inside.append(Node(self.pick(["absolute_redirect off", "client_header_timeout 5s", "keepalive_timeout 0"])))
        self.random.shuffle(locations)
        for node in locations:
            if node.text not in seen:
                seen.add(node.text)
                inside.append(node)
        return Node("server", inside)

    def beside(self):
        """A server at an address that the socket of the others has as well."""
        inside = [Node(f"listen {NARROW}:{PORT}")]
        if self.often(50):
            inside.append(Node(f"server_name {self.pick(NAMES)}"))
        shut = self.pick(["return 403", "return 404", "root /nowhere", "return 200", "auth_basic staff"])
        return Node("server", [*inside, Node("location /", [Node(shut)])])

    def path(self, outer):
        start = outer if outer.startswith("/") else "/"
        segments = [self.pick(ODD if self.often(12) else SEGMENTS) for _ in range(self.pick([1, 1, 2]))]
        return start + "/".join(segments) + (self.pick(ENDS) if self.often(5) else self.pick(["", "/", "/"]))

    def without_slash(self):
        """A location for a path that another one has with a slash."""
        slashed = [path for path in self.texts if path.endswith("/") and path != "/"] or [f"/{self.pick(SEGMENTS)}/"]
        path = self.pick(slashed)[:-1]
        self.paths.add(urllib.parse.quote(path))
        inside = [Node(self.pick(SHUTS).format(path=path))] if self.often(85) else []
        if self.often(50):
            inside.append(Node(f"proxy_pass http://127.0.0.1:{BACKEND}"))
        sign = self.pick(["= ", "= ", "= ", "", "^~ ", "~ "])
        if sign == "~ ":
            return Node(f"location ~ {self.quoted(f'^{path}$', sign)}", inside)
        return Node(f"location {sign}{self.quoted(path, sign)}", inside)

    @staticmethod
    def quoted(path, sign):
        """A location's path as a word; in a regular expression a backslash stays what it is."""
        special = set(' {};"*?') & set(path)
        if not special:
            return path
        return f'"{path}"' if "~" in sign and sign != "^~ " else '"' + path.replace("\\", "\\\\") + '"'

    def head(self, outer):
        """Path and modifier of a location inside `outer`."""
        if self.often(45):
            pattern, samples = self.pick(PATTERNS)
            self.paths.update(samples)
            return pattern, self.pick(["~ ", "~ ", "~* "])
        if outer.startswith("^"):
            return self.head(outer)
        path = self.path(outer)
        self.texts.append(path)
        self.paths.add(urllib.parse.quote(path))
        return path, self.pick(["", "", "", "= ", "^~ "])

    def location(self, path, sign, depth):
        quoted = self.quoted(path, sign)
        inside = self.body(path, depth)
        if depth < 2 and sign in ("", "^~ ") and self.often(25):
            seen = set()
            for _ in range(self.pick([1, 2])):
                inner = self.location(*self.head(path), depth + 1)
                if inner.text not in seen:
                    seen.add(inner.text)
                    inside.append(inner)
        return Node(f"location {sign}{quoted}", inside)

    def body(self, path, depth):
        inside = []
        for chance, make in ((35, self.access), (12, self.guard), (12, self.condition), (10, self.rewrite), (8, self.limit)):
            if self.often(chance):
                inside += make()
        if self.named and self.often(8):
            inside += self.trust()
        if self.often(4):
            inside.append(Node("internal"))
        if self.often(5):
            inside.append(Node("satisfy any"))
        if self.often(5):
            inside.append(Node("limit_except GET", [Node("deny all")]))
        if self.often(5):
            inside.append(Node("proxy_set_header X-Other 1"))
        if self.often(5):
            inside.append(Node(f"try_files $uri {self.pick(['=404', '@named', '/b/x'])}"))
        if self.often(10):
            inside.append(Node(f"return {self.pick([403, 404, 444, 401, 200, 204, '302 /b/x'])}"))
        if self.often(80):
            inside.append(Node(f"proxy_pass http://127.0.0.1:{BACKEND}"))
        if self.often(15):
            inside.append(Node(f"{self.pick(TIMED)} {self.pick(TIMES)}"))
        if self.often(5):
            inside.append(Node(f"client_max_body_size {self.pick(SIZES)}"))
        return inside

    def access(self):
        networks = ["127.1.0.0/16", "127.2.0.0/16", "127.0.0.0/9", "127.1.0.7", "all", "all"]
        networks += ["unix:", "unix:"] if self.unix else []
        if self.v6:
            # Mostly without a rule about IPv4: nginx then judges IPv4-mapped addresses by these.
            networks = NETWORKS6 if self.often(70) else networks + NETWORKS6
            if self.often(80):
                return [Node(f"{self.pick(['allow', 'deny'])} {self.pick(networks)}") for _ in range(self.pick([1, 2, 2, 3]))]
        rules = [Node(f"{self.pick(['allow', 'deny'])} {self.pick(networks)}") for _ in range(self.pick([1, 2, 2, 3]))]
        return rules + ([Node("deny all")] if self.often(50) else [])

    def trust(self):
        """Whose word counts for the address of a client; some of it may be left to an outer level."""
        peers = [Node(f"set_real_ip_from {self.pick(TRUSTED)}") for _ in range(self.pick([0, 1, 1, 1, 2]))]
        header = [Node(f"real_ip_header {self.pick(NAMED_BY)}")] if self.often(75) else []
        recursive = [Node(f"real_ip_recursive {self.pick(['on', 'on', 'off'])}")] if self.often(60) else []
        return peers + header + recursive

    def guard(self):
        return [
            self.pick(
                [
                    Node("auth_basic staff"),
                    Node("auth_basic off"),
                    Node("auth_request /auth"),
                    Node("auth_request off"),
                ]
            )
        ]

    def condition(self):
        asked = ["$http_x_key = no", "$mapped", "$near", "$request_method = POST", "$invalid_referer", "$arg_k", "$uri ~ admin"]
        asked = self.pick(asked)
        then = self.pick(
            [
                "return 403", "return 404", "return 444", "return 401", "return 302 /b/x", "return 200", "return 204",
                "rewrite ^ /b/x last", "rewrite ^ /a/x break", "rewrite ^/a(.*)$ /b$1", "set $seen 1", "break",
            ]
        )  # fmt: skip
        before = [Node("valid_referers none server_names")] if "referer" in asked else []
        return [*before, Node(f"if ({asked})", [Node(then)])]

    def rewrite(self):
        pattern, samples = self.pick(PATTERNS)
        self.paths.update(samples)
        to = self.pick(["/b/x", "/a/x", "/admin/x", "/b$uri", "$uri/x", "/a?k=1", "https://elsewhere.example/"])
        flag = self.pick(["last", "last", "break", "", "redirect"])
        return [Node(f'rewrite "{pattern}" {to} {flag}'.strip())]

    def limit(self):
        self.twice = True
        limits = ["limit_req zone=client", "limit_req zone=keyed", "limit_req zone=other burst=1 nodelay", "limit_conn count 5"]
        return [Node(self.pick(limits))] + ([Node("limit_req zone=other")] if self.often(15) else [])

    def probes(self, count):
        """So many requests; no client comes twice where requests are counted."""
        for number in range(count):
            low = f"{self.pick([0, 9])}.{self.pick([7, 8])}"
            if self.twice:
                low = f"{10 + number // 200}.{2 + number % 200}"
            yield Probe(
                f"127.{self.pick([1, 2, 200] if self.twice else [1, 2, 9, 200])}.{low}",
                self.pick(HOSTS),
                self.pick(["GET", "GET", "GET", "POST"]),
                self.crooked(self.pick(sorted(self.paths))),
                self.pick(FIELDS) + self.claims(low),
                self.often(50),
                2 if self.twice and self.often(50) else 1,
                # All users of this host are one client, who would come twice.
                self.unix and not self.twice and self.often(40),
                self.header(low),
                NARROW if self.narrow and self.often(30) else "127.0.0.1",
            )

    def claims(self, low):
        """What a proxy, or a client in its place, says about the address of a client."""
        if not self.named or self.often(20):
            return ()
        # No element of ",A": nginx reads the comma as a part of the address.
        mapped = lambda: "::ffff:" if self.v6 and self.often(40) else ""
        plain = lambda: f"127.{self.pick([1, 1, 2, 2, 9, 200])}.{low}"
        one = lambda: mapped() + plain() if self.often(70) else plain() + self.pick(["", ":80"])
        # An address of IPv6 is that of many probes.
        odd = ["unknown"] if self.twice else ["unknown", "::1", "[::1]:80"]
        element = lambda: one() if self.often(75) else self.pick(odd)
        line = lambda: ", ".join(element() for _ in range(self.pick([1, 1, 2, 2, 3])))
        names = ["X-Forwarded-For", "X-Forwarded-For", "x-forwarded-for", "X-Real-IP"]
        return tuple((self.pick(names), line()) for _ in range(self.pick([1, 1, 1, 2])))

    def header(self, low):
        """A PROXY header; mostly where one is expected."""
        if not self.often(80 if self.proxied else 3):
            return ""
        source = f"127.{self.pick([1, 2, 9, 200])}.{low}"
        named = f"PROXY TCP4 {source} 127.0.0.1 4000 80\r\n"
        mapped = f"PROXY TCP6 ::ffff:{source} ::1 4000 80\r\n"
        return self.pick([named] * 4 + ["PROXY UNKNOWN\r\n"] + [mapped] * (4 if self.v6 else 0))

    def crooked(self, path):
        """The path, or another one near it. A line feed stays where a pattern has it: docs/decisions/018-import-opens.md."""
        if "%0A" in path:
            return path
        bare = path.rstrip("/")
        more = [path, path, f"{path}x", f"{bare}/", f"{bare}/x", f"{bare}/x.php", f"{bare}/.ht", bare or "/"]
        odd = [f"/{path}", f"/.{path}", f"/x/..{path}", path.replace("a", "%61", 1), path.swapcase(), f"{path}?k=1"]
        return self.pick(more if self.often(75) else odd)


def places(nodes, before=()):
    """The place of every node, as the numbers that lead there."""
    for number, node in enumerate(nodes):
        yield (*before, number)
        yield from places(node.inside or [], (*before, number))


def without(nodes, place):
    """The tree without the node at a place."""
    number, *rest = place
    if not rest:
        return nodes[:number] + nodes[number + 1 :]
    node = nodes[number]
    return nodes[:number] + [Node(node.text, without(node.inside, rest))] + nodes[number + 1 :]


def text(nodes, port, backend, unix="/run/public.sock"):
    lines = [line for node in nodes for line in node.lines()]
    return "\n".join(lines).replace(PORT, str(port)).replace(BACKEND, str(backend)).replace(SOCKET, str(unix)) + "\n"
