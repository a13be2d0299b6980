"""axe-core finds nothing on any page, wide and narrow, in the colours that are asked for."""

from axe_playwright_python.sync_playwright import Axe

from pages import places, visit

# The one rule of WCAG 2.2 AA that axe leaves out unless it is asked for.
RULES = {"rules": {"target-size": {"enabled": True}}}


def play(browser):
    browser.allow_errors("status of 40[0-9]")
    axe, scheme, found = Axe(), browser.facts["scheme"], []

    def look(who, width, those=None):
        page = browser.person(who, scheme=scheme, width=width)
        all_of_them = places(browser, page) if those is None else those
        for name, address in all_of_them.items():
            visit(page, address)
            for it in axe.run(page, options=RULES).response["violations"]:
                nodes = "\n".join(f"    {node['html']}\n    {node['failureSummary']}" for node in it["nodes"][:3])
                found.append(f"{name}, {who}, {scheme}, {width} px: {it['id']}: {it['help']}\n{nodes}")

    for width in [1280, 375]:
        look("ann", width)
    # Who may only look sees buttons that say why, and who has not signed in sees next to nothing.
    unit = browser.facts["unit"]
    some = ["/", "/nodes", "/history", f"/units/{unit}", f"/units/{unit}/review?ref=master", f"/apps/{unit.split('/')[0]}/builds"]
    look("vic", 1280, {address: address for address in some})
    look(None, 375, {address: address for address in some})
    assert not found, "\n".join(found)
