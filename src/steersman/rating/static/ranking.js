// The strip on which three and more answers are put in order: by their numbers' keys, by mouse, finger or Tab and Enter.
"use strict";

const ranking = (() => {
  const NEAR_PX = 60; // above and below the strip a number may still be dropped on it
  const STILL_PX = 6; // a finger that moves less than this has tapped
  const at = (selector, within = document) => within.querySelector(selector);
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];

  let rungs = []; // arrays of places on the page, the best first; a rung of two is a tie
  let before = []; // the rungs before each change, for undo
  let tieNext = false;
  let drag = null;
  let changed = () => {};

  const count = () => Number(at(".question").dataset.count);
  const left = () => [...Array(count()).keys()].filter((index) => !rungs.flat().includes(index));
  const complete = () => !left().length;

  function begin(onChange) {
    [rungs, before, tieNext, drag, changed] = [[], [], false, null, onChange];
    if (at(".rungs")) draw();
  }

  function become(next) {
    before.push(rungs);
    [rungs, tieNext] = [next.filter((rung) => rung.length), false];
    draw();
    changed();
  }

  const without = (index) => rungs.map((rung) => rung.filter((other) => other !== index));

  // ── changes ───────────────────────────────────────────────────────────────────────────────────────────────────────
  function place(index) {
    if (rungs.flat().includes(index)) return;
    become(tieNext && rungs.length ? [...rungs.slice(0, -1), [...rungs.at(-1), index]] : [...rungs, [index]]);
  }

  function placeLast() {
    if (left().length === 1) place(left()[0]);
  }

  function takeOff(index) {
    if (rungs.flat().includes(index)) become(without(index));
  }

  function takeLastOff() {
    if (rungs.length) takeOff(rungs.at(-1).at(-1));
  }

  // Takes back the last change of an order that was not sent, whatever made it; false where there is none.
  function undo() {
    if (!before.length && !tieNext) return false;
    [rungs, tieNext] = [tieNext ? rungs : before.pop(), false];
    draw();
    changed();
    return true;
  }

  function tieTheNext() {
    tieNext = rungs.length > 0;
    draw();
  }

  // ── what is said of it ────────────────────────────────────────────────────────────────────────────────────────────
  const firstRank = (number) => 1 + rungs.slice(0, number).flat().length;

  function ranks() {
    const found = new Array(count());
    rungs.forEach((rung, number) => rung.forEach((index) => { found[index] = firstRank(number); }));
    return found;
  }

  const spoken = () => rungs.map((rung) => rung.map((index) => index + 1).join(" equal to ")).join(", then ");

  // ── showing ───────────────────────────────────────────────────────────────────────────────────────────────────────
  function make(tag, className, text = "") {
    const made = document.createElement(tag);
    made.className = className;
    made.textContent = text;
    return made;
  }

  function chip(index, placed) {
    const made = make("button", "chip", index + 1);
    made.type = "button";
    made.dataset.place = index;
    made.title = placed ? "Take off" : "Place next";
    made.setAttribute("aria-label", `Answer ${index + 1}: ${placed ? "take off" : "place next"}`);
    return made;
  }

  function draw() {
    const board = at(".rungs");
    const focused = document.activeElement?.closest?.(".chip")?.dataset.place;
    board.replaceChildren(make("span", "end", "Best"));
    rungs.forEach((rung, number) => {
      const made = make("div", "rung");
      made.dataset.rung = number;
      made.append(...rung.map((index) => chip(index, true)));
      board.append(made);
    });
    if (!rungs.length) board.append(make("span", "slot"));
    if (tieNext) board.lastElementChild.classList.add("tying");
    const pool = make("div", "pool");
    if (!complete()) pool.append(make("span", "end", "Not placed"), ...left().map((index) => chip(index, false)));
    board.append(make("span", "end", "Worst"), pool);
    at("[data-act=send]").disabled = left().length > 1;
    at("#ranking-status").textContent = rungs.length ? `Ranking: ${spoken()}` : "";
    drawCards();
    if (focused !== undefined) at(`.chip[data-place="${focused}"]`, board)?.focus();
  }

  function drawCards() {
    for (const button of all(".choose")) {
      const index = Number(button.dataset.place);
      const number = rungs.findIndex((rung) => rung.includes(index));
      const card = button.closest(".answer");
      card.classList.toggle("placed", number >= 0);
      at(".at", card).textContent = number < 0 ? "" : ` · place ${firstRank(number)}`;
      button.dataset.act = number < 0 ? "place" : "off";
      at(".does", button).textContent = number < 0 ? "Place next" : "Take off";
    }
    const undone = at("[data-act=undo]"); // also takes back a placing, before there is any vote
    undone.dataset.votes ??= undone.disabled ? "none" : "some";
    undone.disabled = undone.dataset.votes === "none" && !before.length && !tieNext;
  }

  // ── dragging ──────────────────────────────────────────────────────────────────────────────────────────────────────
  document.addEventListener("pointerdown", (event) => {
    const held = event.target.closest(".chip");
    if (!held || event.button !== 0 || drag) return;
    event.preventDefault();
    const box = held.getBoundingClientRect();
    drag = { pointer: event.pointerId, index: Number(held.dataset.place), held, ghost: null, target: null,
             x: event.clientX, y: event.clientY, dx: event.clientX - box.left, dy: event.clientY - box.top };
  });

  function lift() {
    drag.ghost = drag.held.cloneNode(true);
    drag.ghost.classList.add("ghost");
    document.body.append(drag.ghost);
    drag.held.classList.add("lifted");
  }

  // Over the middle of a rung the answers tie; between two rungs, or beyond the last, there will be a new one; over the
  // numbers that are not placed, or far from the strip, the number comes off.
  function targetAt(x, y) {
    const board = at(".rungs").getBoundingClientRect();
    if (y < board.top - NEAR_PX || y > board.bottom + NEAR_PX) return { off: true };
    const under = document.elementsFromPoint(x, y);
    if (under.some((element) => element.closest(".pool"))) return { off: true };
    const onto = under.map((element) => element.closest(".rung")).find(Boolean);
    if (onto) {
      const box = onto.getBoundingClientRect();
      const across = (x - box.left) / box.width;
      const number = Number(onto.dataset.rung);
      return across < 0.25 ? { before: number } : across > 0.75 ? { before: number + 1 } : { onto: number };
    }
    const passed = all(".rung").filter((rung) => {
      const box = rung.getBoundingClientRect();
      return box.bottom < y || (box.top <= y && box.left + box.width / 2 < x);
    });
    return { before: passed.length };
  }

  function markTarget(target) {
    all(".rung").forEach((rung, number) => {
      rung.classList.toggle("onto", target.onto === number);
      rung.classList.toggle("before", target.before === number);
      rung.classList.toggle("after", target.before === number + 1 && number === rungs.length - 1);
    });
  }

  window.addEventListener("pointermove", (event) => {
    if (!drag || event.pointerId !== drag.pointer) return;
    if (!drag.ghost && Math.hypot(event.clientX - drag.x, event.clientY - drag.y) < STILL_PX) return;
    if (!drag.ghost) lift();
    drag.ghost.style.transform = `translate(${event.clientX - drag.dx}px, ${event.clientY - drag.dy}px)`;
    drag.target = targetAt(event.clientX, event.clientY);
    markTarget(drag.target);
  });

  function endDrag(event, done) {
    if (!drag || event.pointerId !== drag.pointer) return;
    const { index, held, ghost, target } = drag;
    drag = null;
    ghost?.remove();
    held.classList.remove("lifted");
    if (!at(".rungs")) return;
    if (done && !ghost) toggle(index);
    else if (done && target) drop(index, target);
    else draw();
  }

  const toggle = (index) => (rungs.flat().includes(index) ? takeOff(index) : place(index));

  function drop(index, target) {
    if (target.off) return rungs.flat().includes(index) ? takeOff(index) : draw();
    const aim = rungs[target.onto ?? target.before];
    if (aim?.length === 1 && aim[0] === index) return draw();
    const next = without(index);
    if (target.onto !== undefined) next[target.onto].push(index);
    else next.splice(target.before, 0, [index]);
    return become(next);
  }

  window.addEventListener("pointerup", (event) => endDrag(event, true));
  window.addEventListener("pointercancel", (event) => endDrag(event, false));

  // ── a number that has the focus ───────────────────────────────────────────────────────────────────────────────────
  const task = document.getElementById("task");
  task.addEventListener("click", (event) => {
    const pressed = event.target.closest(".chip");
    if (pressed && event.detail === 0) toggle(Number(pressed.dataset.place)); // by Enter or Space: no pointer came first
  });
  task.addEventListener("keydown", (event) => {
    const focused = event.target.closest(".rung .chip");
    if (!focused || !["Delete", "Backspace"].includes(event.key)) return;
    event.preventDefault();
    event.stopPropagation(); // Backspace elsewhere takes the last one off
    takeOff(Number(focused.dataset.place));
  });

  return { begin, place, placeLast, takeOff, takeLastOff, tieTheNext, undo, ranks, spoken, complete,
           started: () => rungs.length > 0, dragging: () => drag !== null };
})();
