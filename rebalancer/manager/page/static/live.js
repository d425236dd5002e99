// Keeps the live part of a page up to date, by events of the manager.  Without it the page reloads.
"use strict";
(() => {
  const AGAIN_MS = 5000;
  const main = document.getElementById("main");
  const live = document.querySelector("[data-live]");
  const mark = document.querySelector("[data-link]");
  if (!main.dataset.events || !live) return;

  const keyOf = (node) =>
    node.nodeType === Node.ELEMENT_NODE ? node.id || node.dataset.key || null : null;

  // Makes `old` like `next` with as few changes as can be: focus, scrolling and typing stay.
  function morph(old, next) {
    let at = old.firstChild;
    for (const want of [...next.childNodes]) {
      const key = keyOf(want);
      let have = at;
      if (key) have = [...old.children].find((child) => keyOf(child) === key) || null;
      else if (have && (have.nodeName !== want.nodeName || keyOf(have))) have = null;
      if (!have) {
        old.insertBefore(want, at);
        continue;
      }
      if (have === at) at = at.nextSibling;
      else old.insertBefore(have, at);
      become(have, want);
    }
    while (at) {
      const gone = at;
      at = at.nextSibling;
      gone.remove();
    }
  }

  function become(have, want) {
    if (have.nodeType !== Node.ELEMENT_NODE) {
      if (have.data !== want.data) have.data = want.data;
      return;
    }
    if ("keep" in have.dataset) return;
    if (!("chart" in have.dataset)) {
      for (const { name } of [...have.attributes])
        if (!want.hasAttribute(name)) have.removeAttribute(name);
      for (const { name, value } of want.attributes)
        if (have.getAttribute(name) !== value) have.setAttribute(name, value);
    }
    morph(have, want);
  }

  function say(text, isOff) {
    mark.hidden = !text;
    mark.classList.toggle("off", isOff);
    if (mark.textContent !== text) mark.textContent = text;
  }

  let source = null;
  let timer = 0;

  function stop() {
    clearTimeout(timer);
    if (source) source.close();
    source = null;
  }

  function start() {
    stop();
    source = new EventSource(main.dataset.events);
    source.addEventListener("look", (event) => {
      const told = JSON.parse(event.data);
      say("live", false);
      if (told.html !== undefined) {
        const next = document.createElement("template");
        next.innerHTML = told.html;
        morph(live, next.content);
      }
      if (told.samples && told.samples.length)
        document.dispatchEvent(new CustomEvent("samples", { detail: told.samples }));
    });
    source.addEventListener("end", () => {
      stop();
      say("", false);
    });
    source.addEventListener("error", () => {
      say("not live: asking again", true);
      // A refusal ends it for good, though the manager may only have enough browsers already.
      if (source && source.readyState === EventSource.CLOSED) {
        ask();
        timer = setTimeout(start, AGAIN_MS);
      }
    });
  }

  // Asks for the whole page in place of a stream.
  async function ask() {
    try {
      const answer = await fetch(location.href, { headers: { accept: "text/html" } });
      if (answer.status === 401) location.reload();
      if (!answer.ok) return;
      const whole = new DOMParser().parseFromString(await answer.text(), "text/html");
      const next = whole.querySelector("[data-live]");
      if (next) morph(live, next);
    } catch {
      // The manager is away: the next try says so too.
    }
  }

  // A page that nobody sees holds no connection: browsers have six for a host.
  document.addEventListener("visibilitychange", () => (document.hidden ? stop() : start()));
  if (!document.hidden) start();
})();
