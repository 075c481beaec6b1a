// Forms that post JSON, and links whose token stands after the "#", which no browser sends and no log keeps.
"use strict";

function tokenOfLink() {
  const token = location.hash.slice(1);
  if (token) history.replaceState(null, "", location.pathname);
  return token;
}

async function post(form, values) {
  const status = form.querySelector(".status");
  const button = form.querySelector("button[type=submit]");
  button.disabled = true;
  status.textContent = "";
  try {
    const response = await fetch(form.dataset.post, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(values),
    });
    const answer = await response.json();
    if (answer.next) return location.assign(answer.next);
    if (answer.token) return showLink(status, answer.token);
    status.textContent = answer.error || answer.told || "";
  } catch {
    status.textContent = "The server does not answer. Try again in a moment.";
  } finally {
    button.disabled = false;
  }
}

function showLink(status, token) {
  const label = document.createElement("label");
  label.textContent = "Give this link to the rater; it works once and is not shown again: ";
  const link = document.createElement("input");
  link.readOnly = true;
  link.value = `${location.origin}/join#${token}`;
  link.addEventListener("focus", () => link.select());
  label.append(link);
  status.replaceChildren(label);
  link.focus();
}

let token = tokenOfLink();
for (const form of document.querySelectorAll("form[data-post]")) {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const values = Object.fromEntries(new FormData(form));
    for (const box of form.querySelectorAll("input[type=checkbox]")) values[box.name] = box.checked;
    if ("tokenFromLink" in form.dataset) values.token = token;
    post(form, values);
  });
  if ("fromLink" in form.dataset && token) post(form, { token });
}
window.addEventListener("hashchange", () => { token = tokenOfLink() || token; });
