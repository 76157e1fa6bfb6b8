// Back to the version before, for whoever has the admin key.

import { askAsAdmin } from "./admin.js";
import { rollBack } from "./api.js";

const byId = (id) => document.getElementById(id);
const button = byId("rollback");

let text = "";

// `reply`: of `GET /overview`.
export function offerRollback({ history, rollback_to: target, administered }) {
  button.hidden = !target || !administered;
  button.textContent = target ? `Roll back to ${target}` : "";
  button.value = history[0]?.version ?? "";
  text = `Production goes from ${button.value} to ${target}. Services load it within seconds; no request is lost.`;
  byId("rollback-note").textContent = target && !administered
    ? "To roll back from here, set an admin key (VGG19_ADMIN_KEY). In a terminal: vgg19 rollback."
    : "";
  byId("rollback-note").hidden = !byId("rollback-note").textContent;
}

// `onDone(text)` is told what became of it.
export function startRollback(onDone) {
  button.addEventListener("click", () => {
    const shown = button.value; // the version that the button was pressed at
    askAsAdmin({ title: "Roll back?", text, verb: "Roll back" }, async (key) => {
      const { version } = await rollBack(shown, key);
      onDone(`Production is ${version} now.`);
    });
  });
}
