"""Server names, certificates and hosts: proxies that send no server name, and the two keys of one name."""

import http.client
import http.server
import subprocess
import threading

from harness import Authority, Sidegate, await_that, free_port, listening, need, run

HOSTS = ["a.example", "b.example", "x.c.example"]


def backend():
    """A server that answers with the Host that it got; returns its port."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            body = self.headers["Host"].encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_port


def three(place, *keys):
    """Sidegate with a certificate for each of three hosts, and a route for any; `keys` are of its TLS listener."""
    authority = Authority(place)
    sidegate = Sidegate(place).policy()
    for name, names in [("a", "DNS:a.example"), ("b", "DNS:b.example"), ("c", "DNS:*.c.example")]:
        sidegate.certificate(authority.issue(name, names))
    sidegate.public += keys
    url = f"http://127.0.0.1:{backend()}"
    sidegate.settings = (
        f'[[route]]\nname = "all"\nhost = "*"\npath = "/"\npolicy = "open"\nbackend = "{url}"\nhttp = "forward"\n'
    )
    return sidegate.run()


def nginx(place, sidegate, server_name=""):
    """nginx that forwards over TLS, with its defaults; returns its port."""
    port = free_port()
    config = place.write(
        "nginx.conf",
        f"daemon off; pid {place.dir}/nginx.pid; error_log stderr; worker_processes 1;\nevents {{}}\n"
        f"http {{ access_log off; client_body_temp_path {place.dir}/b; proxy_temp_path {place.dir}/p;\n"
        f"fastcgi_temp_path {place.dir}/f; uwsgi_temp_path {place.dir}/u; scgi_temp_path {place.dir}/s;\n"
        f"server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass https://127.0.0.1:{sidegate.tls_port};\n"
        f"proxy_http_version 1.1; proxy_set_header Host $http_host; {server_name} }} }} }}\n",
    )
    process = place.start("nginx", "nginx", "-p", place.dir, "-c", config)
    await_that("nginx listens", lambda: process.alive() and listening(port))
    return port


def haproxy(place, sidegate, more=""):
    """HAProxy that forwards over TLS; returns its port."""
    port = free_port()
    config = place.write(
        "haproxy.cfg",
        "defaults\n mode http\n timeout connect 5s\n timeout client 10s\n timeout server 10s\n"
        f"frontend in\n bind 127.0.0.1:{port}\n default_backend out\n"
        f"backend out\n server one 127.0.0.1:{sidegate.tls_port} ssl verify none {more}\n",
    )
    process = place.start("haproxy", "haproxy", "-db", "-f", config)
    await_that("haproxy listens", lambda: process.alive() and listening(port))
    return port


def answer(port, host):
    """Status and body of the answer to a request for `host`."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", "/", headers={"Host": host})
    response = connection.getresponse()
    return response.status, response.read().decode()


def test_proxies_without_server_name_reach_every_host(place):
    sidegate = three(place)
    for name, port in [("nginx", nginx(place, sidegate)), ("HAProxy", haproxy(place, sidegate))]:
        for host in [*HOSTS, "unknown.example"] * 2:
            found = answer(port, host)
            need(found == (200, host), f"{name} asks for {host}: {found}")
    need(not sidegate.metric("refusals_total"), "nothing is refused")


def test_a_fixed_server_name_contradicts_other_hosts(place):
    sidegate = three(place)
    fixed = "proxy_ssl_server_name on; proxy_ssl_name b.example;"
    ports = [
        ("nginx", nginx(place, sidegate, fixed)),
        ("HAProxy", haproxy(place, sidegate, "sni str(b.example)")),
    ]
    for name, port in ports:
        for host, status in [("b.example", 200), ("a.example", 421), ("x.c.example", 421), ("unknown.example", 200)]:
            found, _ = answer(port, host)
            need(found == status, f"{name} with b.example asks for {host}: {found}")


def test_strict_sni_refuses_proxies_without_server_name(place):
    sidegate = three(place, "strict_sni = true")
    for name, port, status in [("nginx", nginx(place, sidegate), 502), ("HAProxy", haproxy(place, sidegate), 503)]:
        found, _ = answer(port, "b.example")
        need(found == status, f"{name}: {found}")
    need(sidegate.metric("tls_handshakes_total", result="failed") >= 2, "the handshakes failed")


def s_client(sidegate, *options, asks=""):
    """What `openssl s_client` prints."""
    argv = ["openssl", "s_client", "-connect", f"127.0.0.1:{sidegate.tls_port}", *options]
    done = subprocess.run(argv, input=asks, capture_output=True, text=True, timeout=20)
    return done.stdout + done.stderr


def test_openssl_without_server_name_is_routed_by_host(place):
    sidegate = three(place)
    for host in HOSTS:
        request = f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
        found = s_client(sidegate, "-noservername", "-quiet", "-ign_eof", asks=request)
        need("HTTP/1.1 200" in found and host in found, f"no server name, {host}: {found[-600:]}")
    wrong = "GET / HTTP/1.1\r\nHost: b.example\r\n\r\n"
    found = s_client(sidegate, "-servername", "a.example", "-quiet", "-ign_eof", asks=wrong)
    need("HTTP/1.1 421" in found and '"misdirected"' in found, f"another name: {found[-600:]}")


def rsa(place, authority):
    """A certificate for localhost with an RSA key, in one file with it."""
    run(
        "openssl", "req", "-x509", "-config", authority.config, "-extensions", "leaf", "-days", "2", "-nodes",
        "-newkey", "rsa:2048", "-CA", authority.ca, "-CAkey", "ca.key", "-keyout", "rsa.key", "-out", "rsa.pem",
        cwd=place.dir,
    )  # fmt: skip
    pem = (place.dir / "rsa.pem").read_text() + (place.dir / "rsa.key").read_text()
    path = place.write("certs/rsa.pem", pem)
    path.chmod(0o600)
    return path


def key_of(printed):
    """The type of the key of the certificate in the output of `s_client`."""
    begin, end = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
    if begin not in printed:
        return "none"
    pem = begin + printed.split(begin)[1].split(end)[0] + end + "\n"
    done = subprocess.run(["openssl", "x509", "-noout", "-text"], input=pem, capture_output=True, text=True, check=True)
    return "RSA" if "Public Key Algorithm: rsaEncryption" in done.stdout else "ECDSA"


def test_openssl_gets_the_key_that_it_verifies(place):
    authority = Authority(place)
    sidegate = Sidegate(place).policy().certificate(authority.issue("ec")).certificate(rsa(place, authority)).run()
    both = "ECDSA+SHA256:RSA-PSS+SHA256:RSA+SHA256"
    for options, expected in [
        (["-tls1_3"], "ECDSA"),
        (["-tls1_3", "-sigalgs", "RSA-PSS+SHA256"], "RSA"),
        (["-tls1_3", "-sigalgs", "RSA-PSS+SHA256:ECDSA+SHA256"], "ECDSA"),
        (["-tls1_3", "-sigalgs", "ECDSA+SHA384:RSA-PSS+SHA256"], "RSA"),
        (["-tls1_3", "-sigalgs", both, "-groups", "X25519", "-ciphersuites", "TLS_AES_128_GCM_SHA256"], "ECDSA"),
        (["-tls1_2"], "ECDSA"),
        (["-tls1_2", "-sigalgs", "RSA+SHA256"], "RSA"),
        (["-tls1_2", "-cipher", "ECDHE-RSA-AES128-GCM-SHA256"], "RSA"),
        (["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256"], "ECDSA"),
        (["-tls1_2", "-cipher", "ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES128-GCM-SHA256"], "ECDSA"),
        (["-tls1_2", "-groups", "X25519"], "RSA"),
        (["-tls1_2", "-groups", "X25519:P-256"], "ECDSA"),
    ]:
        for name in (["-servername", "localhost"], ["-noservername"], ["-servername", "unknown.example"]):
            printed = s_client(sidegate, "-CAfile", str(authority.ca), *name, *options)
            found = key_of(printed)
            need(found == expected, f"{' '.join(options + name)}: {found}, not {expected}\n{printed[-800:]}")
            need("Verify return code: 0 (ok)" in printed, f"{options}: not verified\n{printed[-800:]}")


def test_a_certificate_that_is_never_served_is_an_error(place):
    authority = Authority(place)
    sidegate = Sidegate(place).policy().certificate(authority.issue("one")).certificate(rsa(place, authority)).run()
    twin = authority.issue("two")
    place.write("etc/sidegate.toml", sidegate.certificate(twin).toml())
    printed = sidegate.reload(code=1)
    need(f"{twin} is never served: {place.dir}/certs/one.pem has its names" in printed, printed)
    need(key_of(s_client(sidegate, "-tls1_3", "-sigalgs", "RSA-PSS+SHA256")) == "RSA", "the old ones are served")
