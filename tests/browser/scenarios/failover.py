"""The agent that serves the page is killed in the middle of a deploy, and a proxy turns to another: the page says that
it does not know, comes back by itself, and shows the true end."""

from actions import deploy, expect, live, main_says, mark, never_loaded_again, step
from fleet import ask


def play(browser):
    nodes = browser.facts["nodes"]
    page = browser.person("ann")
    artifact = ask("publish", version="one")
    ask("hold", node=1, hook="prepare")
    deploy(page, browser, artifact)
    live(page)
    step(page, nodes[1], "preparing")
    mark(page)
    # That the network breaks is what this is about.
    browser.allow_errors("ERR_CONNECTION|ERR_EMPTY_RESPONSE|ERR_INCOMPLETE_CHUNKED|Failed to load resource|Failed to fetch")
    ask("kill_page_agent", agent=0)
    live(page, "reconnecting")
    ask("fail", node=2, hook="check", words="no database here\n")
    ask("release", node=1, hook="prepare")
    ask("wait_phase", phase="reverted")
    step(page, nodes[1], "preparing")
    ask("turn_to", agent=1)
    live(page)
    main_says(page, "reverted")
    step(page, nodes[1], "reverted")
    expect(page.get_by_role("region", name="What stopped the deploy")).to_contain_text("no database here")
    never_loaded_again(page)
    # Still signed in: no agent keeps sessions.
    page.goto("/")
    expect(page.get_by_role("banner")).to_contain_text("ann")
