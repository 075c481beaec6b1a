// One question on the screen: keys, clicks and drags become a submission, which is sent until the server has it.
"use strict";

const task = document.getElementById("task");
const notice = document.getElementById("notice");
const help = document.getElementById("help");
const rater = document.body.dataset.rater;
const correcting = "corrects" in document.body.dataset; // an earlier answer, which stands until another is sent
const KEPT = `kept ${rater} `; // names of what the server has not confirmed yet, of this rater alone
const ANSWER_MS = 20000; // to wait for the server
const EXPOSURE_MS = 800; // in sight, before which a choice is the rest of a double press and no answer to what was read

let question; // the <article>, or null when there is none
let wantsDetails = false;
let verdict = null; // what was chosen while the details are open
let busy = false;
let visibleMs = 0;
let visibleSince = null;
let shownByUndo = false;
let hiding; // the timer that takes a message away

const $ = (selector, within = task) => within.querySelector(selector);
const $$ = (selector, within = task) => [...within.querySelectorAll(selector)];
const isPair = () => question.classList.contains("pair");
const isStatement = () => question.classList.contains("statement");
const count = () => Number(question.dataset.count);
const name = () => crypto.getRandomValues(new Uint32Array(4)).reduce((text, n) => text + n.toString(16).padStart(8, "0"), "");

// ── time in sight ───────────────────────────────────────────────────────────────────────────────────────────────────
function watchSight() {
  const now = performance.now();
  if (visibleSince !== null) visibleMs += now - visibleSince;
  visibleSince = document.visibilityState === "visible" ? now : null;
}
document.addEventListener("visibilitychange", watchSight);

// ── showing ─────────────────────────────────────────────────────────────────────────────────────────────────────────
function began() {
  question = $(".question");
  verdict = null;
  ranking.begin(() => verdict && closeDetails()); // what was about to be sent is another order now
  visibleMs = 0;
  visibleSince = document.visibilityState === "visible" ? performance.now() : null;
  if (!question) return;
  if (correcting) {
    $("[data-act=undo]").disabled = false;
    $("[data-act=undo]").lastChild.textContent = " Leave as it was";
  }
  showExposure();
  if (/Mac|iP(hone|ad)/.test(navigator.platform)) {
    for (const key of $$("kbd")) if (key.textContent === "Ctrl") key.textContent = "⌘";
  }
  help.classList.toggle("for-pair", isPair());
  pressDetails(wantsDetails);
}

function show(html) {
  task.innerHTML = html; // rendered and escaped by the server; the page's policy runs no script but this file
  window.scrollTo(0, 0);
  began();
  const heading = $(".question .answer h2") || $("h2");
  if (heading) {
    heading.tabIndex = -1;
    heading.focus({ preventScroll: true });
  }
}

function say(text, kind = "") {
  notice.textContent = text;
  notice.className = `notice ${kind}`;
  notice.hidden = !text;
}

// Until a question has been in sight for a moment, a thin line grows over the page, and no choice counts: not by key, by
// mouse or by finger. Placing in a ranking is free, for it sends nothing.
const exposure = document.createElement("div");
exposure.className = "exposure";
exposure.hidden = true;
exposure.setAttribute("aria-hidden", "true");
document.body.prepend(exposure);

function showExposure() {
  exposure.hidden = false;
  const grows = [{ transform: "scaleX(0)" }, { transform: "scaleX(1)" }];
  const still = [{ opacity: 1 }, { opacity: 1 }];
  const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  for (const running of exposure.getAnimations()) running.cancel();
  exposure.animate(calm ? still : grows, EXPOSURE_MS).onfinish = hideExposure;
}

function hideExposure() {
  watchSight();
  exposure.hidden = visibleMs >= EXPOSURE_MS;
  if (!exposure.hidden) requestAnimationFrame(hideExposure); // the animation's clock can be ahead of ours
}

function tooSoon() {
  watchSight();
  if (visibleMs >= EXPOSURE_MS) return false;
  const told = `Not counted: this came within ${EXPOSURE_MS / 1000} s of the question. Choose when you have read it.`;
  say(told);
  clearTimeout(hiding); // of the same message before: it would take this one away early
  hiding = setTimeout(() => { if (notice.textContent === told) say(""); }, 3000);
  return true;
}

// ── sending ─────────────────────────────────────────────────────────────────────────────────────────────────────────
const pause = (ms) => new Promise((done) => {
  setTimeout(done, ms);
  window.addEventListener("online", done, { once: true });
});

// What the server answered, or why it did not: a login page or a proxy's error page does not carry its mark.
async function ask(path, body) {
  const post = { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  try {
    const response = await fetch(path, { ...(body ? post : {}), signal: AbortSignal.timeout(ANSWER_MS) });
    const [status, text] = [response.status, await response.text()];
    if (response.redirected || !response.headers.has("X-Steersman")) {
      return { why: "a login or error page answered" };
    }
    if (status === 401) return { why: "you are signed out here, open your link again" };
    if (status >= 500 || status === 429 || status === 408) return { why: "the server is busy" };
    return { status, text };
  } catch {
    return { why: navigator.onLine ? "the server does not answer" : "you are offline" };
  }
}

function store(change) {
  try {
    change(localStorage);
  } catch {
    // A browser without storage keeps the vote as long as the page is open.
  }
}

// A vote is kept in the browser until the server has it, also over a reload and a later visit; its name makes it count
// once. An undo is not kept: a day later it would take something else back.
async function deliver(path, body) {
  busy = true;
  if (path === "vote") store((kept) => kept.setItem(KEPT + body.submission, JSON.stringify(body)));
  for (let attempt = 0; ; attempt++) {
    const answer = await ask(path, body);
    if (!answer.why) {
      store((kept) => kept.removeItem(KEPT + body.submission));
      busy = false;
      return received(path, answer);
    }
    say(`Not saved yet: ${answer.why}. It is kept here and sent again.`, "warn");
    await pause(Math.min(8000, 400 * 2 ** attempt));
  }
}

async function deliverKept() {
  const kept = [];
  store((all) => kept.push(...Object.keys(all).filter((key) => key.startsWith(KEPT)).map((key) => all.getItem(key))));
  for (const body of kept) if (body) await deliver("vote", JSON.parse(body));
}

async function received(path, { status, text }) {
  if (status < 300) {
    say("");
    if (correcting) return location.assign("answers");
    show(text);
    shownByUndo = path === "undo";
    return;
  }
  let problem;
  try {
    problem = JSON.parse(text).error;
  } catch {
    problem = "";
  }
  say(problem || "This was not accepted.", "warn");
  if (!correcting && (status === 409 || status === 404)) {
    const current = await ask("task");
    if (current.status === 200) show(current.text);
  }
}

function submit(what, more = {}) {
  if (busy) return;
  watchSight();
  const body = { submission: name(), assignment: question.dataset.assignment, visible_s: visibleMs / 1000 };
  deliver("vote", { ...body, ...(correcting ? { corrects: true } : {}), ...what, ...more });
}

// ── choosing ────────────────────────────────────────────────────────────────────────────────────────────────────────
function chosen(what) {
  if (tooSoon()) return;
  if (wantsDetails || "asks" in question.dataset) openDetails(what);
  else submit(what);
}

// ── saying more ─────────────────────────────────────────────────────────────────────────────────────────────────────
function pressDetails(on) {
  wantsDetails = on;
  $("[data-act=details]")?.setAttribute("aria-pressed", String(on));
}

function openDetails(what) {
  verdict = what;
  const form = $(".details");
  const best = what.ranking ? what.ranking.indexOf(1) : 0;
  $(".verdict", form).textContent = isPair() && what.ranking
    ? what.ranking[0] === what.ranking[1] ? "Equally good." : `Answer ${best + 1} is better.`
    : what.ranking ? `Ranking: ${ranking.spoken()}.` : isPair() ? "Both are bad." : "All are bad.";
  $("#better").value = $$(".raw")[best].value;
  $("#better").dataset.place = best;
  say("");
  form.hidden = false;
  form.scrollIntoView({ block: "nearest" });
  ($("input, select", form) || $("#why")).focus();
}

function closeDetails() {
  $(".details").hidden = true;
  $(".edit").hidden = true;
  verdict = null;
}

function principleRanks() {
  const rankings = {};
  for (const row of $$(".principle")) {
    const selects = $$("select", row);
    const values = selects.length ? selects.map((s) => s.value) : (($("input:checked", row) || {}).value || "").split(",");
    if (values.every((value) => value)) rankings[row.dataset.principle] = densely(values.map(Number));
  }
  return rankings;
}

// 2, 3, 3 means the same as 1, 2, 2: the best rank is 1.
function densely(values) {
  const places = [...new Set(values)].sort((a, b) => a - b);
  return values.map((value) => places.indexOf(value) + 1);
}

function halfRated() {
  return $$(".principle").find((row) => {
    const filled = $$("select", row).filter((s) => s.value).length;
    return filled > 0 && filled < count();
  });
}

function sendDetails() {
  const half = halfRated();
  if (half) {
    say("Give every answer a rank by this principle, or none.", "warn");
    $$("select", half).find((s) => !s.value).focus();
    return;
  }
  const more = { per_principle: principleRanks(), rationale: $("#why").value.trim() };
  const better = $("#better");
  const original = $$(".raw")[Number(better.dataset.place)].value;
  if (!$(".edit").hidden && better.value.trim() && better.value !== original) {
    more.edit = { position: Number(better.dataset.place), text: better.value };
  }
  submit(verdict, more);
}

// ── acts ────────────────────────────────────────────────────────────────────────────────────────────────────────────
const acts = {
  choose: (index) => chosen({ ranking: index === 0 ? [1, 2] : [2, 1] }),
  tie: () => chosen({ ranking: [1, 1] }),
  place: ranking.place,
  off: ranking.takeOff,
  bad: () => chosen({ both_bad: true, ...(!isPair() && ranking.complete() ? { ranking: ranking.ranks() } : {}) }),
  send: () => {
    if (tooSoon()) return;
    ranking.placeLast();
    if (ranking.complete()) chosen({ ranking: ranking.ranks() });
  },
  skip: () => tooSoon() || submit({ skip: true }),
  undo: () => {
    if (busy || ranking.undo()) return;
    if (correcting) location.assign("answers");
    else if (!shownByUndo || !tooSoon()) deliver("undo", { submission: name() });
  },
  details: () => {
    pressDetails(!wantsDetails);
    say(wantsDetails ? "After each choice you can now say more. Press d again to stop." : "");
  },
  help: () => help.showModal(),
  back: closeDetails,
  edit: () => {
    $(".edit").hidden = false;
    $("#better").focus();
  },
  vote: (value) => tooSoon() || submit({ vote: value }),
  withdraw: () => location.assign("leave"),
};

task.addEventListener("click", (event) => {
  const button = event.target.closest("[data-act]");
  if (button && !button.disabled && !busy) acts[button.dataset.act](Number(button.dataset.place));
});
task.addEventListener("submit", (event) => {
  event.preventDefault();
  if (!busy) sendDetails();
});

// The key that is meant: digits by their place, so that they work on AZERTY, where they need Shift, and on the number
// pad; letters as they are printed on the key, and by their place where the layout has none of ours (Cyrillic, Greek).
function meant(event) {
  const { key, code } = event;
  if (key === "؟") return "?";
  if (code === "NumpadEqual") return "=";
  if (key === "?" || key === "=") return key;
  const digit = /^(?:Digit|Numpad)(\d)$/.exec(code);
  if (digit && !(event.shiftKey && code.startsWith("Digit") && !/^\p{Nd}$/u.test(key))) return digit[1];
  if (/^[a-z]$/i.test(key)) return key.toLowerCase();
  const letter = /^Key([A-Z])$/.exec(code);
  return letter && /^\P{ASCII}+$/u.test(key) ? letter[1].toLowerCase() : key;
}

function act(event) {
  const key = meant(event);
  if (key === "?") return acts.help;
  if (key === "u") return acts.undo;
  if (!question) return null;
  const digit = /^[0-9]$/.test(key) ? Number(key) : NaN;
  if (isStatement()) {
    const value = { 1: 1, 2: -1, 3: 0 }[key];
    return value === undefined ? null : () => acts.vote(value);
  }
  if (isPair()) {
    // Without Num Lock, the arrows of a number pad are arrows.
    const index = { 1: 0, 2: 1 }[key] ?? { ArrowLeft: 0, ArrowRight: 1 }[event.key];
    if (event.key !== "ArrowDown" && index !== undefined) return () => acts.choose(index);
    if (key === "0" || event.key === "ArrowDown") return acts.tie;
  } else {
    if (digit >= 1 && digit <= count()) return () => acts.place(digit - 1);
    if (key === "=") return ranking.tieTheNext;
    if (key === "Backspace") return ranking.takeLastOff;
    if (key === "Enter") return acts.send;
  }
  return { b: acts.bad, s: acts.skip, d: acts.details }[key] || null;
}

document.addEventListener("keydown", (event) => {
  if (help.open || ranking.dragging() || event.repeat || event.isComposing || event.keyCode === 229) return;
  if (event.altKey || event.getModifierState("AltGraph")) return;
  const sends = event.key === "Enter" && (event.ctrlKey || event.metaKey);
  const open = $(".question .details")?.hidden === false;
  if (open) {
    if (event.key === "Escape") closeDetails();
    else if (sends && !busy) sendDetails();
    return; // letters and digits belong to the form
  }
  if (busy || ((event.ctrlKey || event.metaKey) && !sends)) return;
  if (event.target.closest?.("input, textarea, select, [contenteditable]")) return;
  if (event.key === "Enter" && !sends && event.target.closest?.("button, a, summary")) return; // it presses that
  const found = act(event);
  if (found) {
    event.preventDefault();
    found();
  }
});

began();
if (correcting) say(`You are changing an earlier answer. What you said stands until you send another: ${document.body.dataset.corrects}`);
deliverKept();
