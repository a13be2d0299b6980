"""Everything without JavaScript: links, forms, and loading again."""

import re

from actions import deploy, expect, main_says, open_unit, step
from fleet import ask


def play(browser):
    page = browser.person(scripts=False)
    page.goto(f"/sign-in?next=%2Funits%2F{browser.facts['unit'].replace('/', '%2F')}")
    page.get_by_label("Consul token").fill(browser.facts["tokens"]["ann"])
    page.get_by_role("main").get_by_role("button", name="Sign in").click()
    expect(page).to_have_url(re.compile("/units/"))
    one = ask("publish", version="one")
    ask("hold", node=1, hook="prepare")
    deploy(page, browser, one, "without a script")
    step(page, browser.facts["nodes"][1], "preparing")
    ask("release", node=1, hook="prepare")
    ask("wait_phase", phase="done")
    page.reload()
    main_says(page, "3 of 3 nodes switched")
    main_says(page, "without a script")

    two = ask("publish", version="two")
    ask("hold", node=2, hook="prepare")
    deploy(page, browser, two)
    page.get_by_label("Reason for aborting").fill("not today")
    page.get_by_role("button", name="Abort: no node switches").click()
    ask("wait_phase", phase="aborted")
    ask("release", node=2, hook="prepare")
    open_unit(page, browser)
    main_says(page, "not today")

    page.get_by_text("Freeze this group").click()
    form = page.get_by_role("group").filter(has=page.get_by_role("button", name="Freeze"))
    form.get_by_label("Why").fill("inventory")
    form.get_by_label("For how long").select_option("4 hours")
    form.get_by_role("button", name="Freeze").click()
    main_says(page, "Frozen by ann")
    # Its end stays as it is when only the reason is mended.
    until = ask("key", key="freeze")["until"]
    page.get_by_text("Change the freeze").click()
    form.get_by_label("Why").fill("stocktaking")
    form.get_by_role("button", name="Freeze").click()
    main_says(page, "stocktaking")
    assert ask("key", key="freeze")["until"][:19] == until[:19], until
    page.get_by_role("button", name="Unfreeze").click()
    expect(page.get_by_role("main")).not_to_contain_text("Frozen by")

    page.get_by_role("navigation", name="Main").get_by_role("link", name="Builds").click()
    expect(page.get_by_role("heading", level=1)).to_have_text(re.compile("Builds"))
    page.goto("/apps/shop/builds")
    row = page.get_by_role("row").filter(has_text=two)
    row.get_by_text("Mark bad…").click()
    row.get_by_label("Why").fill("leaks")
    row.get_by_role("button", name=re.compile("bad", re.I)).click()
    expect(page.get_by_role("row").filter(has_text=two)).to_contain_text("leaks")

    page.goto(f"/units/{browser.facts['unit']}/history")
    page.get_by_role("combobox", name="What", exact=True).select_option("deploy")
    page.get_by_role("combobox", name="Outcome", exact=True).select_option("aborted")
    page.get_by_role("button", name="Show").click()
    expect(page.get_by_role("table").get_by_role("row")).to_have_count(2)
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("banner")).to_contain_text("not signed in")
