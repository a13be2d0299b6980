"""Plays one scenario, `run.py NAME`: the function `play` of `scenarios/NAME.py`. `scenario.rs` starts it."""

import importlib
import pathlib
import sys
import traceback

from fleet import say, told
from browser import Browser

HERE = str(pathlib.Path(__file__).parent)


def where_it_failed(error):
    """As Python says it, without the many lines of Playwright's own."""
    trace = traceback.TracebackException.from_exception(error)
    trace.stack = traceback.StackSummary.from_list([frame for frame in trace.stack if frame.filename.startswith(HERE)])
    return "".join(trace.format())


def main(name):
    with Browser(told()) as browser:
        try:
            importlib.import_module(f"scenarios.{name}").play(browser)
        except Exception as error:
            say(where_it_failed(error))
            say(browser.picture_all())
            say("the browser complains:\n" + "\n".join(browser.complaints))
            return 1
        complaints = browser.unforgiven()
        if complaints:
            say(browser.picture_all())
            say("it went well, but the browser complains:\n" + "\n".join(complaints))
            return 1
    return 0


sys.exit(main(sys.argv[1]))
