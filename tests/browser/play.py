"""Plays one scenario, `play.py NAME`: the function `play` of `scenarios/NAME.py`. `play.rs` starts it."""

import importlib
import pathlib
import sys
import traceback

from fleet import say, told
from stage import Stage

HERE = str(pathlib.Path(__file__).parent)


def where_it_failed(error):
    """As Python says it, without the many lines of Playwright's own."""
    trace = traceback.TracebackException.from_exception(error)
    trace.stack = traceback.StackSummary.from_list([frame for frame in trace.stack if frame.filename.startswith(HERE)])
    return "".join(trace.format())


def main(name):
    with Stage(told()) as stage:
        try:
            importlib.import_module(f"scenarios.{name}").play(stage)
        except Exception as error:
            say(where_it_failed(error))
            say(stage.picture_all())
            say("the browser complains:\n" + "\n".join(stage.complaints))
            return 1
        complaints = stage.unforgiven()
        if complaints:
            say(stage.picture_all())
            say("it went well, but the browser complains:\n" + "\n".join(complaints))
            return 1
    return 0


sys.exit(main(sys.argv[1]))
