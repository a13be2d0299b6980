"""From the review to the end, in two steps, while the page shows each node as it goes on."""

from actions import deploy, expect, live, main_says, mark, never_loaded_again, open_unit, review, step
from fleet import ask


def play(browser):
    nodes = browser.facts["nodes"]
    artifact = ask("publish", version="one")
    page = browser.person("ann")
    review(page, browser, "master", "for the spring sale")
    for words in ["ready", artifact]:
        main_says(page, words)
    answers = page.get_by_role("table", name="Answers of the nodes to the dry run")
    expect(answers.get_by_role("row").filter(has_text="ready")).to_have_count(3)
    assert ask("versions") == [None] * 3, "a review changes nothing"

    for node in range(3):
        ask("hold", node=node, hook="prepare")
        ask("hold", node=node, hook="switched")
    deploy(page, browser, artifact, "for the spring sale")
    mark(page)
    live(page)
    for words in ["ann", "verified", "via ui", "for the spring sale", "0 of 3 nodes prepared"]:
        main_says(page, words)
    everywhere = browser.person("ann")
    everywhere.goto("/")
    expect(everywhere.get_by_role("region", name="Running deploys")).to_contain_text(artifact)
    for node in range(3):
        step(page, nodes[node], "preparing")
        ask("release", node=node, hook="prepare")
        if node < 2:
            step(page, nodes[node], "prepared")
            main_says(page, f"{node + 1} of 3 nodes prepared")
    assert ask("wait_phase", phase="commit")["artifact"] == artifact
    main_says(page, "0 of 3 nodes switched")
    for node in range(3):
        step(page, nodes[node], "switching")
        ask("release", node=node, hook="switched")
        step(page, nodes[node], "switched")
    main_says(page, "3 of 3 nodes switched")
    expect(page.get_by_role("figure", name="Timeline")).to_be_visible()
    expect(page.get_by_role("status")).to_contain_text("done")
    never_loaded_again(page)
    expect(everywhere.get_by_role("region", name="Running deploys")).to_be_hidden()
    open_unit(page, browser)
    main_says(page, artifact)
