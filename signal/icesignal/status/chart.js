// Numbers as words, and lines as SVG paths. Nothing here asks for anything: each function gives what its arguments say.

const SVG = "http://www.w3.org/2000/svg";
const WIDE = { left: 46, right: 10, top: 8, bottom: 20 };
export const UNKNOWN = "unknown";

/** Return a number of few characters: `1,234`, `0.25`, `3.4`, `12.3 M`. */
export function count(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return UNKNOWN;
  const size = Math.abs(value);
  if (size >= 1e9) return `${(value / 1e9).toFixed(1)} G`;
  if (size >= 1e6) return `${(value / 1e6).toFixed(1)} M`;
  if (Number.isInteger(value) || size >= 100) return Math.round(value).toLocaleString("en");
  return size >= 10 ? value.toFixed(1) : value.toFixed(2);
}

/** Return a number with its unit; the small letters of the unit are the second part. Bits and bytes get a prefix. */
export function amount(value, unit) {
  if (value === null || value === undefined || !Number.isFinite(value)) return [UNKNOWN, ""];
  if (unit !== "bit/s" && unit !== "bytes") return [count(value), unit];
  const base = unit === "bytes" ? 1024 : 1000;
  const names = unit === "bytes" ? ["bytes", "KiB", "MiB", "GiB", "TiB"] : ["bit/s", "kbit/s", "Mbit/s", "Gbit/s", "Tbit/s"];
  let step = 0;
  while (Math.abs(value) >= base && step < names.length - 1) { value /= base; step += 1; }
  return [step === 0 ? count(Math.round(value)) : value.toFixed(value < 10 ? 2 : 1), names[step]];
}

/** Return a time as people say it; seconds. */
export function duration(seconds) {
  if (seconds === null || !Number.isFinite(seconds)) return UNKNOWN;
  const s = Math.max(0, Math.round(seconds));
  if (s < 90) return `${s} s`;
  if (s < 5400) return `${Math.round(s / 60)} min`;
  if (s < 172800) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}

/** Return the least of 1, 2 and 5 times a power of ten that is not below the value. */
export function ceiling(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  const factor = [1, 2, 5, 10].find((one) => one * power >= value * (1 - 1e-9));
  return factor * power;
}

/** Return the points of a gauge: `{t, y}` of each row, y null where nothing is known. */
export function levels(rows, name) {
  return rows.map((row) => ({ t: row.t, y: row.values === null ? null : row.values[name] ?? null }));
}

/**
 * Return the points of a counter as a rate, by so many seconds. Between two processes, and where a counter went back,
 * nothing is known.
 */
export function rates(rows, name, seconds, factor = 1) {
  return rows.map((row, number) => {
    const before = rows[number - 1];
    const known = before && row.values !== null && before.values !== null && row.run === before.run && row.t > before.t;
    const from = known ? before.values[name] ?? null : null;
    const to = known ? row.values[name] ?? null : null;
    if (from === null || to === null || to < from) return { t: row.t, y: null };
    return { t: row.t, y: ((to - from) * factor * seconds * 1000) / (row.t - before.t) };
  });
}

/** Return the last point's value if it is known. */
export function latest(points) {
  return points.length ? points[points.length - 1].y : null;
}

/** Return the `d` of a path: it is broken where nothing is known, and a point alone is a dot. */
export function path(points, x, y) {
  let d = "";
  let begun = false;
  points.forEach((point, number) => {
    if (point.y === null) { begun = false; return; }
    d += `${begun ? "L" : "M"}${x(point.t).toFixed(1)} ${y(point.y).toFixed(1)}`;
    const next = points[number + 1];
    if (!begun && (!next || next.y === null)) d += "h0.1";
    begun = true;
  });
  return d;
}

/** Return an element of SVG. */
export function svg(name, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

/** Return what a chart says to who does not see it. */
export function summary(title, unit, lines) {
  const words = lines.map(({ label, points }) => {
    const known = points.filter((point) => point.y !== null).map((point) => point.y);
    if (!known.length) return `${label} ${UNKNOWN}`;
    const [now, low, high] = [latest(points), Math.min(...known), Math.max(...known)].map((y) => amount(y, unit).join(" ").trim());
    return `${label} now ${now}, from ${low} to ${high}`;
  });
  return `${title}: ${words.join("; ")}`;
}

/**
 * Draw lines into an SVG element, as wide as it is shown. Returns the place of the plot and its time, to be read off.
 *
 * lines: `{label, points}` each. from, to: the times of the two edges. unit: of all lines.
 */
export function draw(element, { title, unit, lines, from, to }) {
  const width = Math.max(200, element.clientWidth || 320);
  const height = Math.max(120, element.clientHeight || 176);
  const right = width - WIDE.right;
  const bottom = height - WIDE.bottom;
  const shown = lines.map((line) => ({ ...line, points: line.points.filter((point) => point.t >= from && point.t <= to) }));
  const top = Math.max(unit === "bit/s" ? 1000 : 1, ceiling(Math.max(0, ...shown.flatMap((line) => line.points.map((point) => point.y ?? 0)))));
  const x = (t) => WIDE.left + ((t - from) / Math.max(1, to - from)) * (right - WIDE.left);
  const y = (value) => bottom - (value / top) * (bottom - WIDE.top);
  const parts = [0, 0.5, 1].map((part) => {
    const at = y(part * top);
    const words = amount(part * top, unit);
    const text = unit === "bit/s" ? `${words[0]}${words[1].replace("bit/s", "").trim()}` : words[0];
    return svg("g", {},
      svg("line", { class: "grid", x1: WIDE.left, x2: right, y1: at, y2: at }),
      svg("text", { x: WIDE.left - 6, y: at + 4, "text-anchor": "end" }, text));
  });
  parts.push(svg("text", { x: WIDE.left, y: height - 4 }, `${duration((to - from) / 1000)} ago`));
  parts.push(svg("text", { x: right, y: height - 4, "text-anchor": "end" }, "now"));
  shown.forEach((line, number) => {
    parts.push(svg("path", { class: `line line-${number + 1}`, d: path(line.points, x, y) }));
  });
  element.setAttribute("viewBox", `0 0 ${width} ${height}`);
  element.setAttribute("role", "img");
  element.setAttribute("aria-label", summary(title, unit, shown));
  element.replaceChildren(...parts);
  return { left: WIDE.left, right, top: WIDE.top, bottom, from, to };
}
