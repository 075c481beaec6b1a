// The administrator's live view: fetched again every few seconds, unless somebody is using it.
"use strict";

const live = document.getElementById("live");
const EVERY_MS = 5000;

async function refresh() {
  if (document.visibilityState !== "visible" || live.contains(document.activeElement)) return;
  try {
    const response = await fetch("admin/live", { signal: AbortSignal.timeout(20000) });
    if (response.ok && !response.redirected && response.headers.has("X-Steersman")) live.innerHTML = await response.text();
  } catch {
    // The next one may come through.
  }
}

// Forms that came with the view; `forms.js` knows those of the page as it was loaded.
live.addEventListener("submit", (event) => {
  if (event.defaultPrevented) return;
  event.preventDefault();
  post(event.target, valuesOf(event.target));
});
setInterval(refresh, EVERY_MS);
