"""A deploy without a mouse: everything is reached by Tab, and it shows where one is."""

import re

from actions import expect, live, main_says
from fleet import ask

# More than any page has to be passed through.
MOST_STOPS = 120


def play(browser):
    page = browser.person()
    page.goto("/sign-in")
    tab_to(page, page.get_by_label("Consul token"))
    page.keyboard.type(browser.facts["tokens"]["ann"])
    page.keyboard.press("Enter")
    expect(page.get_by_role("banner")).to_contain_text("ann")
    artifact = ask("publish", version="one")
    page.goto("/")
    # The first stop passes by everything that is the same on each page.
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
    page.keyboard.press("Enter")
    tab_to(page, page.get_by_role("link", name=browser.facts["unit"], exact=True))
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text(browser.facts["unit"])
    tab_to(page, page.get_by_label("Branch or build"))
    page.keyboard.type("master")
    tab_to(page, page.get_by_label("Why (shown in the history)"))
    page.keyboard.type("by hand")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_contain_text("Review the deploy")
    tab_to(page, page.get_by_role("button", name=f"Deploy {artifact} to 3 nodes"))
    page.keyboard.press("Enter")
    main_says(page, "3 of 3 nodes switched")

    # Single keys go to pages, after `g` alone, until somebody does not want them.
    page.goto("/")
    page.keyboard.press("n")
    page.keyboard.press("p")
    live(page, "paused")
    page.keyboard.press("p")
    live(page)
    page.keyboard.press("g")
    page.keyboard.press("n")
    expect(page).to_have_url(re.compile("/nodes$"))
    page.keyboard.press("g")
    page.keyboard.press("s")
    expect(page).to_have_url(re.compile("/settings$"))
    tab_to(page, page.get_by_role("checkbox", name="keyboard shortcuts"))
    page.keyboard.press("Space")
    tab_to(page, page.get_by_role("button", name="Save"))
    page.keyboard.press("Enter")
    expect(page.get_by_role("checkbox", name="keyboard shortcuts")).not_to_be_checked()
    page.keyboard.press("g")
    page.keyboard.press("n")
    expect(page).to_have_url(re.compile("/settings"))


def tab_to(page, wanted):
    """Goes on until this has the focus; each stop on the way has to be seen."""
    for _ in range(MOST_STOPS):
        page.keyboard.press("Tab")
        stop = page.locator(":focus")
        if stop.count() and not page.evaluate(IS_SHOWN):
            raise AssertionError(f"nothing shows that this has the focus: {stop.evaluate('it => it.outerHTML')}")
        if wanted.and_(stop).count():
            return
    raise AssertionError(f"{wanted} is not among {MOST_STOPS} stops")


# Something of the element itself, or of what it stands for, differs while it has the focus.
IS_SHOWN = """() => {
    const style = getComputedStyle(document.activeElement);
    return (style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) > 0) || style.boxShadow !== 'none';
}"""
