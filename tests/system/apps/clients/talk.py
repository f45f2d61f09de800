"""What the Python clients of the suite `apps` have in common: a JSON command a line in, a JSON answer a line out."""

import json
import sys
import time
import traceback


def talk(steps):
    """Carries out the steps that the suite asks for, one after the other."""
    for line in sys.stdin:
        command = json.loads(line)
        try:
            answer = steps[command.pop("step")](**command) or {}
        except Exception:
            answer = {"fault": traceback.format_exc()}
        print(json.dumps(answer), flush=True)


def until(claim, check, seconds=30):
    """Asks `check` until it answers something true, and returns that."""
    deadline = time.monotonic() + seconds
    while not (answer := check()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {claim}")
        time.sleep(0.01)
    return answer


def need(holds, claim):
    if not holds:
        raise AssertionError(claim)
