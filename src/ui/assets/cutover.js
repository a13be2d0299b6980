// The script of the page. It keeps the page up to date and adds keyboard shortcuts. Every page works without it.
//
// Only the server renders. At each event of the stream the script fetches the page again, one fetch at a time, and merges
// the changes into the document, so that focus, open details and typed text stay. Long lists are merged piece by piece, so
// that they do not block the browser.

const PACE_MS = 250; // The shortest time between two fetches.
const LOAD = 4; // After a merge, the script pauses for at least this multiple of its duration.
const SLICE_MS = 8; // The longest time that rows are merged before the browser may draw a frame.
const RETRY_MS = 10_000; // The pause before a refused stream is opened again.
const LATER_MS = 60_000; // The same pause if a permission is missing, or too many streams are open.
const SILENCE_MS = 35_000; // Two pings of the stream. Without them the connection counts as dead.
const AGAIN_MS = 2_000; // The pause before a failed fetch is retried.
const CLOCK_MS = 10_000; // How often relative times are updated.
const CHORD_MS = 1500; // The longest time between `g` and the next key.

const byId = (id) => document.getElementById(id);
const body = document.body;
const live = byId("live");
const stream = body.dataset.stream;

// How far the server's clock is ahead of the browser's, in milliseconds.
const stamp = document.querySelector("#foot time");
const ahead = stamp ? Date.parse(stamp.dateTime) - Date.now() : 0;

// --- Merging a newer document ----------------------------------------------------------------------------------------

const isField = (node) => node.matches?.("input:not([type=hidden]), select, textarea");

const isTouched = (field) => {
  if (field === document.activeElement) return true;
  if (field.type === "checkbox" || field.type === "radio") return field.checked !== field.defaultChecked;
  if (field.tagName === "SELECT") {
    const declared = [...field.options].findIndex((option) => option.defaultSelected);
    return field.selectedIndex !== Math.max(declared, 0);
  }
  return field.value !== field.defaultValue;
};

const config = (skipped) => ({
  callbacks: {
    beforeNodeMorphed: (old) => old !== skipped && !(isField(old) && isTouched(old)),
    // Keep what the viewer opened or closed.
    beforeAttributeUpdated: (name, node) => !(name === "open" && node.tagName === "DETAILS"),
  },
});

// Lets the browser draw a frame.
const breath = () => new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve)));

const patchRow = (old, row) => {
  if (old.isEqualNode(row)) return;
  if (old.contains(document.activeElement) || old.childElementCount !== row.childElementCount) {
    Idiomorph.morph(old, row, config());
    return;
  }
  [...row.children].forEach((cell, index) => {
    const shown = old.children[index];
    if (!shown.isEqualNode(cell)) shown.replaceWith(cell);
  });
};

// The text of each row that was merged last, by id. A row with the same text is skipped.
let given = new Map();

// Cuts the rows of the long list, one per line, out of the text of a page, because parsing a thousand at once takes too long.
const cut = (text) => {
  const at = text.indexOf('id="rows"');
  const from = text.indexOf(">", at) + 1;
  const to = text.indexOf("<!--/rows-->", from);
  if (at < 0 || to < 0) return { text, lines: [] };
  const lines = text.slice(from, to).split("\n").filter((line) => line.includes("<div"));
  return { text: text.slice(0, from) + text.slice(to), lines };
};

const parseRow = (line) => {
  const template = document.createElement("template");
  template.innerHTML = line;
  return template.content.firstElementChild;
};

const bringRows = async (list, lines) => {
  const taken = new Map();
  let next = list.firstElementChild;
  let until = performance.now() + SLICE_MS;
  for (const line of lines) {
    const id = / id="([^"]*)"/.exec(line)[1];
    taken.set(id, line);
    const old = byId(id);
    if (old && old === next) next = next.nextElementSibling;
    else if (old) list.insertBefore(old, next);
    if (!old) list.insertBefore(parseRow(line), next);
    else if (given.get(id) !== line) patchRow(old, parseRow(line));
    if (performance.now() > until) {
      await breath();
      until = performance.now() + SLICE_MS;
    }
  }
  while (next) {
    const gone = next;
    next = next.nextElementSibling;
    gone.remove();
  }
  given = taken;
};

const bring = async (newer, lines) => {
  document.title = newer.title;
  for (const id of ["session", "running", "foot"]) {
    const fresh = newer.getElementById(id);
    if (fresh && byId(id)) Idiomorph.morph(byId(id), fresh, config());
  }
  const fresh = newer.getElementById("main");
  const main = byId("main");
  if (!fresh) return;
  const said = main.dataset.announce;
  const list = byId("rows");
  if (list && lines.length) {
    Idiomorph.morph(main, fresh, config(list));
    await breath();
    await bringRows(list, lines);
  } else {
    newer.getElementById("rows")?.replaceChildren(...lines.map(parseRow));
    Idiomorph.morph(main, fresh, config());
    given = new Map();
  }
  // Announce only what is new.
  const known = new Set(said.split("; "));
  const told = main.dataset.announce.split("; ").filter((sentence) => sentence && !known.has(sentence));
  if (told.length) byId("announce").textContent = told.join("; ");
};

// --- Fetching the page -----------------------------------------------------------------------------------------------

let isFetching = false;
let isDue = false;
let timer;
let last = 0;
let cost = 0;

const schedule = () => {
  isDue = true;
  if (isFetching || timer || state.word === "paused") return;
  const wait = Math.max(PACE_MS, cost * LOAD) - (performance.now() - last);
  timer = setTimeout(refresh, Math.max(0, wait));
};

const refresh = async () => {
  timer = undefined;
  if (state.word === "paused") return;
  isDue = false;
  isFetching = true;
  try {
    // The agent may send a page that it rendered for another viewer who has seen the same events.
    const headers = seen.id ? { accept: "text/html", "x-cutover-seen": knows() } : { accept: "text/html" };
    const answer = await fetch(location.href, { headers, cache: "no-store" });
    // Keep the old page on a temporary error. Show errors that last: the page is gone, or no longer allowed.
    if (answer.status >= 500) throw new Error(answer.statusText);
    const { text, lines } = cut(await answer.text());
    const begun = performance.now();
    const newer = new DOMParser().parseFromString(text, "text/html");
    await bring(newer, lines);
    cost = performance.now() - begun;
    if (source?.readyState === EventSource.OPEN) show("live");
  } catch {
    if (source) show("reconnecting");
    setTimeout(schedule, AGAIN_MS);
  } finally {
    last = performance.now();
    isFetching = false;
    if (isDue) schedule();
  }
};

// --- A digest of the events that the page has seen -------------------------------------------------------------------

const seen = { id: "", digests: new Map() };

// FNV-1a: quick. The agent compares digests for two seconds only, so a collision of two states of a group is unlikely.
const digest = (text) => {
  let hash = 0x811c9dc5;
  for (let at = 0; at < text.length; at += 1) hash = Math.imul(hash ^ text.charCodeAt(at), 0x01000193);
  return hash >>> 0;
};

const see = (event) => {
  // The data starts with the name of its group or app.
  const subject = `${event.type} ${event.data.slice(0, event.data.indexOf(",", 1) + 1)}`;
  seen.digests.set(subject, digest(event.data));
  seen.id = event.lastEventId;
};

const knows = () => `${seen.id}.${digest([...seen.digests].sort().join())}`;

// --- The stream ------------------------------------------------------------------------------------------------------

const state = { word: "off" };
let source;
let retry;
let heard = 0;

const show = (word) => {
  if (state.word === word) return;
  state.word = word;
  live.hidden = false;
  live.dataset.live = word;
  const now = new Date(Date.now() + ahead).toISOString().slice(11, 19);
  const shown = word === "reconnecting" ? `reconnecting since ${now} UTC` : word;
  live.querySelector(".word").textContent = shown;
  live.title = word === "paused" ? "Resume updating (p)" : "Pause updating (p)";
  live.setAttribute("aria-label", `${shown}: ${word === "paused" ? "resume updating" : "pause updating"}`);
};

const close = () => {
  clearTimeout(retry);
  source?.close();
  source = undefined;
};

const open = () => {
  close();
  show("reconnecting");
  source = new EventSource(stream ? `/v1/stream?${stream}` : "/v1/stream");
  const hear = () => {
    heard = performance.now();
    show("live");
  };
  heard = performance.now();
  source.onopen = hear;
  source.addEventListener("ping", hear);
  source.onerror = () => {
    show("reconnecting");
    if (source?.readyState === EventSource.CLOSED) retry = setTimeout(open, RETRY_MS);
  };
  for (const name of ["status", "builds", "units", "gone"]) {
    source.addEventListener(name, (event) => {
      see(event);
      hear();
      schedule();
    });
  }
  source.addEventListener("trouble", (event) => {
    heard = performance.now();
    show("reconnecting");
    // An immediate retry would fail again.
    if (!["busy", "forbidden"].includes(JSON.parse(event.data).kind)) return;
    close();
    retry = setTimeout(open, LATER_MS);
    schedule();
  });
};

// The browser does not notice a dead connection by itself.
setInterval(() => {
  const isMute = source && source.readyState !== EventSource.CLOSED && performance.now() - heard > SILENCE_MS;
  if (isMute) open();
}, RETRY_MS);

const isPaused = () => sessionStorage.getItem("paused") === "yes";

const follow = () => {
  if (isPaused()) {
    close();
    show("paused");
  } else {
    open();
  }
};

const toggle = () => {
  sessionStorage.setItem("paused", isPaused() ? "no" : "yes");
  follow();
};

if (stream !== undefined) {
  live.addEventListener("click", toggle);
  // A browser opens at most six connections to a host, and a stream uses one: close it while the page is hidden.
  document.addEventListener("visibilitychange", () => (document.hidden ? close() : follow()));
  addEventListener("pagehide", close);
  addEventListener("pageshow", (event) => event.persisted && follow());
  if (!document.hidden) follow();
}

// A browser sends no session cookie after a link from another site, so the agent rendered this page for an anonymous viewer.
// The page's own fetch sends the cookie. A page that the agent refuses to other sites is not fetched.
const isLed = document.referrer && new URL(document.referrer).origin !== location.origin;
const refusal = byId("problem")?.dataset.kind;
// Some links send no referrer. So a page that needs another token is fetched in any case.
if (refusal ? ["not_allowed", "forbidden"].includes(refusal) : isLed) refresh();

// --- Times, forms, keys ----------------------------------------------------------------------------------------------

const relative = (secs) => {
  const ago = Math.abs(secs);
  let span = `${Math.floor(ago / 86_400)} days`;
  if (ago < 5) return "just now";
  if (ago < 60) span = `${ago} s`;
  else if (ago < 3600) span = `${Math.floor(ago / 60)} min`;
  else if (ago < 172_800) span = `${Math.floor(ago / 3600)} h`;
  return secs < 0 ? `in ${span}` : `${span} ago`;
};

setInterval(() => {
  if (document.hidden) return;
  const now = Date.now() + ahead;
  for (const node of document.querySelectorAll(".ago")) {
    const said = relative(Math.trunc((now - Date.parse(node.dataset.at)) / 1000));
    if (node.textContent !== said) node.textContent = said;
  }
}, CLOCK_MS);

// A second click must not send the form twice.
document.addEventListener("submit", (event) => {
  const form = event.target;
  if (form.method !== "post") return;
  if (form.dataset.sent) event.preventDefault();
  form.dataset.sent = "yes";
});
addEventListener("pageshow", () => document.querySelectorAll("form[data-sent]").forEach((form) => delete form.dataset.sent));

let chord = -Infinity; // The time at which `g` was pressed.
document.addEventListener("keydown", (event) => {
  const isTyping = event.target.closest?.("input, select, textarea");
  if (body.dataset.keys !== "on" || isTyping || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "g") {
    chord = performance.now();
    return;
  }
  if (performance.now() - chord < CHORD_MS) document.querySelector(`nav a[data-key="${CSS.escape(event.key)}"]`)?.click();
  else if (event.key === "p" && stream !== undefined) toggle();
  chord = -Infinity;
});
