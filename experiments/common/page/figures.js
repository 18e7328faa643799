// Tables and curves: figures that Python has worked out, drawn.

function table(figures) {
  const head = make("tr", "", ...figures.columns.map((name) => make("th", "", name)));
  const rows = figures.rows.map((row) => make("tr", "", ...row.map((cell, i) => make(i ? "td" : "th", "", cell))));
  const whole = make("table", "", make("thead", "", head), make("tbody", "", ...rows));
  const parts = [make("div", "wide", whole)];
  if (figures.title) parts.unshift(make("h2", "", figures.title));
  if (figures.note) parts.push(make("p", "quiet", figures.note));
  return make("section", "", ...parts);
}

function svg(tag, attributes, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

const SIZE = { width: 420, height: 190, left: 46, right: 10, top: 10, bottom: 24 };

function rounded(value) {
  if (value === null || value === undefined) return "-";
  const size = Math.abs(value);
  if (size === 0) return "0";
  if (size >= 1e5 || size < 1e-3) return value.toExponential(1);
  return String(Number(value.toPrecision(3)));
}

// The least and greatest number of lists of numbers, where null is no number; apart, where all are equal.
function range(...lists) {
  let [low, high] = [Infinity, -Infinity];
  for (const list of lists) {
    for (const value of list) {
      if (value === null) continue;
      low = Math.min(low, value);
      high = Math.max(high, value);
    }
  }
  if (low > high) return [0, 1];
  if (low < high) return [low, high];
  return low === 0 ? [0, 1] : [low - Math.abs(low) / 2, low + Math.abs(low) / 2];
}

function scale([low, high], start, end) {
  return (value) => start + ((value - low) / (high - low)) * (end - start);
}

// {title, series: [{name, x, y, low?, high?}], named?}: lines, and dots with their intervals where there are some. Only so
// many of the first as `named` says have a colour and a name.
function curve(figure) {
  const { width, height, left, right, top, bottom } = SIZE;
  const xs = range(...figure.series.map((series) => series.x));
  const ys = range(...figure.series.flatMap((series) => [series.y, series.low || [], series.high || []]));
  const toX = scale(xs, left, width - right);
  const toY = scale(ys, height - bottom, top);
  const drawing = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": figure.title });
  drawing.append(...axes(xs, ys, toX, toY));
  const named = figure.series.slice(0, figure.named);
  const color = (i) => (i < named.length ? `series${i}` : "other");
  figure.series.forEach((series, i) => drawing.append(...marks(series, toX, toY, `series ${color(i)}`, 3 * (i - 1))));
  const names = named.map((series, i) => make("span", `key series${i}`, series.name));
  const value = make("output", "quiet");
  drawing.addEventListener("pointermove", (event) => {
    const box = drawing.getBoundingClientRect();
    value.textContent = nearest(named, toX, ((event.clientX - box.left) / box.width) * width);
  });
  return make("figure", "", make("figcaption", "", make("b", "", figure.title), ...names, value), drawing);
}

function axes(xs, ys, toX, toY) {
  const { width, height, left, right, bottom } = SIZE;
  const parts = [];
  for (const share of [0, 0.5, 1]) {
    const y = ys[0] + share * (ys[1] - ys[0]);
    parts.push(svg("line", { class: "grid", x1: left, x2: width - right, y1: toY(y), y2: toY(y) }));
    parts.push(svg("text", { x: left - 6, y: toY(y) + 4, "text-anchor": "end" }, rounded(y)));
    const x = xs[0] + share * (xs[1] - xs[0]);
    const anchor = ["start", "middle", "end"][2 * share];
    if (Number.isInteger(x)) parts.push(svg("text", { x: toX(x), y: height - bottom + 18, "text-anchor": anchor }, rounded(x)));
  }
  return parts;
}

// beside: pixels by which dots stand beside their place, so that intervals do not hide one another.
function marks(series, toX, toY, name, beside) {
  const there = series.y.map((y, i) => i).filter((i) => series.y[i] !== null && series.x[i] !== null);
  const place = series.low ? (x) => toX(x) + beside : toX;
  const points = there.map((i) => `${place(series.x[i]).toFixed(1)},${toY(series.y[i]).toFixed(1)}`);
  const line = svg("polyline", { class: name, points: points.join(" "), fill: "none" });
  if (!series.low && there.length > 1) return [line];
  return [line, ...there.flatMap((i) => dot(series, i, place, toY, name))];
}

function dot(series, i, toX, toY, name) {
  const x = toX(series.x[i]);
  const parts = [svg("circle", { class: name, cx: x, cy: toY(series.y[i]), r: 3 })];
  if (series.low && series.low[i] !== null && series.high[i] !== null) {
    parts.push(svg("line", { class: name, x1: x, x2: x, y1: toY(series.low[i]), y2: toY(series.high[i]) }));
  }
  return parts;
}

// What the series say at the iteration nearest to a place of the drawing.
function nearest(series, toX, place) {
  const all = series.flatMap((one) => one.x);
  if (!all.length) return "";
  const x = all.reduce((best, here) => (Math.abs(toX(here) - place) < Math.abs(toX(best) - place) ? here : best));
  const values = series.filter((one) => one.x.includes(x)).map((one) => `${rounded(one.y[one.x.indexOf(x)])}`);
  return `at ${x}: ${values.join(", ")}`;
}
