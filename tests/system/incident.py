"""One incident from its beginning to its end, with the tools of an operator alone.

A stricter list goes out as a candidate, and page, `top` and metrics show whom it would hit. It is promoted. An office
that it has forgotten calls with the id of a refused request, is let in for some seconds by an entry that expires, and is
out again when it lapses. An attacker is banned by fail2ban and by CrowdSec, and let in again.
"""

import datetime
import json
import re
import time
import urllib.request

from banned import HEAD, UPGRADE, echoes, expect_banned
from crowdsec import KEY, Bouncing, Lapi
from fail2ban import RETRIES, Fail2ban
from harness import SIDEGATE, Place, await_that, figure, free_port, need, replace, run
from mirror import CLOSE

HEADQUARTERS, OFFICE, ATTACKER = "192.0.2.10", "203.0.113.40", "192.0.2.66"
WIDE = '[lists]\nstaff = { file = "lists/staff.cidr" }\n[client]\nallow = ["staff", "203.0.113.0/24"]\n'
STRICT = '[lists]\nstaff = { file = "lists/staff.cidr" }\n[client]\nallow = ["staff"]\n'
LET_IN = 4  # seconds


class Guarded(Bouncing):
    """A Sidegate with a list of staff, a page, and CrowdSec as a source of bans."""

    def __init__(self, place, lapi):
        self.page_port = free_port()
        super().__init__(place, lapi)

    def run(self):
        self.admin = [f'page_listen = "127.0.0.1:{self.page_port}"', 'page = "full"']
        self.place.write("etc/policies/lists/staff.cidr", "192.0.2.0/24 owner=it # all of our own\n")
        self.policy("open", WIDE)
        return super().run()

    def page(self):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.page_port}/status", timeout=5) as answer:
            return answer.read().decode()

    def overview(self):
        return json.loads(self.says("top", "--json"))

    def lists(self, *lines):
        replace(self.dir / "policies/lists/staff.cidr", "192.0.2.0/24 owner=it # all of our own\n" + "".join(lines))

    def refusal(self, client):
        """The answer that a refused client sees: its status, and its body."""
        wire = self.connect()
        with wire.connection:
            wire.send(HEAD.format(path="/echo/", host="localhost", client=client, more=UPGRADE).encode())
            start, fields = wire.head()
            return int(start.split()[1]), json.loads(wire.body(fields))


def ended(wire, code, reason):
    """The tunnel ends with this Close."""
    first, payload = wire.frame()
    need(first == 0x80 | CLOSE, f"a Close comes, and not {first:#x}")
    got = int.from_bytes(payload[:2], "big"), payload[2:].decode()
    need(got == (code, reason), f"the tunnel ends with {got}")
    wire.connection.close()


def candidate_shows_whom_it_hits(sidegate):
    """The candidate is judged beside the policy: nobody is refused, and every view names the office."""
    office, staff = sidegate.opens(OFFICE), sidegate.opens(HEADQUARTERS)
    sidegate.place.write("etc/policies/open.shadow.toml", f"schema = 1\n{STRICT}")
    sidegate.reload()
    echoes(sidegate.opens(OFFICE))
    need(sidegate.metric("candidate_would_revoke", policy="open") == 1, "a metric counts the tunnel")
    differs = sidegate.metric("candidate_differences_total", policy="open", difference="would_refuse")
    need(differs == 1, f"and the request: {differs}")
    [candidate] = sidegate.overview()["candidates"]
    need((candidate["policy"], candidate["would_revoke"]) == ("open", 1), f"`top --json` has it: {candidate}")
    need([hit["client"] for hit in candidate["clients"]] == [OFFICE], f"and names the client: {candidate}")
    need(OFFICE in sidegate.says("top", "--once"), "`top --once` names it")
    need(OFFICE in sidegate.page(), "and so does the page")
    for wire in (office, staff):
        echoes(wire)
    return office, staff


def office_calls(sidegate, office, staff):
    """Promoted, the list ends the office's tunnel; the id in the body of a refusal leads to the line."""
    sidegate.says("promote", "open")
    ended(office, 1008, "network")
    echoes(staff)
    status, body = sidegate.refusal(OFFICE)
    need((status, body["reason"]) == (403, "network"), f"the office is refused: {status} {body}")
    began = time.monotonic()
    told = sidegate.says("explain", "--request", body["request_id"], code=1)
    took = time.monotonic() - began
    line = next(at for at, text in enumerate((sidegate.dir / "policies/open.toml").read_text().splitlines(), 1) if "allow" in text)
    need(f"policies/open.toml:{line}" in told, f"`explain --request` names the line: {told}")
    refused = sidegate.says("refused", "--last", "1h")
    need(OFFICE in refused and "network" in refused, f"`refused` lists it: {refused}")
    figure(f"from the id of a request to the line in {took:.2f} s")


def office_is_let_in(sidegate):
    """An entry with an expiry lets the office in without a restart, and lapses by itself."""
    until = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=LET_IN)
    before = sidegate.metric("generation")
    sidegate.lists(f"{OFFICE} owner=support ticket=INC-7 expires={until:%Y-%m-%dT%H:%M:%SZ}\n")
    # Not by trying until it works: fail2ban counts each refusal of the office.
    await_that("the saved list is published", lambda: sidegate.metric("generation") > before)
    office = sidegate.opens(OFFICE)
    echoes(office)
    lapsing = sidegate.says("lapsing", "--within", "1d")
    need("INC-7" in lapsing and OFFICE in lapsing, f"`lapsing` names the entry: {lapsing}")
    ended(office, 1008, "network")
    late = (datetime.datetime.now(datetime.timezone.utc) - until).total_seconds()
    need(-1.5 < late < 3, f"it ends when the entry lapses, and not {late:.1f} s after")
    need(sidegate.opens(OFFICE) is None, "the office is out again")
    need(sidegate.process.running() and "restart" not in sidegate.process.err.read_text(), "without a restart")
    figure(f"the tunnel ended {late:+.1f} s from the end of the entry")


def attacker_is_banned(sidegate, fail2ban, lapi, staff):
    """fail2ban and CrowdSec each end the attacker's tunnels for a while."""
    for source, ban, forgive in (
        ("fail2ban", lambda: [sidegate.status(ATTACKER, f"/admin/{at}") for at in range(RETRIES)], lambda: None),
        ("crowdsec", lambda: lapi.decides(ATTACKER), lambda: lapi.forgets(ATTACKER)),
    ):
        tunnel = sidegate.opens(ATTACKER)
        echoes(tunnel)
        ban()
        expect_banned(tunnel)
        need(sidegate.opens(ATTACKER) is None, "a banned client opens no tunnel")
        need(f"by {source}" in sidegate.says("bans"), "`bans` says whose it is")
        need(ATTACKER in sidegate.page(), "the page shows the ban")
        need(ATTACKER in json.dumps(sidegate.overview()["bans"]), "`top --json` has it")
        echoes(staff)
        forgive()
        echoes(await_that(f"{source} lets it in again", lambda: sidegate.opens(ATTACKER), 30, 0.2))
    need(re.search("ERROR", fail2ban.log()) is None, "fail2ban has no errors")


def main():
    with Place() as place:
        lapi = Lapi(place)
        sidegate = Guarded(place, lapi)
        fail2ban = Fail2ban(sidegate)
        office, staff = candidate_shows_whom_it_hits(sidegate)
        office_calls(sidegate, office, staff)
        office_is_let_in(sidegate)
        attacker_is_banned(sidegate, fail2ban, lapi, staff)
        need(KEY not in sidegate.process.err.read_text(), "no secret is in the log")
        run(SIDEGATE, "check", sidegate.config)


if __name__ == "__main__":
    main()
