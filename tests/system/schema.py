"""A complete JSON Schema validator agrees with the output of `sidegate schema`, and so with `sidegate check`.

The Rust tests compare the schema with the code by a partial validator; this suite uses a complete one, with the files
that `init` writes.
"""

import json
import re
import tomllib

from jsonschema import Draft202012Validator as Draft

from harness import HERE, SIDEGATE, Place, figure, need, run

TOP = HERE.parent.parent

# Each with where it is wrong, and the part of the file that `init` writes which it replaces.
UNSOUND = [
    ("sidegate.toml", "schema = 1", "schema = 2", "schema"),
    ("sidegate.toml", 'policy  = "main"', 'polcy = "main"', "route/0"),
    ("sidegate.toml", 'listen = "127.0.0.1:8443"', "listen = 8443", "listener/0/listen"),
    ("sidegate.toml", '#poll          = "30s"', 'poll = "30"', "reload/poll"),
    ("sidegate.toml", 'name    = "main"', 'name = "none"', "route/0/name"),
    ("policies/main.toml", 'allow = ["office"]', 'alow = ["office"]', "client"),
    ("policies/main.toml", 'allow = ["office"]', 'allow = ["any", "office"]', "client/allow"),
    ("policies/main.toml", 'office = { file = "lists/office.cidr" }', 'office = ["everybody"]', "lists/office"),
    ("policies/main.toml", 'rate = "5/s"', 'rate = "5/h"', "limits/upgrades/rate"),
    ("policies/main.toml", 'expect = "refuse:network"', 'expect = "deny"', "test/3/expect"),
    ("policies/main.toml", 'client = "203.0.113.9"', 'cliant = "203.0.113.9"', "test/3"),
]


def seen(value):
    """What a schema sees of a TOML value: times are strings."""
    match value:
        case dict():
            return {key: seen(below) for key, below in value.items()}
        case list():
            return [seen(item) for item in value]
        case str() | bool() | int() | float():
            return value
        case _:
            return value.isoformat()


def flagged(schema, text):
    """The places in which `schema` finds something in a TOML file."""
    errors = Draft(schema).iter_errors(seen(tomllib.loads(text)))
    return {"/".join(str(step) for step in error.absolute_path) for error in errors}


def sound(kinds, name, text):
    config = name.endswith("sidegate.toml")
    need(flagged(kinds["config" if config else "policy"], text) == set(), f"{name} is valid")
    need(flagged(kinds["both"], text) == set(), f"{name} is valid by the schema of both")


def main():
    kinds = {kind: json.loads(run(SIDEGATE, "schema", kind)) for kind in ("config", "policy")}
    kinds["both"] = json.loads(run(SIDEGATE, "schema"))
    for schema in kinds.values():
        Draft.check_schema(schema)
    with Place() as place:
        folder = place.dir
        run(SIDEGATE, "init", "--backend", "http://127.0.0.1:8080", "--dir", folder)
        run(SIDEGATE, "check", "--strict", folder)
        for file in ("sidegate.toml", "policies/main.toml"):
            sound(kinds, file, (folder / file).read_text())
        for file, was, becomes, where in UNSOUND:
            text = (folder / file).read_text()
            # `init` aligns the signs of a table.
            found = re.search(r"(?<![#\w])" + " *= *".join(map(re.escape, re.split(" *= *", was))), text)
            need(found, f"{file} says {was}")
            changed = text.replace(found[0], becomes, 1)
            kind = "config" if file == "sidegate.toml" else "policy"
            need(where in flagged(kinds[kind], changed), f"{becomes!r} is flagged at {where}")
            need(flagged(kinds["both"], changed), f"{becomes!r} is flagged by the schema of both")
            (folder / file).write_text(changed)
            run(SIDEGATE, "check", folder, code=1)
            (folder / file).write_text(text)
    sound(kinds, "policies/demo.toml", (TOP / "policies/demo.toml").read_text())
    config, policy = re.findall(r"```toml\n(.*?)```", (TOP / "README.md").read_text(), re.S)
    sound(kinds, "sidegate.toml", config)
    sound(kinds, "policies/market-data.toml", policy)
    figure(f"5 sound files, {len(UNSOUND)} unsound ones flagged where check finds them")


main()
