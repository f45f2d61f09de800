"""Client certificates: `openssl s_client`, Python's `ssl` and `websockets`, with names of SPIFFE's kind."""

import asyncio
import os
import ssl

from harness import Authority, Sidegate, await_that, echo_backend, need, replace, run
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

NAMES = '[client]\nallow = ["any"]\ncertificate = { allow = ["spiffe://a.example/ws/**"] }\n'


class Clients:
    """An authority for clients, which can revoke what it has issued."""

    def __init__(self, place, name="clients"):
        self.dir = place.dir / name
        self.dir.mkdir()
        self.config = self.write(
            "ca.cnf",
            f"[ca]\ndefault_ca = own\n[own]\ndir = {self.dir}\ndatabase = {self.dir}/index.txt\nserial = {self.dir}/serial\n"
            f"crlnumber = {self.dir}/crlnumber\nnew_certs_dir = {self.dir}\ndefault_md = sha256\npolicy = any\n"
            f"certificate = {self.dir}/ca.pem\nprivate_key = {self.dir}/ca.key\ndefault_crl_days = 30\nunique_subject = no\n"
            "[any]\ncommonName = supplied\n[req]\ndistinguished_name = dn\nprompt = no\n[dn]\nCN = clients\n"
            "[root]\nbasicConstraints = critical, CA:true\nkeyUsage = critical, keyCertSign, cRLSign\nsubjectKeyIdentifier = hash\n",
        )
        for file, text in [("index.txt", ""), ("serial", "1000\n"), ("crlnumber", "01\n")]:
            self.write(file, text)
        self.openssl("req", "-x509", "-config", self.config, "-extensions", "root", "-days", "30", "-nodes", "-newkey", "ec",
                     "-pkeyopt", "ec_paramgen_curve:prime256v1", "-keyout", "ca.key", "-out", "ca.pem")  # fmt: skip
        self.crl()

    def write(self, name, text):
        path = self.dir / name
        path.write_text(text)
        return path

    def openssl(self, *argv):
        return run("openssl", *argv, cwd=self.dir)

    def issue(self, name, uri, dates=()):
        """A certificate with this URI, and its key, in one file."""
        extensions = self.write(f"{name}.ext", f"extendedKeyUsage = clientAuth\nsubjectAltName = URI:{uri}\n")
        self.openssl("req", "-new", "-config", self.config, "-subj", f"/CN={name}", "-nodes", "-newkey", "ec",
                     "-pkeyopt", "ec_paramgen_curve:prime256v1", "-keyout", f"{name}.key", "-out", f"{name}.csr")  # fmt: skip
        self.openssl("ca", "-config", self.config, "-batch", "-notext", "-extfile", extensions, "-in", f"{name}.csr",
                     "-out", f"{name}.crt", *(dates or ("-days", "10")))  # fmt: skip
        return self.write(f"{name}.pem", (self.dir / f"{name}.crt").read_text() + (self.dir / f"{name}.key").read_text())

    def serial(self, name):
        return self.openssl("x509", "-in", f"{name}.crt", "-noout", "-serial").strip().partition("=")[2]

    def crl(self, revoked=None):
        """The text of the revocation list, with this certificate too."""
        if revoked:
            self.openssl("ca", "-config", self.config, "-revoke", f"{revoked}.crt")
        self.openssl("ca", "-config", self.config, "-gencrl", "-out", "list.crl")
        return (self.dir / "list.crl").read_text()


def asking(place, clients, *keys, policy=NAMES):
    """Sidegate with these `client_certificates`, whose files are in `etc/trust/`."""
    authority = Authority(place)
    sidegate = Sidegate(place).policy(text=policy).route("echo", "/", f"http://127.0.0.1:{echo_backend(place)}")
    sidegate.certificate(authority.issue("server"))
    place.write("etc/trust/clients.pem", (clients.dir / "ca.pem").read_text())
    place.write("etc/trust/clients.crl", clients.crl())
    place.write("etc/trust/revoked.serials", "# none\n")
    sidegate.public.append("client_certificates = { " + ", ".join(('ca = "trust/clients.pem"', *keys)) + " }")
    sidegate.settings = '[reload]\nrevoke_spread = "0s"\n'
    sidegate.authority = authority
    return sidegate.run()


def opened(sidegate, shown=None):
    """A WebSocket by Python's TLS, with this certificate."""
    context = ssl.create_default_context(cafile=sidegate.authority.ca)
    if shown:
        context.load_cert_chain(shown)
    return connect(f"wss://localhost:{sidegate.tls_port}/", ssl=context, open_timeout=10)


async def outcome(sidegate, shown=None):
    """`echo`, the status of a refusal, or `tls`."""
    try:
        async with opened(sidegate, shown) as tunnel:
            await tunnel.send("x")
            return "echo" if await tunnel.recv() == "x" else "other"
    except Exception as error:
        response = getattr(error, "response", None)
        return response.status_code if response else "tls"


def test_each_kind_of_certificate_gets_its_answer(place):
    clients, others = Clients(place), Clients(place, "others")
    past = ("-startdate", "20200101000000Z", "-enddate", "20210101000000Z")
    cases = [
        ("good", clients.issue("good", "spiffe://a.example/ws/one/two"), "echo"),
        ("of another name", clients.issue("other", "spiffe://a.example/db"), 403),
        ("expired", clients.issue("old", "spiffe://a.example/ws/old", past), "tls"),
        ("foreign", others.issue("foreign", "spiffe://a.example/ws/foreign"), "tls"),
        ("none", None, 403),
    ]
    sidegate = asking(place, clients, 'mode = "optional"')
    for what, shown, expected in cases:
        found = asyncio.run(outcome(sidegate, shown))
        need(found == expected, f"{what}: {found}")
    for version in ["-tls1_2", "-tls1_3"]:
        said = run("openssl", "s_client", "-connect", f"127.0.0.1:{sidegate.tls_port}", "-servername", "localhost", version,
                   "-cert", cases[0][1], "-CAfile", sidegate.authority.ca, "-brief", input="")  # fmt: skip
        need("Verification: OK" in said and "alert" not in said, f"s_client {version}: {said}")


def test_limits_count_by_identity_and_not_by_address(place):
    """One tunnel for each identity: a renewed certificate has the same, and no certificate is counted by address."""
    clients = Clients(place)
    limits = '[limits]\nconnections = { per_client = 1, per = "identity" }\n'
    policy = '[client]\nallow = ["any"]\n' + limits
    sidegate = asking(place, clients, 'mode = "optional"', policy=policy)
    one, renewed = (clients.issue(name, "spiffe://a.example/ws/one") for name in ["one", "renewed"])
    two = clients.issue("two", "spiffe://a.example/ws/two")

    async def story():
        async with opened(sidegate, one):
            for what, shown, expected in [("renewed", renewed, 429), ("two", two, "echo")]:
                found = await outcome(sidegate, shown)
                need(found == expected, f"{what}: {found}")
            async with opened(sidegate):
                found = await outcome(sidegate)
                need(found == 429, f"none, beside another without one: {found}")

    asyncio.run(story())
    await_that("the place is given back", lambda: asyncio.run(outcome(sidegate, renewed)) == "echo")


def test_listed_serial_and_revocation_list_end_tunnels(place):
    clients = Clients(place)
    shown = {name: clients.issue(name, f"spiffe://a.example/ws/{name}") for name in ["first", "second", "third"]}
    sidegate = asking(place, clients, 'crl = ["trust/clients.crl"]', 'revoked_serials = "trust/revoked.serials"')
    trust = place.dir / "etc" / "trust"

    async def closes(tunnel):
        try:
            await asyncio.wait_for(tunnel.recv(), 20)
        except ConnectionClosed as closed:
            return closed.rcvd and (closed.rcvd.code, closed.rcvd.reason)

    async def story():
        tunnels = {name: await opened(sidegate, path) for name, path in shown.items()}
        replace(trust / "revoked.serials", f"{clients.serial('first')}  ticket=SEC-1\n")
        need(await closes(tunnels["first"]) == (1008, "identity"), "a listed serial number")
        replace(trust / "clients.crl", clients.crl("second"))
        need(await closes(tunnels["second"]) == (1008, "identity"), "a revocation list")
        await tunnels["third"].send("still")
        need(await tunnels["third"].recv() == "still", "the third is not disturbed")
        for name, expected in [("first", "tls"), ("second", "tls"), ("third", "echo")]:
            found = await outcome(sidegate, shown[name])
            need(found == expected, f"{name} once more: {found}")
        await tunnels["third"].close()

    asyncio.run(story())
    lines = sidegate.process.err.read_text()
    need('"identity":"spiffe://a.example/ws/first"' in lines, "the log names the identity")


def test_bundle_is_swapped_by_a_link(place):
    """As SPIFFE's helpers and Kubernetes do: a link to a folder, which is replaced whole."""
    old, new = Clients(place, "old"), Clients(place, "new")
    known = {"old": old.issue("a", "spiffe://a.example/ws/a"), "new": new.issue("b", "spiffe://a.example/ws/b")}
    for name, clients in [("old", old), ("new", new)]:
        place.write(f"etc/bundle-{name}/clients.pem", (clients.dir / "ca.pem").read_text())
    link = place.dir / "etc" / "bundle"
    link.symlink_to("bundle-old")
    sidegate = asking(place, old)
    sidegate.public[-1] = 'client_certificates = { ca = "bundle/clients.pem" }'
    place.write("etc/sidegate.toml", sidegate.toml())
    sidegate.reload()
    need(asyncio.run(outcome(sidegate, known["old"])) == "echo", "the old authority's client")

    async def story():
        async with opened(sidegate, known["old"]) as tunnel:
            (link.parent / "next").symlink_to("bundle-new")
            os.replace(link.parent / "next", link)
            try:
                await asyncio.wait_for(tunnel.recv(), 20)
            except ConnectionClosed as closed:
                return closed.rcvd and closed.rcvd.code

    need(asyncio.run(story()) == 1008, "the swap ends its tunnel")
    await_that("the new authority's client is served", lambda: asyncio.run(outcome(sidegate, known["new"])) == "echo")
    need(asyncio.run(outcome(sidegate, known["old"])) == "tls", "and the old one's no more")
