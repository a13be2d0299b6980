"""The agent that serves the page stands still, with its connections open: nothing says that they are dead, but that no sign
of life comes. The page finds that out, and follows the next agent."""

from actions import expect, live, main_says, mark, never_loaded_again, open_unit
from fleet import ask

# Longer than the page waits for a sign of life, in milliseconds; the browser's clock is put forward.
SILENCE = 60_000


def play(browser):
    artifact = ask("publish", version="one")
    page = browser.person("ann")
    page.clock.install()
    open_unit(page, browser)
    live(page)
    mark(page)
    browser.allow_errors("ERR_CONNECTION|ERR_EMPTY_RESPONSE|ERR_INCOMPLETE_CHUNKED|Failed to load resource|Failed to fetch")
    ask("freeze_page_agent", agent=0)
    told = ask("cutover", args=["deploy", browser.facts["unit"], artifact])
    assert told["code"] == 0, told
    # It has heard of none of it, and cannot know that yet.
    live(page)
    main_says(page, "Nothing has been deployed yet")
    page.clock.fast_forward(SILENCE)
    live(page, "reconnecting")
    ask("turn_to", agent=1)
    page.clock.fast_forward(SILENCE)
    live(page)
    expect(page.locator("#current")).to_have_text(artifact)
    never_loaded_again(page)
