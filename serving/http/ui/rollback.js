// Back to the version before, for whoever has the admin key. It is asked for each time.

import { Problem, rollBack } from "./api.js";

const byId = (id) => document.getElementById(id);
const dialog = byId("rollback-dialog");

let shown; // the version that the button was pressed at

// `reply`: of `GET /overview`.
export function offerRollback({ history, rollback_to: target, administered }) {
  const button = byId("rollback");
  button.hidden = !target || !administered;
  button.textContent = target ? `Roll back to ${target}` : "";
  button.value = history[0]?.version ?? "";
  byId("rollback-text").textContent = `Production goes from ${button.value} to ${target}. Services load it within seconds; no request is lost.`;
  byId("rollback-note").textContent = target && !administered
    ? "To roll back from here, set an admin key (VGG19_ADMIN_KEY). In a terminal: vgg19 rollback."
    : "";
  byId("rollback-note").hidden = !byId("rollback-note").textContent;
}

// `onDone(text)` is told what became of it.
export function startRollback(onDone) {
  byId("rollback").addEventListener("click", () => {
    shown = byId("rollback").value;
    tell("");
    dialog.showModal();
    byId("admin-key").focus();
  });
  byId("rollback-cancel").addEventListener("click", () => dialog.close());
  dialog.addEventListener("close", () => { byId("admin-key").value = ""; });
  dialog.querySelector("form").addEventListener("submit", async (event) => {
    event.preventDefault(); // the key must not become part of an address
    const submit = dialog.querySelector("[type=submit]");
    submit.disabled = true;
    try {
      const { version } = await rollBack(shown, byId("admin-key").value.trim());
      dialog.close();
      onDone(`Production is ${version} now.`);
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      tell(error.message);
    } finally {
      submit.disabled = false;
    }
  });
}

function tell(problem) {
  byId("rollback-problem").textContent = problem;
  byId("rollback-problem").hidden = !problem;
}
