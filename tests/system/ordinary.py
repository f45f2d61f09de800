"""`check`, `explain` and `lapsing` for an ordinary user: in CI, and on a laptop.

They run as nobody, without an environment, a network and a writable file system, on files of another user, and strace
sees every call that would change something. They begin within 50 ms.
"""

import ipaddress
import os
import random
import re
import statistics
import subprocess
import time
from pathlib import Path

from harness import SIDEGATE, figure, need, run

START = 0.050  # seconds that a command may take
RUNS = 40
MANY = 100_000
LISTED = 0.300  # seconds for a check of so many lines, on a machine that may be busy
CHANGES = re.compile(
    r"(O_WRONLY|O_RDWR|O_CREAT|O_TRUNC)|^\d+ +(mkdir|mknod|rename|link|symlink|unlink|rmdir|truncate|ftruncate|chmod|fchmod|chown"
    r"|fchown|lchown|utimens|setxattr|fsetxattr|socket|connect|bind|listen|inotify_init|flock|kill)[a-z0-9]*\("
)
EXPLAIN = ["--client", "127.0.0.1", "--url", "wss://localhost:8443/"]


def confined(trace, *arguments):
    """Runs Sidegate as nobody, and returns how it ended, what it said, and its calls."""
    # strace is outside, and opens its file before everything is read-only.
    script = """
        mount --make-rprivate /
        while read -r _ place _; do mount -o remount,bind,ro "$place" 2>/dev/null || true; done </proc/self/mounts
        ! touch "$0/probe" 2>/dev/null || exit 99
        exec setpriv --reuid 65534 --regid 65534 --clear-groups --no-new-privs env --ignore-environment --chdir=/ "${@:1}"
    """
    command = ["strace", "-f", "-o", trace, "unshare", "--mount", "--net", "bash", "-c", script, os.path.dirname(trace)]
    done = subprocess.run([*command, SIDEGATE, *arguments], capture_output=True, text=True)
    need(done.returncode != 99, "the file system is read-only")
    calls = Path(trace).read_text().splitlines()
    start = next(at for at, call in enumerate(calls) if f'execve("{SIDEGATE}"' in call and call.endswith("= 0"))
    return done.returncode, done.stdout + done.stderr, calls[start + 1 :]


def changes_nothing(folder, trace):
    cases = [
        (["check", "--off-host", "--strict"], 0, "fine"),
        (["check"], 1, "permission denied"),
        (["explain", "--off-host", *EXPLAIN], 0, "ALLOW"),
        (["lapsing", "--off-host"], 0, "no entry lapses"),
    ]
    for words, code, said in cases:
        ended, text, calls = confined(trace, words[0], "--config", str(folder), *words[1:])
        need(ended == code and said in text, f"{words} ends with {code} and says {said!r}: {ended}, {text}")
        need(len(calls) > 20, f"strace saw {words}: {calls}")
        changing = [call for call in calls if CHANGES.search(call)]
        need(not changing, f"{words} changes nothing: {changing}")
        opened = [call for call in calls if "dev.key" in call]
        need(not opened or words == ["check"], f"{words} does not open the key: {opened}")
    # A command that does write is seen, or the others prove nothing.
    ended, text, calls = confined(trace, "init", "--backend", "http://127.0.0.1:9", "--dir", str(folder / "new"))
    need(ended == 1 and any(CHANGES.search(call) for call in calls), f"init fails, and its calls are seen: {ended}, {text}")
    figure(f"{len(cases)} commands as nobody, read-only and offline: no call that changes anything")


def starts_quickly(folder):
    def median(*arguments):
        took = []
        for _ in range(RUNS):
            began = time.monotonic()
            subprocess.run([SIDEGATE, *arguments], check=True, capture_output=True)
            took.append(time.monotonic() - began)
        return statistics.median(took)

    cases = {
        "--version": ["--version"],
        "check": ["check", "--config", str(folder)],
        "explain": ["explain", "--config", str(folder), *EXPLAIN],
    }
    for name, arguments in cases.items():
        seconds = median(*arguments)
        figure(f"{name} {seconds * 1e3:.1f} ms")
        need(seconds < START, f"{name} takes {seconds * 1e3:.1f} ms, at most {START * 1e3:.0f}")
    dice, networks = random.Random(1), {"127.0.0.0/8", "::1"}
    while len(networks) < MANY:
        networks.add(f"{ipaddress.IPv4Address(dice.getrandbits(32) & 0xFFFFFF00)}/24")
    (folder / "policies/lists/office.cidr").write_text("\n".join(sorted(networks)) + "\n")
    seconds = median("check", "--config", str(folder))
    figure(f"check of {MANY:,} lines {seconds * 1e3:.0f} ms")
    need(seconds < LISTED, f"check of {MANY:,} lines takes {seconds:.3f} s, at most {LISTED}")


def main():
    scratch = Path(os.environ["SYSTEM_TMP"], "ordinary")
    folder = scratch / "etc"
    folder.mkdir(parents=True)
    for place in [scratch.parent, scratch]:
        place.chmod(0o755)
    run(SIDEGATE, "init", "--backend", "http://127.0.0.1:9", "--dir", folder)
    need((folder / "certs/dev.key").stat().st_mode & 0o077 == 0, "only its owner can read the key")
    changes_nothing(folder, str(scratch / "trace"))
    starts_quickly(folder)


if __name__ == "__main__":
    main()
