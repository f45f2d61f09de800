"""The manual pages and the completions of `docs/`, under the programs that read them.

mandoc and groff accept every page without a warning, man-db finds its name, and each reference leads to a page. bash, zsh
and fish complete the verbs that the binary has, and the options and values of a verb.
"""

import os
import pty
import re
import select
import subprocess
import time

from harness import HERE, SIDEGATE, figure, need, run

DOCS = HERE.parent.parent / "docs"
MAN, COMPLETIONS = DOCS / "man", DOCS / "completions"

# What is typed, and what a shell offers for its last word.
TYPED = [
    ("sidegate ba", ["ban", "bans"]),
    ("sidegate import ng", ["nginx"]),
    ("sidegate check --stri", ["--strict"]),
    ("sidegate check --format g", ["github"]),
    ("sidegate list from-mmdb --cou", ["--country"]),
]


def silent(*command):
    """Runs a program that has nothing to say."""
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"LC_ALL": "C.UTF-8"})
    need(done.returncode == 0 and done.stderr == "", f"{' '.join(map(str, command))}: {done.stdout}{done.stderr}")
    return done.stdout


def pages():
    """Lints every page, and reads it as man does."""
    known = {path.name for path in MAN.iterdir()}
    verbs = {re.sub(" ", "-", verb) for verb in verbs_of_help()}
    lacking = {f"sidegate-{verb}.1" for verb in verbs} - known
    need(not lacking, f"every verb has a page: {lacking}")
    for page in sorted(MAN.iterdir()):
        need(silent("mandoc", "-T", "lint", "-W", "warning", page) == "", f"mandoc has no warning about {page.name}")
        silent("groff", "-man", "-ww", "-z", "-K", "utf8", "-T", "utf8", page)
        shown = silent("man", "--warnings=w", "--local-file", "--pager=cat", page)
        name, section = page.name.rsplit(".", 1)
        need(f"{name.upper()}({section})" in shown, f"man shows {page.name}")
        found = silent("lexgrog", page)
        need(f'"{name} - ' in found, f"whatis finds {name}: {found}")
        titles = re.findall(r"^([A-Z][A-Z ]+)$", shown, re.MULTILINE)
        for title in ["NAME", "SYNOPSIS", "DESCRIPTION", "EXAMPLES", "SEE ALSO"]:
            need(title in titles, f"{page.name} has {title}")
        for name, section in re.findall(r"(sidegate[a-z.-]*)\(([15])\)", shown):
            need(f"{name}.{section}" in known, f"{page.name} refers to {name}({section})")
    figure(f"{len(known)} pages")


def verbs_of_help():
    """The verbs that the binary lists."""
    _, commands = run(SIDEGATE, "--help").split("\nCommands:\n")
    verbs = re.findall(r"^  ([a-z-]+) ", commands.split("\n\n")[0], re.MULTILINE)
    need("check" in verbs, f"the help lists verbs: {verbs}")
    return [verb for verb in verbs if verb != "help"]


def bash(typed):
    """What bash offers, with the file loaded when it is first needed, as bash-completion does."""
    words = typed.split(" ")
    script = f"""
        source /usr/share/bash-completion/bash_completion
        __load_completion sidegate || exit 1
        read -r _ _ function _ < <(complete -p sidegate | grep -o -e '-F .*' | sed 's/^/x /')
        COMP_WORDS=({" ".join(f"'{word}'" for word in words)}) COMP_CWORD={len(words) - 1}
        "$function" sidegate '{words[-1]}' '{words[-2]}'
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    env = os.environ | {"BASH_COMPLETION_USER_DIR": os.environ["SYSTEM_TMP"] + "/bash-completion"}
    return subprocess.run(["bash", "--norc", "-c", script], env=env, capture_output=True, text=True, check=True).stdout.split()


def fish(typed):
    env = os.environ | {"HOME": os.environ["SYSTEM_TMP"], "XDG_DATA_HOME": os.environ["SYSTEM_TMP"] + "/fish"}
    script = f"source {COMPLETIONS / 'sidegate.fish'}; complete --do-complete '{typed}'"
    lines = subprocess.run(["fish", "--no-config", "-c", script], env=env, capture_output=True, text=True, check=True)
    need(lines.stderr == "", lines.stderr)
    return [line.split("\t")[0] for line in lines.stdout.splitlines()]


class Zsh:
    """An interactive zsh, whose completion needs a terminal."""

    def __init__(self):
        self.child, self.terminal = pty.fork()
        if self.child == 0:
            env = os.environ | {"TERM": "dumb", "LC_ALL": "C.UTF-8"}
            os.execvpe("zsh", ["zsh", "-f", "-i"], env)
        # `compadd -O` stores the matches that fit what is typed, without their descriptions.
        setup = f"""
            PROMPT='' RPROMPT='' ; unsetopt zle_bracketed_paste prompt_sp ; stty -echo columns 200
            fpath=({COMPLETIONS} $fpath) ; autoload -Uz compinit && compinit -u -d {os.environ["SYSTEM_TMP"]}/zcompdump
            compadd() {{ local -a found; builtin compadd -O found "$@"; print -rl -- "${{found[@]}}" >>$offers; builtin compadd "$@" }}
            offers={os.environ["SYSTEM_TMP"]}/offers
            print -r -- "re""ady:$_comps[sidegate]:"
        """
        self.write("\n".join(line.strip() for line in setup.strip().splitlines()) + "\n")
        self.until("ready:_sidegate:")

    def write(self, text):
        os.write(self.terminal, text.encode())

    def until(self, mark):
        seen, deadline = "", time.monotonic() + 15
        while mark not in seen:
            ready, _, _ = select.select([self.terminal], [], [], max(0, deadline - time.monotonic()))
            need(ready, f"zsh says {mark!r}: {seen!r}")
            seen += os.read(self.terminal, 65536).decode(errors="replace")
        return seen

    def offers(self, typed):
        """What zsh offers: ^D lists matches without inserting one, ^U drops the line."""
        path = os.environ["SYSTEM_TMP"] + "/offers"
        open(path, "w").close()
        self.write(f"{typed}\x04\x15print -r -- do\"\"ne\n")
        said = self.until("done")
        for wrong in ["not found", "parse error", "bad pattern", "no matches"]:
            need(wrong not in said, f"zsh completes {typed!r}: {said!r}")
        with open(path) as offers:
            return offers.read().split()

    def leave(self):
        self.write("exit\n")
        os.waitpid(self.child, 0)
        os.close(self.terminal)


def completions():
    """Asks the three shells for the same."""
    folder = os.path.join(os.environ["SYSTEM_TMP"], "bash-completion/completions")
    os.makedirs(folder, exist_ok=True)
    # As packages install it.
    with open(os.path.join(folder, "sidegate"), "w") as script:
        script.write((COMPLETIONS / "sidegate.bash").read_text())
    zsh = Zsh()
    verbs = verbs_of_help()
    for shell, offers in [("bash", bash), ("fish", fish), ("zsh", zsh.offers)]:
        for typed, expected in TYPED:
            need(set(offers(typed)) == set(expected), f"{shell} completes {typed!r} with {expected}: {offers(typed)}")
        offered = set(offers("sidegate "))
        need(set(verbs) <= offered, f"{shell} offers every verb: {set(verbs) - offered}")
        figure(f"{shell} offers {len(verbs)} verbs")
    zsh.leave()


def main():
    pages()
    completions()


if __name__ == "__main__":
    main()
