"""A node says no: nobody switches, and the page says which node, at what, and with which last words."""

from actions import deploy, expect, main_says, step
from fleet import ask

WORDS = "shared/payment.key is missing here"


def play(browser):
    nodes = browser.facts["nodes"]
    page = browser.person("ann")
    artifact = ask("publish", version="one")
    ask("fail", node=2, hook="prepare", words=f"looking around\n{WORDS}\n")
    deploy(page, browser, artifact)
    wrong = page.get_by_role("region", name="What stopped the deploy")
    for words in [nodes[2], "prepare_hook", "exit status: 3", WORDS, "then retry"]:
        expect(wrong).to_contain_text(words)
    step(page, nodes[2], "refused")
    main_says(page, "no node switched")
    assert ask("versions") == [None] * 3
    ask("mend", node=2, hook="prepare")
    page.get_by_role("link", name=f"Retry {artifact}…").click()
    page.get_by_role("button", name=f"Deploy {artifact} to 3 nodes").click()
    main_says(page, "3 of 3 nodes switched")
