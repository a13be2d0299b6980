"""A page of another site, open in the same browser, can neither ask for anything, nor frame the page, nor read it.

The other site is on loopback too, as browsers keep those of the internet away from there by themselves.
"""

import http.server
import threading

from actions import expect, open_unit
from fleet import ask

READ = """(url) => fetch(url, {credentials: 'include'}).then((answer) => answer.text(), () => 'nothing')"""
POST = """([url, body]) => fetch(url, {method: 'POST', mode: 'no-cors', credentials: 'include', body,
    headers: {'content-type': 'application/x-www-form-urlencoded'}}).then((it) => it.type, () => 'nothing')"""


def play(browser):
    unit = browser.facts["unit"]
    artifact = ask("publish", version="one")
    target = f"{browser.url}/units/{unit}/deploy"
    form = f'<form method="post" action="{target}"><input name="ref" value="{artifact}"><button>Win</button></form>'
    frame = f'<iframe title="framed" src="{browser.url}/units/{unit}"></iframe>'
    site = serve(form + frame)
    page = browser.person("ann")
    # What is stopped is told on the console.
    browser.allow_errors("asks elsewhere|[Ff]raming|frame-ancestors|CORS|ERR_FAILED|ERR_BLOCKED|status of 4(03|04|21)")
    page.goto(site)
    read = page.evaluate(READ, f"{browser.url}/v1/status/{unit}")
    assert read == "nothing", read
    # It is sent, and refused; its sender may not know what became of it.
    assert page.evaluate(POST, [target, f"ref={artifact}"]) == "nothing"
    assert not any(unit in frame.content() for frame in page.frames[1:]), "it is framed"
    page.get_by_role("button", name="Win").click()
    # It says why, and goes on saying so: what was not done is not asked for again in another way.
    page.wait_for_load_state("networkidle")
    expect(page.get_by_role("main")).to_contain_text("another site")
    # The same person, on the page itself, is still signed in.
    open_unit(page, browser)
    expect(page.get_by_role("banner")).to_contain_text("ann")
    assert ask("key", key="deploy") is None


def serve(page):
    """A site of its own with this one page; it ends with the scenario."""

    class Site(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.end_headers()
            self.wfile.write(page.encode())

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.2", 0), Site)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.2:{server.server_port}/"
