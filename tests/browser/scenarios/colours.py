"""Light or dark as the system has it, until somebody chooses; what was chosen holds from the first paint on."""

from actions import expect

# How light what is behind everything is, from 0 to 255.
PAPER = "Math.max(...getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3).map(Number))"


def play(browser):
    for scheme, other in [("light", "dark"), ("dark", "light")]:
        page = browser.person("ann", scheme=scheme)
        page.goto("/settings")
        shows(page, scheme)
        page.get_by_role("radio", name=other).check()
        page.get_by_role("button", name="Save").click()
        expect(page.get_by_role("radio", name=other)).to_be_checked()
        for address in ["/settings", "/", "/nodes"]:
            page.goto(address)
            shows(page, other)
        # As it comes, before any script: nothing flashes.
        assert f'data-theme="{other}"' in page.request.get("/").text()


def shows(page, scheme):
    is_light = page.evaluate(PAPER) > 128
    assert is_light == (scheme == "light"), f"{page.url} is {page.evaluate(PAPER)} light"
