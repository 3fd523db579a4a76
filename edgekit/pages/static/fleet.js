// Fetches the page again every few seconds and puts its new content in place: no framework, no
// socket, and without scripts the page works all the same.
"use strict";
const EVERY_MS = 3000;

async function refresh() {
  const busy = document.activeElement && ["INPUT", "BUTTON"].includes(document.activeElement.tagName);
  if (document.hidden || busy || !document.querySelector("main[data-live]")) {
    return;
  }
  const state = document.getElementById("live");
  try {
    const answer = await fetch(location.href, { credentials: "same-origin", redirect: "error" });
    if (!answer.ok) {
      throw new Error(String(answer.status));
    }
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const main = page.querySelector("main[data-live]");
    if (main) {
      const scrolled = [...document.querySelectorAll(".scroll")].map((box) => box.scrollLeft);
      document.querySelector("main").replaceWith(document.adoptNode(main));
      document.querySelectorAll(".scroll").forEach((box, at) => { box.scrollLeft = scrolled[at] || 0; });
    }
    state.textContent = "live";
  } catch (error) {
    state.textContent = "not live: the control plane does not answer";
  }
}

setInterval(refresh, EVERY_MS);
