"""The fleet, as a scenario asks it: one line of JSON for each ask, and one for its answer. `scenario_requests.rs` answers."""

import json
import sys


def told():
    """The next line from the other side."""
    line = sys.stdin.readline()
    if not line:
        sys.exit("nobody answers any more")
    return json.loads(line)


def ask(what, **more):
    """Asks, and waits for the answer."""
    print(json.dumps({"ask": what, **more}), flush=True)
    return told()


def say(words):
    """For people; what goes to stdout is for the fleet."""
    print(words, file=sys.stderr, flush=True)
