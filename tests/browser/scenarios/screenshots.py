"""Pictures of every page, light and dark, wide and narrow: for people to look at."""

import pathlib

from fleet import say
from pages import places, visit


def play(browser):
    browser.allow_errors("status of 40[0-9]")
    folder = pathlib.Path(browser.facts["target"]) / "screenshots"
    folder.mkdir(parents=True, exist_ok=True)
    for scheme in ["light", "dark"]:
        for shape, (width, height) in {"wide": (1280, 800), "narrow": (375, 812)}.items():
            page = browser.person("ann", scheme=scheme, width=width, height=height)
            for name, address in places(browser, page).items():
                visit(page, address)
                page.screenshot(path=folder / f"{name}-{scheme}-{shape}.png", full_page=True)
    say(f"{folder} has {len(list(folder.glob('*.png')))} pictures")
