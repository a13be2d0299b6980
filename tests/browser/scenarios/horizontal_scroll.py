"""Nothing has to be moved sideways to be read, on a telephone, a tablet and a desk."""

from pages import places, visit

SIDEWAYS = """() => {
    const width = document.documentElement.clientWidth;
    const scrolls = (it) => it && (getComputedStyle(it).overflowX !== 'visible' || scrolls(it.parentElement));
    const wide = [...document.body.querySelectorAll('*')].filter((it) =>
        it.getBoundingClientRect().right > width + 1 && !scrolls(it.parentElement) && it.getClientRects().length);
    return {page: document.documentElement.scrollWidth, width, wide: wide.slice(0, 3).map((it) => it.outerHTML.slice(0, 200))};
}"""


def play(browser):
    browser.allow_errors("status of 40[0-9]")
    found = []
    for width in [375, 768, 1280]:
        page = browser.person("ann", width=width, height=800)
        for name, address in places(browser, page).items():
            visit(page, address)
            seen = page.evaluate(SIDEWAYS)
            if seen["page"] > seen["width"]:
                found.append(f"{name}: {seen}")
    assert not found, "\n".join(found)
