"""Whatever stands in a branch, a reason, a name or a hook's output is text, on every page."""

import json
import re

from actions import deploy, expect, main_says, open_unit, review
from fleet import ask

RUN = "window.broken=true"
TAG = f"<img src=x onerror={RUN}>"
BRANCH = f'"><svg/onload={RUN}>'
OUTPUT = f"</pre><script>{RUN}</script>{TAG}\n\x1b[31mred\x1b[0m \u202ereversed\n"


def play(browser):
    unit, nodes = browser.facts["unit"], browser.facts["nodes"]
    page = browser.person("ann")
    one = ask("publish", version="one")
    # As whoever pushes may have written the commit.
    [row] = page.request.get("/v1/builds/shop").json()["builds"]
    said = {"subject": f"</bdi>{TAG}", "author": f"{TAG}\u202e"}
    ask("put", key=f"shop/builds/{one}", value=json.dumps(row["record"] | said))
    commit = "e" * 40
    tree = ask("tree", version="one")
    built = ask("cutover", args=["publish", "--app", "shop", "--branch", BRANCH, "--commit", commit, tree])
    assert built["code"] == 0, built
    link = f"javascript:{RUN}"
    run = {"subject": TAG, "author": TAG, "branch": TAG, "commit": "f" * 40, "state": "failed", "by": TAG, "url": link, "reason": TAG, "at": "2026-11-23T22:13:14Z"}
    ask("put", key="shop/runs/x-ffffffff", value=json.dumps(run))
    ask("put", key=f"shop/bad/{built['stdout'].split()[0]}", value=json.dumps({"by": TAG, "reason": TAG}))
    ask("put", key=f"{unit}/freeze", value=json.dumps({"by": TAG, "reason": TAG}))
    look(browser, page, f"/units/{unit}")
    main_says(page, TAG)
    main_says(page, f"“</bdi>{TAG}” by {TAG}")
    ask("put", key=f"{unit}/freeze", value="")

    ask("fail", node=1, hook="prepare", words=OUTPUT)
    ask("put", key=f"{unit}/deploy", value=json.dumps({"ref": "master", "by": TAG, "via": "cli", "reason": f"</dd>{TAG}"}))
    ask("wait_phase", phase="aborted")
    epoch = page.request.get(f"/v1/deploys/{unit}?kind=deploy").json()["entries"][0]["epoch"]
    look(browser, page, f"/units/{unit}/deploys/{epoch}")
    main_says(page, f"<script>{RUN}</script>")
    main_says(page, f"</dd>{TAG}")
    main_says(page, f"“</bdi>{TAG}” by {TAG}")
    # What reorders or hides what stands around it does not come through.
    assert not re.search("[\u202a-\u202e\x1b]", page.content())
    for address in [
        "/",
        "/nodes",
        "/apps/shop/builds",
        f"/apps/shop/builds?branch={TAG}",
        f"/nodes?named={TAG}",
        f"/units/{unit}/history",
        f"/units/{unit}/history?by={TAG}&artifact={TAG}",
        f"/units/{unit}/doctor",
        f"/units/{unit}/review?ref={TAG}&reason={TAG}",
        f"/units/{unit}/review?ref={one}",
        f"/units/{unit}/review?ref={built['stdout'].split()[0]}",
        f"/sign-in?next=javascript:{RUN}",
        f"/sign-in?next=//elsewhere.example.com",
        f"/units/{TAG}",
    ]:
        browser.allow_errors("status of 4(00|03|04|09|22)")
        look(browser, page, address)
        if address in ["/apps/shop/builds", f"/units/{unit}/review?ref={one}"]:
            main_says(page, f"“</bdi>{TAG}” by {TAG}")

    # It may look like it, but nobody is sent elsewhere.
    stranger = browser.person()
    for there in [f"javascript:{RUN}", "//elsewhere.example.com", "https://elsewhere.example.com/", "/\\elsewhere.example.com"]:
        stranger.goto("/sign-in")
        stranger.goto(f"/sign-in?next={there}")
        stranger.get_by_label("Consul token").fill(browser.facts["tokens"]["ann"])
        stranger.get_by_role("main").get_by_role("button", name="Sign in").click()
        expect(stranger.get_by_role("banner")).to_contain_text("ann")
        assert stranger.url.startswith(browser.url + "/"), stranger.url
        stranger.get_by_role("button", name="Sign out").click()


def look(browser, page, address):
    page.goto(address)
    page.get_by_role("heading", level=1).first.wait_for()
    assert not page.evaluate("window.broken"), f"a script ran on {address}"
    strange = page.evaluate("""() => [...document.querySelectorAll('img, script:not([src]), [onerror], [onload], a[href^="javascript:" i]')]
        .map((it) => it.outerHTML)""")
    assert not strange, f"{address}: {strange}"
