"""Before the commit an abort means that no node switches; the page says so, with who and why."""

from actions import deploy, expect, live, main_says, mark, never_loaded_again
from fleet import ask


def play(browser):
    page = browser.person("ann")
    artifact = ask("publish", version="one")
    ask("hold", node=1, hook="prepare")
    deploy(page, browser, artifact)
    live(page)
    mark(page)
    main_says(page, f"waiting for {browser.facts['nodes'][1]}")
    # Somebody else watches, and may not.
    other = browser.person("vic")
    other.goto(page.url)
    expect(other.get_by_role("button", name="Abort")).to_be_disabled()
    page.get_by_label("Reason for aborting").fill("wrong branch")
    page.get_by_role("button", name="Abort: no node switches").click()
    for person in [page, other]:
        main_says(person, "aborted")
        main_says(person, "no node switched")
        main_says(person, "wrong branch")
    ask("wait_phase", phase="aborted")
    assert ask("versions") == [None] * 3
