// Live: hears that something moved, and fetches the page again. Without it the page reads as it was when it was loaded.
//
// The server says which elements of this page change (`hello`), that something did (`changed`), and every two seconds that it is
// still there, and whether a controller is (`beat`). Nothing heard for five seconds, or the network gone: the page says so, and
// goes on by itself when it can.
"use strict";

(() => {
  const QUIET_MS = 4500;
  const ATTEMPT_MS = 1500;
  const BROKEN_MS = 2500;
  const app = /^\/apps\/([^/]+)/.exec(location.pathname)?.[1] ?? "";
  const address = `/events?app=${app}&path=${encodeURIComponent(location.pathname)}`;

  let source = null;
  let fragments = [];
  let heard = Date.now();
  let lost = false;
  let controller = "";
  let stale = false;
  let fetching = false;

  // ------------------------------------------------------------ what is said

  function place() {
    let found = document.getElementById("live");
    if (!found) {
      found = document.createElement("p");
      found.id = "live";
      found.setAttribute("role", "status");
      found.hidden = true;
      document.body.prepend(found);
    }
    return found;
  }

  function say() {
    const words = [];
    if (lost) words.push(`Cut off from the server since ${new Date(heard).toLocaleTimeString()}: what stands here may be old.`);
    else if (controller === "dead") words.push("No controller gives a sign of life: nothing is fetched, watched or retrained.");
    const found = place();
    const text = words.join(" ");
    if (found.textContent !== text) found.textContent = text;
    found.hidden = !text;
    found.className = lost ? "live lost" : "live";
    document.documentElement.dataset.live = lost ? "lost" : controller || "quiet";
  }

  // ------------------------------------------------------------ what is fetched again

  function opened(element) {
    return [...element.querySelectorAll("details")].map((one) => one.open);
  }

  function isInUse(element) {
    const focus = document.activeElement;
    const typed = focus && element.contains(focus) && focus.matches("input, textarea, select");
    const selected = getSelection();
    return typed || element.querySelector("dialog[open]") || (selected && !selected.isCollapsed && selected.containsNode(element, true));
  }

  function swap(element, fresh) {
    if (element.outerHTML === fresh.outerHTML) return;
    const before = opened(element);
    const after = [...fresh.querySelectorAll("details")];
    // As many as before are the same ones: what somebody has opened stays open.
    if (before.length === after.length) after.forEach((one, at) => (one.open = before[at]));
    const focus = element.contains(document.activeElement) ? document.activeElement : null;
    const again = focus && (focus.id ? `#${CSS.escape(focus.id)}` : focus.getAttribute("href") && `a[href="${CSS.escape(focus.getAttribute("href"))}"]`);
    element.replaceWith(document.adoptNode(fresh));
    if (again) fresh.querySelector(again)?.focus({ preventScroll: true });
  }

  async function refresh() {
    // Nothing on it changes: what a person is about to confirm stands as it was read.
    if (!fragments.length && !document.getElementById("asked")) { stale = false; return; }
    if (document.hidden) { stale = true; return; }
    if (fetching) { stale = true; return; }
    fetching = true;
    stale = false;
    try {
      const got = await fetch(location.href, { headers: { accept: "text/html" }, cache: "no-store", signal: AbortSignal.timeout(10000) });
      if (got.status === 401) { location.reload(); return; }
      if (got.ok) {
        const fresh = new DOMParser().parseFromString(await got.text(), "text/html");
        const pairs = fragments.map((id) => [document.getElementById(id), fresh.getElementById(id)]).filter(([old]) => old);
        // The page of a store without an app is another one as soon as there is one.
        if (pairs.length && pairs.every(([, next]) => !next)) { location.reload(); return; }
        const always = ["as-of", "asked"].map((id) => [document.getElementById(id), fresh.getElementById(id)]);
        for (const [old, next] of [...pairs, ...always]) {
          if (!old || !next) continue;
          if (isInUse(old)) stale = true;
          else swap(old, next);
        }
        document.title = fresh.title || document.title;
        document.documentElement.dataset.mark = fresh.documentElement.dataset.mark ?? "";
        document.dispatchEvent(new CustomEvent("staytrue:changed"));
      } else {
        stale = got.status >= 500;
      }
    } catch {
      stale = true; // cut off: fetched again when it is back
    } finally {
      fetching = false;
    }
  }

  // ------------------------------------------------------------ what is heard

  function hear() {
    heard = Date.now();
    if (!lost) return;
    lost = false;
    say();
    refresh();
  }

  function lose() {
    if (lost) return;
    lost = true;
    say();
  }

  function listen() {
    source?.close();
    source = new EventSource(address);
    const told = (event) => {
      const data = JSON.parse(event.data);
      if (data.fragments) fragments = data.fragments;
      if (data.controller) controller = data.controller;
      hear();
      say();
      // Something moved after this page was drawn, and before it listened.
      if (data.mark && data.mark !== document.documentElement.dataset.mark) refresh();
    };
    source.addEventListener("hello", told);
    source.addEventListener("beat", told);
    source.addEventListener("changed", () => { hear(); refresh(); });
    source.addEventListener("error", () => {
      const broken = Date.now();
      setTimeout(() => { if (heard < broken) lose(); }, BROKEN_MS);
    });
  }

  setInterval(() => {
    if (Date.now() - heard > QUIET_MS) {
      lose();
      // A browser gives up on an answer that is none, such as 503; so it is asked anew from here.
      if (source.readyState === EventSource.CLOSED || Date.now() - heard > 3 * QUIET_MS) listen();
    }
    // What was asked for on a page may end without a word in the log: when it is refused.
    if ((stale || document.getElementById("asked")?.dataset.state === "under way") && !lost) refresh();
  }, ATTEMPT_MS);

  addEventListener("offline", lose);
  addEventListener("online", listen);
  addEventListener("pageshow", (event) => { if (event.persisted) listen(); });
  addEventListener("pagehide", () => source?.close());
  document.addEventListener("visibilitychange", () => { if (!document.hidden && stale) refresh(); });

  listen();
})();
