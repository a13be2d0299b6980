"""The agent that serves the page stands still, with its connections open: nothing says that they are dead, but that no sign
of life comes. The page finds that out, and follows the next agent."""

from acts import expect, live, main_says, mark, never_loaded_again, open_unit
from fleet import ask

# Longer than the page waits for a sign of life, in milliseconds; the browser's clock is put forward.
SILENCE = 60_000


def play(stage):
    artifact = ask("publish", version="one")
    page = stage.person("ann")
    page.clock.install()
    open_unit(page, stage)
    live(page)
    mark(page)
    stage.forgive("ERR_CONNECTION|ERR_EMPTY_RESPONSE|ERR_INCOMPLETE_CHUNKED|Failed to load resource|Failed to fetch")
    ask("freeze_desk", desk=0)
    told = ask("cutover", args=["deploy", stage.facts["unit"], artifact])
    assert told["code"] == 0, told
    # It has heard of none of it, and cannot know that yet.
    live(page)
    main_says(page, "Nothing was deployed yet")
    page.clock.fast_forward(SILENCE)
    live(page, "reconnecting")
    ask("turn_to", desk=1)
    page.clock.fast_forward(SILENCE)
    live(page)
    expect(page.locator("#current")).to_have_text(artifact)
    never_loaded_again(page)
