// Results as CSV (RFC 4180): one line for each image.

// A spreadsheet runs a cell that begins with one of these as a formula, and file names and labels
// are anybody's; an apostrophe in front makes it text.
const FORMULA = /^\s*[=+\-@\t\r]/;

function cell(value) {
  if (value === undefined || value === null) return "";
  if (typeof value === "number" || typeof value === "boolean") return String(value);
  const text = FORMULA.test(value) ? `'${value}` : value;
  return `"${text.replaceAll('"', '""')}"`;
}

export function toCsv(items) {
  const ranks = Math.max(1, ...items.map((item) => item.predictions?.length ?? 0));
  const header = ["file"];
  for (let rank = 1; rank <= ranks; rank++) header.push(`label_${rank}`, `probability_${rank}`);
  header.push("accepted", "distance", "error", "model", "version", "decode_ms", "queue_ms", "inference_ms");
  const lines = items.map((item) => {
    const values = [item.name];
    for (let rank = 0; rank < ranks; rank++) {
      const prediction = item.predictions?.[rank];
      values.push(prediction?.label, prediction?.probability);
    }
    const { decode, queue, inference } = item.times ?? {};
    return [...values, item.accepted, item.distance, item.problem, item.model, item.version, decode, queue, inference];
  });
  const text = [header, ...lines].map((line) => line.map(cell).join(",")).join("\r\n");
  return `\ufeff${text}\r\n`; // without the mark, Excel takes it for its own code page
}
