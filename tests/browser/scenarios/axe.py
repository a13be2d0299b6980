"""axe-core finds nothing on any page, wide and narrow, in the colours that are asked for."""

from axe_playwright_python.sync_playwright import Axe

from places import places, visit

# The one rule of WCAG 2.2 AA that axe leaves out unless it is asked for.
RULES = {"rules": {"target-size": {"enabled": True}}}


def play(stage):
    stage.forgive("status of 40[0-9]")
    axe, scheme, found = Axe(), stage.facts["scheme"], []
    for width in [1280, 375]:
        page = stage.person("ann", scheme=scheme, width=width)
        for name, address in places(stage, page).items():
            visit(page, address)
            for it in axe.run(page, options=RULES).response["violations"]:
                nodes = "\n".join(f"    {node['html']}\n    {node['failureSummary']}" for node in it["nodes"][:3])
                found.append(f"{name}, {scheme}, {width} px: {it['id']}: {it['help']}\n{nodes}")
    assert not found, "\n".join(found)
