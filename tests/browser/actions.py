"""What people do at the page, and what they then look for: by role, label and word, as it is read to them."""

import re
import time

from playwright.sync_api import expect

from browser import LIMIT

expect.set_options(timeout=LIMIT)


def open_unit(page, browser):
    page.goto(f"/units/{browser.facts['unit']}")
    expect(page.get_by_role("heading", level=1)).to_have_text(browser.facts["unit"])


def review(page, browser, what, why=""):
    """From the page of the unit to the review of a deploy, which changes nothing."""
    open_unit(page, browser)
    form = page.get_by_role("region", name="Deploy", exact=True)
    form.get_by_label("Branch or build").fill(what)
    form.get_by_label("Why (shown in the history)").fill(why)
    form.get_by_role("button", name="Review…").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("Review the deploy")


def deploy(page, browser, artifact, why=""):
    """Both steps, up to the page of the deploy."""
    review(page, browser, artifact, why)
    page.get_by_role("button", name=f"Deploy {artifact} to 3 nodes of {browser.facts['unit']}").click()
    # Until the coordinator has taken it, it is a request that waits.
    expect(page.get_by_role("heading", level=1)).to_have_text(re.compile(f"{artifact}|Request waiting"))
    if browser.has_scripts(page):
        expect(page.get_by_role("heading", level=1)).to_contain_text(artifact)
    else:
        load_until(page, artifact)
    assert re.search(r"/units/.+/deploys/\d+$", page.url), page.url


def load_until(page, words):
    """Loads a page without a script again, until its heading says this."""
    deadline = time.monotonic() + LIMIT / 1000
    while words not in page.get_by_role("heading", level=1).inner_text():
        assert time.monotonic() < deadline, f"the heading does not say {words}"
        page.reload()


def step(page, node, words):
    """The row of a node says how far it is."""
    rows = page.get_by_role("table", name="Nodes of this deploy").get_by_role("row")
    row = rows.filter(has=page.get_by_role("rowheader", name=node, exact=True))
    expect(row.get_by_role("cell").first).to_contain_text(words)


def main_says(page, words):
    expect(page.get_by_role("main")).to_contain_text(words)


def live(page, words="live"):
    """The page says of itself that it follows what happens, or that it does not."""
    expect(page.get_by_role("banner").get_by_role("button", name=re.compile(words, re.I))).to_be_visible()


def mark(page):
    """What is gone after the page has been loaded again."""
    page.evaluate("window.notLoadedAgain = true")


def never_loaded_again(page):
    assert page.evaluate("window.notLoadedAgain"), "the page was loaded again"
