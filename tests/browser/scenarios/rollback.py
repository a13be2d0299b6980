"""The way back has a name, needs a reason, and is not undone by the next automatic deploy."""

import re

from acts import deploy, expect, main_says, open_unit
from fleet import ask


def play(stage):
    page = stage.person("ann")
    one, two = ask("publish", version="one"), None
    deploy(page, stage, one)
    main_says(page, "3 of 3 nodes switched")
    open_unit(page, stage)
    expect(page.get_by_role("button", name="Roll back to")).to_have_count(0)
    two = ask("publish", version="two")
    deploy(page, stage, two)
    main_says(page, "3 of 3 nodes switched")
    open_unit(page, stage)
    page.get_by_role("button", name=f"Roll back to {one}…").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("Review the rollback")
    compare = page.get_by_role("link", name="Compare the two commits")
    expect(compare).to_have_attribute("href", re.compile(r"^https://git\.example\.com/shop/compare/[0-9a-f]{40}\.\.\.[0-9a-f]{40}$"))
    go = page.get_by_role("button", name=f"Roll back to {one} on 3 nodes")
    go.click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("Review the rollback")
    page.get_by_label("Why").fill("orders are counted twice")
    expect(page.get_by_role("checkbox", name="freeze the group too")).to_be_checked()
    go.click()
    main_says(page, "3 of 3 nodes switched")
    main_says(page, "orders are counted twice")
    open_unit(page, stage)
    main_says(page, "frozen")
    main_says(page, "Frozen by ann")
