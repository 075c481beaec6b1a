// Model text on the page: formulas are drawn by KaTeX, and everything can be shown exactly as it was written (key w).
"use strict";

const asWritten = (() => {
  const KEY = "as-written"; // kept for the browser's session
  const here = document.currentScript.src;
  // Signs that are not seen, or that turn the text around them: shown by their code. Joiners belong to emoji and Persian.
  const UNSEEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\u{e0000}-\u{e007f}]/u;
  const MARKED = new RegExp(`(${UNSEEN.source}|\\t|[\\u00a0\\u202f]+| +(?=\\n|$)| {2,})`, "gu");
  const OPTIONS = {
    throwOnError: true, strict: "ignore", maxSize: 20, maxExpand: 500,
    macros: { "\\label": "\\@secondoftwo{#1}{}" },
    trust: () => { throw new Error("a command that fetches or links"); },
  };
  let loading = null;
  let on = sessionStorage.getItem(KEY) === "1";

  // ── formulas ──────────────────────────────────────────────────────────────────────────────────────────────────────
  function loadKatex() {
    const style = document.createElement("link");
    style.rel = "stylesheet";
    style.href = new URL("katex/katex.min.css", here);
    const script = document.createElement("script");
    script.src = new URL("katex/katex.min.js", here);
    document.head.append(style, script);
    return new Promise((done) => { script.onload = done; });
  }

  async function drawFormulas() {
    if (!document.querySelector(".tex:not([data-drawn])")) return;
    await (loading ??= loadKatex());
    for (const formula of document.querySelectorAll(".tex:not([data-drawn])")) {
      const drawn = document.createElement("span");
      formula.dataset.drawn = "no";
      try {
        window.katex.render(formula.dataset.tex, drawn, { ...OPTIONS, displayMode: "display" in formula.dataset });
        formula.replaceChildren(drawn);
        formula.dataset.drawn = "yes";
        edges(formula);
      } catch {
        // It stays as it was written.
      }
    }
  }

  // ── as written ────────────────────────────────────────────────────────────────────────────────────────────────────
  function mark(piece) {
    const made = document.createElement("span");
    if (UNSEEN.test(piece)) {
      made.className = "unseen";
      made.textContent = `U+${piece.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`;
    } else {
      made.className = piece === "\t" ? "tab" : "spaces";
      made.textContent = piece;
    }
    return made;
  }

  // Next to each rendered text stands its source, in a hidden textarea.
  function writeOut(rendered) {
    const source = rendered.nextElementSibling;
    if (!source?.matches("textarea.raw, textarea.source")) return;
    if (on && !source.nextElementSibling?.matches("pre.written")) {
      const written = document.createElement("pre");
      written.className = "written";
      written.tabIndex = 0;
      written.dir = "auto";
      written.append(...source.value.split(MARKED).map((piece, i) => (i % 2 ? mark(piece) : piece)));
      source.after(written);
    }
    rendered.hidden = on;
    const written = source.nextElementSibling;
    if (written?.matches("pre.written")) written.hidden = !on;
  }

  // ── what scrolls shows on which side ──────────────────────────────────────────────────────────────────────────────
  function edges(box) {
    const [hidden, passed] = [box.scrollWidth - box.clientWidth, Math.abs(box.scrollLeft)];
    const fromRight = getComputedStyle(box).direction === "rtl";
    box.classList.toggle(fromRight ? "more-left" : "more-right", hidden - passed > 1);
    box.classList.toggle(fromRight ? "more-right" : "more-left", hidden > 0 && passed > 1);
  }
  const scrolling = ".wide, .md pre";
  const resized = new ResizeObserver((entries) => entries.forEach((entry) => edges(entry.target)));
  document.addEventListener("scroll", (event) => event.target.matches?.(scrolling) && edges(event.target), true);

  function show() {
    resized.disconnect();
    document.querySelectorAll(scrolling).forEach((box) => resized.observe(box)); // also calls once for each
    document.querySelectorAll(".md").forEach(writeOut);
    document.querySelectorAll("[data-written]").forEach((button) => button.setAttribute("aria-pressed", String(on)));
    drawFormulas();
  }

  function toggle() {
    on = !on;
    sessionStorage.setItem(KEY, on ? "1" : "0");
    show();
  }

  document.addEventListener("click", (event) => event.target.closest("[data-written]") && toggle());
  document.addEventListener("keydown", (event) => {
    const letter = /^[a-z]$/i.test(event.key) ? event.key.toLowerCase() : event.code === "KeyW" ? "w" : "";
    if (letter !== "w" || event.repeat || event.ctrlKey || event.altKey || event.metaKey) return;
    if (event.target.closest("input, textarea, select, dialog") || !document.querySelector("[data-written]")) return;
    event.preventDefault();
    toggle();
  });

  // Arrows and Home scroll a box that has the focus; they are no answer.
  document.body.addEventListener("keydown", (event) => {
    const scrolled = event.target.closest(".wide, pre, .prompt");
    if (scrolled && /^(Arrow|Home|End|Page)/.test(event.key)) event.stopPropagation();
  });

  new MutationObserver(show).observe(document.getElementById("task") ?? document.body, { childList: true });
  show();
  return { toggle };
})();
