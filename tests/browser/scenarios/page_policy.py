"""No page runs or loads anything that its policy does not name, each has its twin, and a first view weighs little."""

from fleet import say
from pages import places, visit

# The issue's own limit for a first view.
MOST_BYTES = 60_000

# What a policy without `unsafe-inline` would stop, were it there.
INLINE = """() => [...document.querySelectorAll('*')].flatMap((it) => [
    ...(it.localName === 'style' || (it.localName === 'script' && !it.src) ? [it.outerHTML.slice(0, 120)] : []),
    ...[...it.attributes].filter(({name, value}) => name === 'style' || name.startsWith('on') ||
        /^\\s*(javascript|data|vbscript):/i.test(value)).map(({name}) => `${name}: ${it.outerHTML.slice(0, 120)}`),
])"""


def play(browser):
    browser.allow_errors("status of 40[0-9]")
    heaviest = 0
    known = browser.person("ann")
    for name, address in places(browser, known).items():
        # Somebody who was never here before.
        page = browser.person("ann")
        weight = weigh(page)
        answer = visit(page, address)
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy or "default-src 'self'" in policy, f"{name}: {policy}"
        assert "unsafe" not in policy and "*" not in policy, f"{name}: {policy}"
        assert answer.headers.get("x-content-type-options") == "nosniff", name
        assert "frame-ancestors 'none'" in policy, f"{name}: {policy}"
        inline = page.evaluate(INLINE)
        assert not inline, f"{name}: {inline}"
        assert weight() <= MOST_BYTES, f"{name}: a first view takes {weight()} bytes"
        heaviest = max(heaviest, weight())
        twin = page.locator("link[rel=alternate][type='application/json']")
        if twin.count():
            # As a click on its link asks for it: some pages answer to nobody who comes from elsewhere.
            document = page.request.get(twin.get_attribute("href"), headers={"referer": page.url})
            assert document.ok and document.json(), f"{name}: {document.status}"
        page.context.close()
        browser.people.remove(page)
    say(f"the heaviest first view takes {heaviest} bytes")


def weigh(page):
    """What comes over the network from now on, heads and all."""
    session, total = page.context.new_cdp_session(page), [0]

    def count(event):
        total[0] += max(int(event.get("encodedDataLength") or event.get("response", {}).get("encodedDataLength", 0)), 0)

    session.on("Network.responseReceived", count)
    session.on("Network.dataReceived", count)
    session.send("Network.enable")
    return lambda: total[0]
