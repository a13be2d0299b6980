"""The way back has a name, needs a reason, and is not undone by the next automatic deploy."""

import re

from actions import deploy, expect, main_says, open_unit
from fleet import ask


def play(browser):
    page = browser.person("ann")
    one, two = ask("publish", version="one"), None
    deploy(page, browser, one)
    main_says(page, "3 of 3 nodes switched")
    open_unit(page, browser)
    expect(page.get_by_role("button", name="Roll back to")).to_have_count(0)
    two = ask("publish", version="two")
    deploy(page, browser, two)
    main_says(page, "3 of 3 nodes switched")
    open_unit(page, browser)
    page.get_by_role("button", name=f"Roll back to {one}…").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("Review the rollback")
    compare = page.get_by_role("link", name="Compare the two commits")
    expect(compare).to_have_attribute("href", re.compile(r"^https://git\.example\.com/shop/compare/[0-9a-f]{40}\.\.\.[0-9a-f]{40}$"))
    go = page.get_by_role("button", name=f"Roll back to {one} on 3 nodes")
    # Somebody else is quicker: then nothing is asked for, and nothing is frozen for it.
    ask("hold", node=0, hook="prepare")
    assert ask("cutover", args=["deploy", browser.facts["unit"], two, "--again", "--no-wait"])["code"] == 0
    ask("wait_hook", node=0, hook="prepare")
    page.get_by_label("Why").fill("too late")
    browser.allow_errors("status of 409")
    go.click()
    main_says(page, "is running or waiting")
    assert not (ask("key", key="freeze") or {}).get("by"), ask("key", key="freeze")
    ask("release", node=0, hook="prepare")
    ask("wait_phase", phase="done")
    page.go_back()
    page.get_by_label("Why").fill("")
    go.click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("Review the rollback")
    page.get_by_label("Why").fill("orders are counted twice")
    expect(page.get_by_role("checkbox", name="also freeze the group")).to_be_checked()
    go.click()
    main_says(page, "3 of 3 nodes switched")
    main_says(page, "orders are counted twice")
    open_unit(page, browser)
    main_says(page, "frozen")
    main_says(page, "Frozen by ann")
