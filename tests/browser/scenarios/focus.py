"""What changes on a page takes nothing out of the hands of who is at work in it, and can be told to wait."""

from actions import deploy, expect, live, main_says, mark, never_loaded_again, open_unit, step
from fleet import ask


def play(browser):
    nodes = browser.facts["nodes"]
    page = browser.person("ann")
    artifact = ask("publish", version="one")
    for node in range(3):
        ask("hold", node=node, hook="prepare")
    deploy(page, browser, artifact)
    live(page)
    mark(page)
    why = page.get_by_label("Reason for aborting")
    why.click()
    page.keyboard.type("half of a reason")
    for _ in "reason":
        page.keyboard.press("ArrowLeft")
    ask("release", node=0, hook="prepare")
    step(page, nodes[0], "prepared")
    expect(why).to_be_focused()
    page.keyboard.type("good ")
    expect(why).to_have_value("half of a good reason")

    # What is open stays open, and what is being written stays written, on the page of the unit too.
    unit = browser.person("ann")
    open_unit(unit, browser)
    live(unit)
    mark(unit)
    unit.get_by_text("Freeze this group").click()
    form = unit.get_by_role("group").filter(has=unit.get_by_role("button", name="Freeze"))
    form.get_by_label("Why").fill("not yet")

    # Paused, a page stays as it is; going on, it shows the truth.
    page.get_by_role("banner").get_by_role("button", name="live").click()
    live(page, "paused")
    for node in [1, 2]:
        ask("release", node=node, hook="prepare")
    ask("wait_phase", phase="done")
    main_says(unit, "in service")
    expect(form.get_by_label("Why")).to_have_value("not yet")
    expect(form.get_by_label("Why")).to_be_focused()
    never_loaded_again(unit)
    step(page, nodes[2], "preparing")
    page.get_by_role("banner").get_by_role("button", name="paused").click()
    live(page)
    step(page, nodes[2], "switched")
    never_loaded_again(page)

    # A form that would come to mean the opposite is gone, with what was written in it.
    builds = browser.person("ann")
    builds.goto(f"/apps/{browser.facts['unit'].split('/')[0]}/builds")
    live(builds)
    builds.get_by_text("Mark bad…").click()
    builds.get_by_label("Why").fill("breaks the checkout")
    told = ask("cutover", args=["build", "mark-bad", "shop", artifact, "--reason", "too slow"])
    assert told["code"] == 0, told
    main_says(builds, "too slow")
    expect(builds.get_by_text("Mark good…")).to_be_visible()
    expect(builds.get_by_label("Why")).to_be_hidden()
    expect(builds.get_by_label("Why")).to_have_value("")
