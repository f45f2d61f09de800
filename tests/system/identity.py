"""Who is the client: real proxies, TLS libraries and kernels on both sides of Sidegate.

Each `identity_NAME.py` beside this file has a part; its functions `test_…` run one after the other, in a place each.
"""

import importlib
import sys
from pathlib import Path

from harness import Place, figure, note

HERE = Path(__file__).resolve().parent


def main(only):
    count = 0
    for path in sorted(HERE.glob("identity_*.py")):
        module = importlib.import_module(path.stem)
        for name in [name for name in dir(module) if name.startswith("test_")]:
            if only and not any(word in f"{path.stem}.{name}" for word in only):
                continue
            note(f"{path.stem}.{name}")
            with Place() as place:
                getattr(module, name)(place)
            count += 1
    figure(f"{count} tests")


if __name__ == "__main__":
    main(sys.argv[1:])
