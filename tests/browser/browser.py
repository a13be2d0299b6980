"""One browser, the people in it, and all that it complains about meanwhile.

Whatever a scenario is about, it fails too when a script fails, a dialog opens, the page asks another host for something,
or its own Content-Security-Policy stops something.
"""

import pathlib
import re

from playwright.sync_api import sync_playwright

# Far above what anything here takes on a busy machine, in milliseconds; only what never comes reaches it.
LIMIT = 30_000
# Told apart from what the page itself says by its first words.
VIOLATION = "violates its own policy:"
TELL_VIOLATIONS = """addEventListener('securitypolicyviolation', (event) =>
    console.error('%s', event.violatedDirective, event.blockedURI, event.sourceFile, event.lineNumber))""" % VIOLATION


class Browser:
    """A browser, for as long as it is used by `with`."""

    def __init__(self, facts):
        self.facts = facts
        self.url = facts["url"]
        self.pictures = pathlib.Path(facts["pictures"])
        self.people = []
        self.without_scripts = []
        self.complaints = []
        self.forgiven = []

    def __enter__(self):
        self.playwright = sync_playwright().start()
        self.browser = self.playwright.chromium.launch(executable_path=self.facts["chromium"])
        return self

    def __exit__(self, *_):
        self.browser.close()
        self.playwright.stop()

    def person(self, name=None, scheme="light", width=1280, height=900, scripts=True, **more):
        """A browser of their own, signed in if they have a name; the page is not open yet."""
        context = self.browser.new_context(
            base_url=self.url,
            color_scheme=scheme,
            viewport={"width": width, "height": height},
            java_script_enabled=scripts,
            timezone_id="UTC",
            locale="en-GB",
            **more,
        )
        context.set_default_timeout(LIMIT)
        if scripts:
            context.add_init_script(TELL_VIOLATIONS)
        if name:
            self.sign_in(context, name)
        page = context.new_page()
        self.listen(page)
        self.people.append(page)
        if not scripts:
            self.without_scripts.append(page)
        return page

    def has_scripts(self, page):
        return page not in self.without_scripts

    def sign_in(self, context, name):
        """By the API, for scenarios that are about something else."""
        token = self.facts["tokens"][name]
        answer = context.request.post("/v1/session", data={"token": token}, headers={"Origin": self.url})
        assert answer.ok, f"{name} is not let in: {answer.status} {answer.text()}"

    def listen(self, page):
        complain = self.complaints.append
        page.on("console", lambda it: it.type in ("error", "warning") and complain(f"console: {it.text} ({it.location})"))
        page.on("pageerror", lambda error: complain(f"script: {error}"))
        page.on("request", lambda it: it.url.startswith(self.url + "/") or complain(f"asks elsewhere: {it.url}"))

        def refuse(dialog):
            complain(f"dialog: {dialog.message}")
            dialog.dismiss()

        page.on("dialog", refuse)

    def allow_errors(self, pattern):
        """What the browser says of the network when a scenario breaks it is no complaint."""
        self.forgiven.append(re.compile(pattern))

    def unforgiven(self):
        return [it for it in self.complaints if not any(pattern.search(it) for pattern in self.forgiven)]

    def picture_all(self):
        """What each person sees, and where; for a scenario that has failed."""
        said = []
        self.pictures.mkdir(parents=True, exist_ok=True)
        for number, page in enumerate(self.people):
            path = self.pictures / f"{number}.png"
            try:
                page.screenshot(path=path, full_page=True, timeout=LIMIT)
                text = page.locator("body").aria_snapshot(timeout=LIMIT)
                said.append(f"person {number} is at {page.url}, picture: {path}\n{text}")
            except Exception as error:  # The scenario's own failure is what counts.
                said.append(f"person {number}: no picture: {error}")
        return "\n".join(said)
