"""Unix sockets: users of this host, by id and by group, proxies that connect to one, and the socket's file."""

import http.server
import json
import os
import signal
import subprocess
import threading

from harness import SIDEGATE, Sidegate, await_that, free_port, listening, need, run

WWW_DATA, NOBODY, DAEMON, GROUP = 33, 65534, 1, 4711
BY_USER = '[client]\nallow = ["unix:uid=www-data", "unix:gid=4711 ticket=SEC-1"]\n'


def backend():
    """A server that answers with the fields that it got, as JSON; returns its port."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            body = json.dumps({name.lower(): value for name, value in self.headers.items()}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_port


def local(place, policy, *keys):
    """Sidegate with a listener at `local.sock` that any user may connect to, unless `keys` say otherwise."""
    # Every user may look below the folder of the place, as below /run; `mktemp -d` lets nobody.
    for folder in [place.dir, *place.dir.parents]:
        mode = os.stat(folder).st_mode & 0o777
        if mode & 0o011 != 0o011:
            folder.chmod(mode | 0o011)
    sidegate = Sidegate(place).policy(text=policy)
    sidegate.socket = place.dir / "local.sock"
    url = f"http://127.0.0.1:{backend()}"
    relisten(sidegate, *(keys or ['mode = "0666"']))
    sidegate.only_route = f'[[route]]\nname = "all"\nhost = "*"\npath = "/"\npolicy = "open"\nbackend = "{url}"\nhttp = "forward"\n'
    return sidegate


def relisten(sidegate, *keys):
    """Sets the keys of the listener at `local.sock`."""
    sidegate.local = "\n".join(["[[listener]]", 'name = "local"', f'listen = "unix:{sidegate.socket}"', "tls = false", *keys])


def toml(sidegate):
    """Only the Unix listener, the metrics and the route."""
    return (
        f'schema = 1\n[metrics]\nlisten = "127.0.0.1:{sidegate.metrics_port}"\n'
        f'[admin]\nsocket = "{sidegate.place.dir}/admin.sock"\n{sidegate.local}\n{sidegate.only_route}'
    )


def start(sidegate):
    sidegate.toml = lambda: toml(sidegate)
    return sidegate.run()


def ask(sidegate, uid, gid, groups=()):
    """What curl gets as this user, with these supplementary groups: a status, or 0 where it cannot connect."""
    groups = ["--groups", ",".join(map(str, groups))] if groups else ["--clear-groups"]
    done = subprocess.run(
        ["setpriv", "--reuid", str(uid), "--regid", str(gid), *groups, "curl", "-s", "-o", "/dev/null", "-w", "%{http_code}",
         "--max-time", "20", "--unix-socket", str(sidegate.socket), "http://any.example/"],
        stdout=subprocess.PIPE, text=True, timeout=60, cwd="/",
    )  # fmt: skip
    return int(done.stdout)


def test_users_are_admitted_by_id_and_by_supplementary_group(place):
    sidegate = start(local(place, BY_USER))
    need(ask(sidegate, WWW_DATA, WWW_DATA) == 200, "www-data, by its id")
    need(ask(sidegate, NOBODY, NOBODY, [7, GROUP]) == 200, "nobody, by a supplementary group")
    need(ask(sidegate, DAEMON, DAEMON) == 403, "another user is refused")
    need(ask(sidegate, NOBODY, NOBODY, [7]) == 403, "nobody without the group is refused")
    need(ask(sidegate, DAEMON, GROUP) == 200, "another user, by its own group")
    need(sidegate.metric("refusals_total", reason="network") == 2, "both refusals are counted")
    lines = [json.loads(line) for line in sidegate.process.err.read_text().splitlines()]
    by_group = [line for line in lines if line.get("entry") == f"unix:gid={GROUP}"]
    need(by_group and by_group[0]["client"] == f"unix:uid={NOBODY}", "the log names the entry and the user")
    need(by_group[0]["ticket"] == "SEC-1", "and its ticket")


def test_mode_and_group_change_with_a_reload(place):
    sidegate = start(local(place, '[client]\nallow = ["unix"]\n', 'mode = "0660"', f"group = {GROUP}"))
    need(ask(sidegate, DAEMON, DAEMON) == 0, "a user without write permission cannot connect")
    need(ask(sidegate, DAEMON, DAEMON, [GROUP]) == 200, "a member of the group can")
    relisten(sidegate, 'mode = "0666"')
    place.write("etc/sidegate.toml", toml(sidegate))
    sidegate.reload()
    need(ask(sidegate, DAEMON, DAEMON) == 200, "now everyone can")
    need(os.stat(sidegate.socket).st_mode & 0o777 == 0o666, "the mode is the file's")


def test_a_socket_that_a_crash_left_is_replaced(place):
    sidegate = start(local(place, '[client]\nallow = ["unix"]\n'))
    sidegate.process.popen.send_signal(signal.SIGKILL)
    sidegate.process.popen.wait()
    need(sidegate.socket.exists(), "a crash leaves the file")
    start(sidegate)
    need(ask(sidegate, DAEMON, DAEMON) == 200, "the next process serves there")
    second = run(SIDEGATE, "run", "--config", other(place, sidegate), code=75)
    need("another program listens on this address" in second, f"a second process is told: {second}")
    need(ask(sidegate, DAEMON, DAEMON) == 200, "and the first one is not disturbed")
    need(sidegate.process.end() == 0 and not sidegate.socket.exists(), "a regular end removes the file")


def other(place, sidegate):
    """Another configuration with the same socket."""
    place.write("other/policies/open.toml", 'schema = 1\n[client]\nallow = ["unix"]\n')
    text = toml(sidegate).replace(str(sidegate.metrics_port), str(free_port())).replace("admin.sock", "second.sock")
    return place.write("other/sidegate.toml", text)


def nginx(place, sidegate):
    """nginx in front, as www-data; returns its port."""
    port = free_port()
    config = place.write(
        "nginx.conf",
        f"user www-data; daemon off; pid {place.dir}/nginx.pid; error_log stderr; worker_processes 1;\nevents {{}}\n"
        f"http {{ access_log off; client_body_temp_path {place.dir}/b; proxy_temp_path {place.dir}/p;\n"
        f"fastcgi_temp_path {place.dir}/f; uwsgi_temp_path {place.dir}/u; scgi_temp_path {place.dir}/s;\n"
        f"server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://unix:{sidegate.socket};\n"
        "proxy_http_version 1.1; proxy_set_header Host $http_host;\n"
        "proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; } } }\n",
    )
    process = place.start("nginx", "nginx", "-p", place.dir, "-c", config)
    await_that("nginx listens", lambda: process.alive() and listening(port))
    return port


def haproxy(place, sidegate, more=""):
    """HAProxy in front, as root; returns its port."""
    port = free_port()
    config = place.write(
        "haproxy.cfg",
        "defaults\n mode http\n timeout connect 5s\n timeout client 10s\n timeout server 10s\n"
        f"frontend in\n bind 127.0.0.1:{port}\n default_backend out\n"
        f"backend out\n server sidegate unix@{sidegate.socket} {more}\n",
    )
    process = place.start("haproxy", "haproxy", "-db", "-f", config)
    await_that("HAProxy listens", lambda: process.alive() and listening(port))
    return port


def fetch(port, *more):
    """What curl gets at this port: the status, and the fields that the backend got."""
    out = run("curl", "-s", "--max-time", "20", "-w", "\n%{http_code}", *more, f"http://127.0.0.1:{port}/")
    body, _, status = out.rpartition("\n")
    return int(status), json.loads(body) if status == "200" else {}


def test_proxies_on_this_host_are_clients_by_their_user(place):
    sidegate = start(local(place, BY_USER))
    status, fields = fetch(nginx(place, sidegate))
    need(status == 200, f"nginx is www-data: {status}")
    need("x-forwarded-for" not in fields, f"a user has no address: {fields}")
    need(fields["x-forwarded-host"].startswith("127.0.0.1:"), f"Host is the client's: {fields}")
    port = haproxy(place, sidegate)
    need(fetch(port)[0] == 403, "HAProxy is root, which the policy does not admit")
    sidegate.policy(text='[client]\nallow = ["unix:uid=root"]\n')
    sidegate.reload()
    need(fetch(port)[0] == 200, "root is admitted by its name")


def test_clients_behind_nginx_are_those_that_it_names(place):
    sidegate = local(place, '[client]\nallow = ["127.0.0.5"]\n')
    relisten(sidegate, 'mode = "0666"', 'forwarded = { header = "x-forwarded-for", from = ["unix:uid=www-data"] }')
    port = nginx(place, start(sidegate))
    status, fields = fetch(port, "--interface", "127.0.0.5")
    need((status, fields.get("x-forwarded-for")) == (200, "127.0.0.5"), f"the client is the one that nginx names: {fields}")
    need(fetch(port, "--interface", "127.0.0.6")[0] == 403, "another client is refused")
    need(fetch(port, "--interface", "127.0.0.6", "-H", "X-Forwarded-For: 127.0.0.5")[0] == 403, "a forged header changes nothing")
    need(ask(sidegate, DAEMON, DAEMON) == 403, "a user who is not listed speaks for itself")


def test_clients_behind_haproxy_are_those_of_its_proxy_header(place):
    sidegate = local(place, '[client]\nallow = ["127.0.0.5"]\n')
    relisten(sidegate, 'mode = "0666"', 'proxy_protocol = { from = ["unix:uid=root"] }')
    port = haproxy(place, start(sidegate), "send-proxy-v2")
    status, fields = fetch(port, "--interface", "127.0.0.5")
    need((status, fields.get("x-forwarded-for")) == (200, "127.0.0.5"), f"the client is that of the header: {fields}")
    need(fetch(port, "--interface", "127.0.0.6")[0] == 403, "another client is refused")
    need(ask(sidegate, DAEMON, DAEMON) == 403, "a user who is not listed sends no header, and is itself")
