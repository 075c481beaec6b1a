// One question on the screen: keys, clicks and drags become a submission, which is sent until the server has it.
"use strict";

const task = document.getElementById("task");
const notice = document.getElementById("notice");
const help = document.getElementById("help");
const PENDING = "pending";
const UNSEEN_MS = 300; // after a new question comes, in which the rest of a double click is no answer to it

let question; // the <article>, or null when there is none
let rungs = []; // ranking so far: arrays of places, the best first
let tieNext = false;
let wantsDetails = false;
let verdict = null; // what was chosen while the details are open
let busy = false;
let visibleMs = 0;
let visibleSince = null;
let shownAt = -Infinity;

const $ = (selector, within = task) => within.querySelector(selector);
const $$ = (selector, within = task) => [...within.querySelectorAll(selector)];
const isPair = () => question.classList.contains("pair");
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
  [rungs, tieNext, verdict] = [[], false, null];
  visibleMs = 0;
  visibleSince = document.visibilityState === "visible" ? performance.now() : null;
  if (!question) return;
  help.classList.toggle("for-pair", isPair());
  pressDetails(wantsDetails);
  if (!isPair()) drawLadder();
}

function show(html) {
  task.innerHTML = html; // rendered and escaped by the server; the page's policy runs no script but this file
  window.scrollTo(0, 0);
  shownAt = performance.now();
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

// ── sending ─────────────────────────────────────────────────────────────────────────────────────────────────────────
const pause = (ms) => new Promise((done) => setTimeout(done, ms));

// A submission is kept in the tab until the server has it, also over a reload; its name makes it count once.
async function deliver(path, body) {
  busy = true;
  sessionStorage.setItem(PENDING, JSON.stringify({ path, body }));
  for (let attempt = 0; ; attempt++) {
    let response = null;
    try {
      response = await fetch(path, {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify(body),
      });
    } catch {
      response = null;
    }
    if (response && response.status < 500 && response.status !== 429 && response.status !== 408) {
      sessionStorage.removeItem(PENDING);
      busy = false;
      return received(response);
    }
    say("Not saved yet: the server does not answer. Trying again; leave this page open.", "warn");
    await pause(Math.min(8000, 400 * 2 ** attempt));
  }
}

async function received(response) {
  if (response.ok) {
    say("");
    return show(await response.text());
  }
  const problem = (await response.json()).error || "This was not accepted.";
  say(problem, "warn");
  if (response.status === 409 || response.status === 404) {
    const current = await fetch("/task");
    if (current.ok) show(await current.text());
  }
}

function submit(what, more = {}) {
  if (busy) return;
  watchSight();
  const body = { submission: name(), assignment: question.dataset.assignment, visible_s: visibleMs / 1000 };
  deliver("/vote", { ...body, ...what, ...more });
}

// ── choosing ────────────────────────────────────────────────────────────────────────────────────────────────────────
function chosen(what) {
  if (wantsDetails || "asks" in question.dataset) openDetails(what);
  else submit(what);
}

function ranks() {
  const found = new Array(count());
  let rank = 1;
  for (const rung of rungs) {
    for (const place of rung) found[place] = rank;
    rank += rung.length;
  }
  return found;
}

function place(index) {
  if (rungs.flat().includes(index)) return;
  if (tieNext && rungs.length) rungs.at(-1).push(index);
  else rungs.push([index]);
  tieNext = false;
  drawLadder();
}

function placeLast() {
  const missing = [...Array(count()).keys()].filter((index) => !rungs.flat().includes(index));
  if (missing.length === 1) place(missing[0]);
}

function takeOff() {
  const last = rungs.at(-1);
  if (!last) return;
  last.pop();
  if (!last.length) rungs.pop();
  drawLadder();
}

function spoken() {
  return rungs.map((rung) => rung.map((index) => index + 1).join(" equal to ")).join(", then ");
}

function drawLadder() {
  const board = $(".rungs");
  board.replaceChildren();
  const chip = (index) => {
    const made = document.createElement("span");
    made.className = "chip";
    made.dataset.place = index;
    made.textContent = index + 1;
    return made;
  };
  rungs.forEach((rung, number) => {
    const made = document.createElement("div");
    made.className = "rung";
    made.dataset.rung = number;
    made.append(...rung.map(chip));
    board.append(made);
  });
  if (tieNext) board.lastElementChild?.classList.add("tying");
  const left = [...Array(count()).keys()].filter((index) => !rungs.flat().includes(index));
  if (left.length) {
    const pool = document.createElement("div");
    pool.className = "pool";
    pool.append(...left.map(chip));
    board.append(pool);
  }
  $("[data-act=send]").disabled = left.length > 1;
  $("#ranking-status").textContent = rungs.length ? `Ranking: ${spoken()}` : "";
  for (const button of $$(".choose")) {
    const at = rungs.findIndex((rung) => rung.includes(Number(button.dataset.place)));
    const card = button.closest(".answer");
    card.classList.toggle("placed", at >= 0);
    $(".at", card).textContent = at < 0 ? "" : ` · place ${1 + rungs.slice(0, at).flat().length}`;
    button.disabled = at >= 0;
  }
}

// ── dragging ────────────────────────────────────────────────────────────────────────────────────────────────────────
let drag = null;

task.addEventListener("pointerdown", (event) => {
  const chip = event.target.closest(".chip");
  if (!chip || event.button !== 0 || drag) return;
  event.preventDefault();
  const box = chip.getBoundingClientRect();
  const ghost = chip.cloneNode(true);
  ghost.classList.add("ghost");
  document.body.append(ghost);
  drag = { pointer: event.pointerId, index: Number(chip.dataset.place), chip, ghost, target: null,
           dx: event.clientX - box.left, dy: event.clientY - box.top };
  chip.classList.add("lifted");
  moveGhost(event);
});

function moveGhost(event) {
  drag.ghost.style.transform = `translate(${event.clientX - drag.dx}px, ${event.clientY - drag.dy}px)`;
}

// Over the middle of a rung the answers tie; between two rungs, or beyond the last, there will be a new one.
function targetAt(x, y) {
  const board = $(".rungs").getBoundingClientRect();
  if (y < board.top - 60 || y > board.bottom + 60) return null;
  const onto = document.elementsFromPoint(x, y).map((under) => under.closest(".rung")).find(Boolean);
  if (onto) {
    const box = onto.getBoundingClientRect();
    const across = (x - box.left) / box.width;
    const number = Number(onto.dataset.rung);
    return across < 0.25 ? { before: number } : across > 0.75 ? { before: number + 1 } : { onto: number };
  }
  const after = $$(".rung").filter((rung) => {
    const box = rung.getBoundingClientRect();
    return box.bottom < y || (box.top <= y && box.left + box.width / 2 < x);
  });
  return { before: after.length };
}

function markTarget(target) {
  $$(".rung").forEach((rung, number) => {
    rung.classList.toggle("onto", target?.onto === number);
    rung.classList.toggle("before", target?.before === number);
    rung.classList.toggle("after", target?.before === number + 1 && number === rungs.length - 1);
  });
}

window.addEventListener("pointermove", (event) => {
  if (!drag || event.pointerId !== drag.pointer) return;
  moveGhost(event);
  drag.target = targetAt(event.clientX, event.clientY);
  markTarget(drag.target);
});

function endDrag(event, done) {
  if (!drag || event.pointerId !== drag.pointer) return;
  const { index, chip, ghost, target } = drag;
  drag = null;
  ghost.remove();
  chip.classList.remove("lifted");
  if (done && target) drop(index, target);
  drawLadder();
}

function drop(index, target) {
  const before = target.before === undefined ? null : rungs[target.before];
  const onto = target.onto === undefined ? null : rungs[target.onto];
  const alone = (rung) => rung?.length === 1 && rung[0] === index;
  if (alone(onto) || alone(before)) return;
  rungs = rungs.map((rung) => {
    const at = rung.indexOf(index);
    if (at >= 0) rung.splice(at, 1);
    return rung;
  });
  if (onto) onto.push(index);
  else rungs.splice(before ? rungs.indexOf(before) : rungs.length, 0, [index]);
  rungs = rungs.filter((rung) => rung.length);
}

window.addEventListener("pointerup", (event) => endDrag(event, true));
window.addEventListener("pointercancel", (event) => endDrag(event, false));

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
    : what.ranking ? `Ranking: ${spoken()}.` : isPair() ? "Both are bad." : "All are bad.";
  $("#better").value = $$(".raw")[best].value;
  $("#better").dataset.place = best;
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
  place: (index) => place(index),
  bad: () => chosen({ both_bad: true, ...(rungs.length && rungs.flat().length === count() ? { ranking: ranks() } : {}) }),
  send: () => {
    placeLast();
    if (rungs.flat().length === count()) chosen({ ranking: ranks() });
  },
  skip: () => submit({ skip: true }),
  undo: () => busy || deliver("/undo", { submission: name() }),
  details: () => {
    pressDetails(!wantsDetails);
    say(wantsDetails ? "After choosing you can say more. Press d again for one key a question." : "");
  },
  help: () => help.showModal(),
  back: closeDetails,
  edit: () => {
    $(".edit").hidden = false;
    $("#better").focus();
  },
  withdraw: async () => {
    if (!confirm("Withdraw? Nothing that you said will be used, and you cannot go on.")) return;
    const response = await fetch("/withdraw", {
      method: "POST", headers: { "Content-Type": "application/json" }, body: "{}",
    });
    location.assign((await response.json()).next || "/");
  },
};

task.addEventListener("click", (event) => {
  if (event.detail > 1 && performance.now() - shownAt < UNSEEN_MS) return;
  const button = event.target.closest("[data-act]");
  if (button && !button.disabled && !busy) acts[button.dataset.act](Number(button.dataset.place));
});
task.addEventListener("submit", (event) => {
  event.preventDefault();
  if (!busy) sendDetails();
});

function act(key) {
  if (key === "?") return acts.help;
  if (key === "u") return acts.undo;
  if (!question) return null;
  const digit = /^[0-9]$/.test(key) ? Number(key) : NaN;
  if (isPair()) {
    const index = { 1: 0, ArrowLeft: 0, 2: 1, ArrowRight: 1 }[key];
    if (index !== undefined) return () => acts.choose(index);
    if (key === "0" || key === "ArrowDown") return acts.tie;
  } else {
    if (digit >= 1 && digit <= count()) return () => acts.place(digit - 1);
    if (key === "=") return () => { tieNext = rungs.length > 0; drawLadder(); };
    if (key === "Backspace") return takeOff;
    if (key === "Enter") return acts.send;
  }
  return { b: acts.bad, s: acts.skip, d: acts.details }[key] || null;
}

document.addEventListener("keydown", (event) => {
  if (help.open || drag || event.repeat || event.altKey || event.metaKey) return;
  const open = question && !$(".details").hidden;
  if (open) {
    if (event.key === "Escape") closeDetails();
    else if (event.key === "Enter" && event.ctrlKey && !busy) sendDetails();
    return; // letters and digits belong to the form
  }
  if (event.ctrlKey || busy) return;
  if (event.key === "Enter" && event.target.closest("button, a")) return; // it presses what has the focus
  const found = act(event.key);
  if (found) {
    event.preventDefault();
    found();
  }
});

began();
const pending = sessionStorage.getItem(PENDING);
if (pending) {
  const { path, body } = JSON.parse(pending);
  deliver(path, body);
}
