// Which key gives which class. A class keeps its key while the page is open, so that hands can learn it.

const SPARE = [..."1234567890", ..."abdefijklmopqrtvwxyz"]; // c g h n s u do something else
const keyOf = new Map();

export function assign(labels) {
  for (const label of labels) {
    const free = SPARE.find((key) => ![...keyOf.values()].includes(key));
    if (!keyOf.has(label) && free) keyOf.set(label, free);
  }
}

export const keyFor = (label) => keyOf.get(label);
export const labelFor = (key) => [...keyOf].find(([, own]) => own === key)?.[0];

export const ACTIONS = { n: "none", c: "new", "/": "find", s: "skip", u: "undo", h: "heat", g: "grid" };
