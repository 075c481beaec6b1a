// Forms that post JSON, and links whose token stands after the "#", which no browser sends and no log keeps.
"use strict";

// The tab remembers the token, so that a reload of the page does not lose it.
function tokenOfLink() {
  const [token, place] = [location.hash.slice(1), `token ${location.pathname}`];
  if (token) history.replaceState(null, "", location.pathname + location.search);
  try {
    if (token) sessionStorage.setItem(place, token);
    return token || sessionStorage.getItem(place) || "";
  } catch {
    return token;
  }
}

// What the server says, as an object; `error` also where a login page or a proxy's error page came instead, or nothing.
async function ask(path, values) {
  try {
    const response = await fetch(path, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(values),
      signal: AbortSignal.timeout(20000),
    });
    const text = await response.text();
    if (!response.redirected && response.headers.has("X-Steersman")) return JSON.parse(text);
    return { error: "Not sent: another page came in place of the server’s answer (a login?). Try again in a moment." };
  } catch {
    return { error: "Not sent: the server does not answer. Try again in a moment." };
  }
}

async function post(form, values) {
  const status = form.querySelector(".status");
  const button = form.querySelector("button[type=submit]");
  button.disabled = true;
  status.textContent = "";
  const answer = await ask(form.dataset.post, values);
  button.disabled = false;
  if (answer.next) return location.assign(answer.next);
  if (answer.token) return showLink(status, answer.token);
  status.textContent = answer.error || answer.told || "";
}

function showLink(status, token) {
  const label = document.createElement("label");
  label.textContent = "Give this link to the rater; it is not shown again: ";
  const link = document.createElement("input");
  link.readOnly = true;
  link.value = new URL(`join#${token}`, location.href).href;
  link.addEventListener("focus", () => link.select());
  label.append(link);
  status.replaceChildren(label);
  link.focus();
}

let token = tokenOfLink();

function valuesOf(form) {
  const values = Object.fromEntries(new FormData(form));
  for (const box of form.querySelectorAll("input[type=checkbox]")) values[box.name] = box.checked;
  if ("tokenFromLink" in form.dataset) values.token = token;
  return values;
}

// Whoever agreed before goes on without agreeing again; nothing is said of it if not, and nothing is used up.
async function goOn(form) {
  if ("tokenFromLink" in form.dataset && !token) return;
  const answer = await ask(form.dataset.post, { ...valuesOf(form), consent: false });
  if (answer.next) location.replace(answer.next);
}

for (const form of document.querySelectorAll("form[data-post]")) {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    post(form, valuesOf(form));
  });
  if ("fromLink" in form.dataset && token) post(form, { token });
  if ("goOn" in form.dataset) goOn(form);
}
window.addEventListener("hashchange", () => {
  token = tokenOfLink();
  for (const form of document.querySelectorAll("form[data-go-on]")) goOn(form);
});
