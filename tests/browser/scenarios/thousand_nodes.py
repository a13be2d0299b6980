"""A thousand nodes on the page of a deploy, all of which change within two seconds: how long the frames take.

A frame is what lies between two callbacks of requestAnimationFrame; what makes one long is told by the browser's own
account of long frames. The page is bare of everything else that a person does, and the machine is shared: figures, and
no verdict.
"""

import time

from actions import live
from fleet import ask, say

WATCH = """() => {
    const seen = window.seen = {frames: [], tasks: [], long: []};
    let last = performance.now();
    const tick = (now) => { seen.frames.push(now - last); last = now; requestAnimationFrame(tick); };
    requestAnimationFrame((now) => { last = now; requestAnimationFrame(tick); });
    new PerformanceObserver((list) => list.getEntries().forEach((it) => seen.tasks.push(it.duration)))
        .observe({type: 'longtask'});
    new PerformanceObserver((list) => list.getEntries().forEach((it) => seen.long.push({
        took: it.duration, blocked: it.blockingDuration, render: it.startTime + it.duration - it.renderStart,
        style: it.startTime + it.duration - it.styleAndLayoutStart,
        scripts: it.scripts.map((script) => `${script.invoker} ${Math.round(script.duration)} ms`)})))
        .observe({type: 'long-animation-frame'});
}"""
SOME_FRAMES = """() => new Promise((done) => {
    const look = () => window.seen.frames.length >= 120 ? done() : requestAnimationFrame(look);
    look();
})"""
# What Playwright itself does to find a role among ten thousand elements takes seconds; this takes a millisecond.
SAYS = """(words) => new Promise((done) => {
    const look = () => document.querySelector('main').textContent.includes(words) ? done() : setTimeout(look, 50);
    look();
})"""
RESET = "() => { const seen = window.seen; seen.frames.length = seen.tasks.length = seen.long.length = 0; }"


def play(browser):
    page = browser.person("ann")
    crowd = ask("crowd")
    nodes = crowd["nodes"]
    page.goto(f"/units/{crowd['unit']}/deploys/{crowd['epoch']}")
    live(page)
    page.evaluate(WATCH)
    page.evaluate(SAYS, f"0 of {nodes} nodes prepared")
    report(page, "at rest", lambda: page.evaluate(SOME_FRAMES))
    report(page, f"{nodes} nodes prepare", lambda: all_answer(page, "prepared", f"{nodes} of {nodes} nodes prepared"))
    ask("crowd_phase", phase="commit")
    page.evaluate(SAYS, f"0 of {nodes} nodes switched")
    report(page, f"{nodes} nodes switch", lambda: all_answer(page, "switched", f"{nodes} of {nodes} nodes switched"))


def all_answer(page, answer, end):
    ask("crowd_answers", answer=answer)
    page.evaluate(SAYS, end)


def report(page, what, happens):
    page.evaluate(RESET)
    begun = time.monotonic()
    happens()
    took = time.monotonic() - begun
    seen = page.evaluate("window.seen")
    frames = sorted(seen["frames"])
    over = sum(frame > 100 for frame in frames)
    say(
        f"{what:22} {took:.1f} s, {len(frames):4} frames, median {frames[len(frames) // 2]:.0f} ms, longest {frames[-1]:.0f} ms, "
        f"{over} over 100 ms; long tasks: {len(seen['tasks'])}, longest {max(seen['tasks'], default=0):.0f} ms"
    )
    for it in sorted(seen["long"], key=lambda it: -it["took"])[:3]:
        say(f"{'':24}{it['took']:.0f} ms, of which style and layout {it['style']:.0f} ms: {', '.join(it['scripts'])}")
