// Small line charts, drawn as SVG.

const SVG = "http://www.w3.org/2000/svg";
const [WIDTH, HEIGHT, EDGE] = [300, 48, 3];

// `values`: numbers, or null where nothing is known: the line has a gap there. `most`: the top of
// the chart, unless a value lies above.
export function lineChart(values, { label, most = 0, limit }) {
  const known = values.filter((value) => value !== null);
  const top = Math.max(most, ...known) || 1;
  const x = (index) => EDGE + (index / Math.max(1, values.length - 1)) * (WIDTH - 2 * EDGE);
  const y = (value) => HEIGHT - EDGE - (value / top) * (HEIGHT - 2 * EDGE);
  const svg = element("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": label });
  svg.append(element("line", { class: "base", x1: EDGE, x2: WIDTH - EDGE, y1: y(0), y2: y(0) }));
  if (limit !== undefined && limit <= top) {
    svg.append(element("line", { class: "limit", x1: EDGE, x2: WIDTH - EDGE, y1: y(limit), y2: y(limit) }));
  }
  for (const piece of pieces(values)) {
    const points = piece.map(([index, value]) => `${x(index).toFixed(1)},${y(value).toFixed(1)}`);
    if (points.length === 1) points.push(points[0]); // a dot, by the line's round ends
    svg.append(element("polyline", { class: "line", points: points.join(" ") }));
  }
  return svg;
}

// Runs of known values, as [index, value].
function pieces(values) {
  const found = [[]];
  values.forEach((value, index) => {
    if (value === null) found.push([]);
    else found.at(-1).push([index, value]);
  });
  return found.filter((piece) => piece.length > 0);
}

function element(name, attributes) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}
