"""With the token of somebody, and only with one that Consul knows; the page itself never has it."""

import re

from actions import expect, open_unit


def play(browser):
    page = browser.person()
    page.goto("/")
    expect(page.get_by_role("banner")).to_contain_text("not signed in")
    expect(page.get_by_role("main")).not_to_contain_text(browser.facts["unit"])
    browser.allow_errors("status of 403")
    page.goto(f"/units/{browser.facts['unit']}")
    page.get_by_role("link", name="Sign in").first.click()
    sign_in(page, "11111111-2222-3333-4444-555555555555")
    expect(page.get_by_role("alert")).to_contain_text("refused")
    token = browser.facts["tokens"]["ann"]
    sign_in(page, token)
    expect(page).to_have_url(re.compile(f"/units/{browser.facts['unit']}$"))
    expect(page.get_by_role("banner")).to_contain_text("ann")
    keeps_nothing(page, token)
    expect(page.get_by_role("button", name="Review…")).to_be_enabled()
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("banner")).to_contain_text("not signed in")
    assert page.request.get("/v1/session").json()["identity"] is None

    # Who may only look is told why.
    page = browser.person("vic")
    open_unit(page, browser)
    button = page.get_by_role("button", name="Review…")
    expect(button).to_be_disabled()
    expect(button).to_have_accessible_description(re.compile("."))


def sign_in(page, token):
    page.get_by_label("Consul token").fill(token)
    page.get_by_role("main").get_by_role("button", name="Sign in").click()


def keeps_nothing(page, token):
    kept = page.evaluate("[document.cookie, JSON.stringify({...localStorage}), JSON.stringify({...sessionStorage})]")
    assert not any(token in it for it in [*kept, page.content(), page.url]), "a script could read the token"
    (cookie,) = [it for it in page.context.cookies() if token in it["value"] or it["name"] == "cutover_session"]
    assert cookie["httpOnly"] and cookie["sameSite"] == "Strict", cookie
