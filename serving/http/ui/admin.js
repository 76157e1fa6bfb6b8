// What needs the admin key: it is asked for each time, used once, and not remembered.

import { Problem } from "./api.js";

const byId = (id) => document.getElementById(id);
const dialog = byId("admin-dialog");

let work; // what is done with the key

// `action(key)` rejects with a Problem where it can't be done; the dialog then stays.
export function askAsAdmin({ title, text, verb }, action) {
  byId("admin-title").textContent = title;
  byId("admin-text").textContent = text;
  dialog.querySelector("[type=submit]").textContent = verb;
  work = action;
  tell("");
  dialog.showModal();
  byId("admin-key").focus();
}

byId("admin-cancel").addEventListener("click", () => dialog.close());
dialog.addEventListener("close", () => { byId("admin-key").value = ""; });
dialog.querySelector("form").addEventListener("submit", async (event) => {
  event.preventDefault(); // the key must not become part of an address
  const submit = dialog.querySelector("[type=submit]");
  submit.disabled = true;
  try {
    await work(byId("admin-key").value.trim());
    dialog.close();
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    tell(error.message);
  } finally {
    submit.disabled = false;
  }
});

function tell(problem) {
  byId("admin-problem").textContent = problem;
  byId("admin-problem").hidden = !problem;
}
