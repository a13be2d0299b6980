"""Every page that there is, by a name for its picture; of the furnished rig of `sample_rig.rs`."""


def places(browser, page):
    """Names and addresses, for somebody who may see everything."""
    unit, other = browser.facts["unit"], browser.facts["other"]
    app, _ = unit.split("/")
    entries = page.request.get(f"/v1/deploys/{unit}?limit=1000").json()["entries"]
    ended = {entry["outcome"] or "running": entry for entry in reversed(entries) if entry["nodes"]}
    found = {
        "overview": "/",
        "builds": f"/apps/{app}/builds",
        "builds-none": f"/apps/{app}/builds?branch=nothing",
        "nodes": "/nodes",
        "history": f"/units/{unit}/history",
        "history-none": f"/units/{unit}/history?by=nobody",
        "doctor": f"/units/{unit}/doctor",
        "settings": "/settings",
        "sign-in": "/sign-in",
        "unit": f"/units/{unit}",
        "unit-frozen": f"/units/{other}",
        "review": f"/units/{other}/review?ref=main&again=on",
        "review-rollback": f"/units/{unit}/review?rollback=on",
        "review-bad": f"/units/{unit}/review?ref=nothing",
        "not-found": f"/units/{unit}/deploys/1",
    }
    found.update({f"deploy-{outcome}": f"/units/{unit}/deploys/{entry['epoch']}" for outcome, entry in ended.items()})
    assert {"deploy-running", "deploy-done", "deploy-aborted", "deploy-reverted"} <= set(found), found
    return found


def visit(page, address):
    """Opens it, and waits until it follows what happens, where it does."""
    answer = page.goto(address)
    if page.locator("body[data-stream]").count():
        page.get_by_role("banner").get_by_role("button", name="live").wait_for()
    return answer
