// What the page asks of its server. Pictures come as blobs, since an <img> can't send a key.

// By which the server tells tabs apart; a tab that is loaded again keeps its images.
const TAB = sessionStorage.getItem("tab") ?? String(Math.random()).slice(2);
sessionStorage.setItem("tab", TAB);
let key = decodeURIComponent(location.hash.slice(1));
if (key) history.replaceState(null, "", location.pathname);
let askForKey = null;

export class Refused extends Error {}

// `ask` gives a key that a person has typed; it is told whether one has been refused.
export function whenKeyIsNeeded(ask) {
  askForKey = ask;
}

export const overview = () => json("api/overview");
export const queue = (which, count) => json(`api/queue?tab=${TAB}&which=${which}&count=${count}`);
export const group = (count) => json(`api/group?tab=${TAB}&count=${count}`);
export const card = (image) => json(`api/cards/${image}`);
export const disagreements = () => json("api/disagreements");
export const decide = (decisions) => json("api/decisions", { decisions });
export const start = (job) => json("api/jobs", { job });
export const picture = (image) => blob(`images/${image}`);
export const thumbnail = (image) => blob(`thumbnails/${image}`);
export const heat = (image, label) => blob(`heat/${image}?label=${encodeURIComponent(label)}`);
export const exported = (form) => blob(`export/${form}`);

const json = async (path, body) => (await ask(path, body)).json();
const blob = async (path) => URL.createObjectURL(await (await ask(path)).blob());

async function ask(path, body) {
  for (;;) {
    const sent = key;
    const headers = { "X-Review": "1", ...(sent && { Authorization: `Bearer ${sent}` }) };
    const options = body === undefined ? { headers } : { method: "POST", headers, body: JSON.stringify(body) };
    let reply;
    try {
      reply = await fetch(path, options);
    } catch {
      throw new Refused("No answer; is it still running? Nothing that it has not confirmed was saved.");
    }
    if (reply.ok) return reply;
    const { detail } = await reply.json().catch(() => ({ detail: `answered ${reply.status}` }));
    if (reply.status !== 401) throw new Refused(detail);
    if (key === sent) key = await askForKey(sent !== "");
  }
}
