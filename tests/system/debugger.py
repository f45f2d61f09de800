"""A panic caused from outside in a running release binary.

gdb waits at the entry of a function and continues the thread in a function that panics: the caller then unwinds as if it
had called that function. This module makes no assertions.
"""

import platform
import re
import subprocess
from pathlib import Path

from harness import await_that, need, run

PLACE = "injected"  # what the panic says of its place in the source
PANICS = r"core::panicking::panic_const::\w+"  # each takes nothing but that place
FIRST_ARGUMENT = {"x86_64": "rdi", "aarch64": "x0"}

# The place lies on the thread's stack, far below what the panic needs of it: a pointer, a length, line and column.
ORDERS = """
set confirm off
set pagination off
handle all nostop noprint pass
attach {pid}
{stops}
shell touch {armed}
continue
python
import gdb, struct
place, spot = b"{place}", int(gdb.parse_and_eval("(unsigned long) $sp")) - 0x40000 & ~0xF
thread = gdb.selected_thread()
inferior = gdb.selected_inferior()
inferior.write_memory(spot, struct.pack("=QQII", spot + 64, len(place), 1, 1))
inferior.write_memory(spot + 64, place)
gdb.execute(f"set ${argument} = {{spot}}")
end
set $pc = {panic:#x}
detach
"""


class Trap:
    """Armed once it is there: who comes first to the function `where` panics, and only that one."""

    def __init__(self, place, pid, where):
        program = Path(f"/proc/{pid}/exe")
        symbols = functions(program)
        base, panic = loaded_at(pid), every(symbols, PANICS)[0]
        # A generic function is there once for each of its types: who comes to any of them is the first.
        stops = "\n".join(f"tbreak *{base + at:#x}" for at in every(symbols, where))
        armed = place.dir / f"{where.rpartition(':')[2]}.armed"
        argument = FIRST_ARGUMENT.get(platform.machine())
        need(argument, f"where {platform.machine()} passes an argument is known")
        orders = place.write(
            armed.with_suffix(".gdb").name,
            ORDERS.format(pid=pid, stops=stops, panic=base + panic, armed=armed, place=PLACE, argument=argument),
        )
        # With another program's symbols, because it would read ours for seconds, in which the process stands still.
        quick = ("-iex", "set auto-solib-add off", "-iex", "set exec-file-mismatch off", "-iex", "set debuginfod enabled off")
        self.gdb = place.start(f"gdb-{armed.stem}", "gdb", "--nx", "--batch", *quick, "-x", orders, "/bin/true")
        await_that(f"gdb waits at {where}", lambda: armed.exists() or not self.gdb.running())
        self.alive()

    def sprung(self):
        """Waits until somebody came."""
        await_that("a thread comes to where it shall panic", lambda: not self.gdb.running())
        self.alive()

    def alive(self):
        """Fails where gdb gave up."""
        if not self.gdb.running():
            need(self.gdb.popen.returncode == 0, f"gdb did as told: exit {self.gdb.popen.returncode}\n{self.gdb.err.read_text()}")


def functions(program):
    """Names and addresses of its functions, as they stand in the file."""
    lines = (line.split(" ", 2) for line in run("nm", "--demangle", "--defined-only", program).splitlines())
    return [(name, int(at, 16)) for at, kind, name in lines if kind in "tT"]


def every(symbols, pattern):
    """The addresses of all functions whose name is this pattern, by name; a hash behind it aside."""
    found = sorted((name, at) for name, at in symbols if re.fullmatch(rf"{pattern}(::h[0-9a-f]{{16}})?", name))
    need(found, f"the binary has a function {pattern}")
    return [at for _, at in found]


def loaded_at(pid):
    """Where the program lies in the process: its file is one that can be loaded anywhere."""
    program = Path(f"/proc/{pid}/exe").readlink()
    lines = (line.split(maxsplit=5) for line in Path(f"/proc/{pid}/maps").read_text().splitlines())
    starts = [int(fields[0].split("-")[0], 16) - int(fields[2], 16) for fields in lines if fields[-1] == str(program)]
    need(starts, f"{program} is loaded in process {pid}")
    return starts[0]
