// What is drawn of a sweep: settings beside results, and a population's lineage.

// The drawing of a figure, by its kind; a curve has none.
function drawing(figure) {
  return ({ parallel, lineage }[figure.kind] || curve)(figure);
}

const WIDE = { width: 860, height: 240, left: 70, right: 40, top: 12, bottom: 30 };

function wide(figure, ...parts) {
  const box = `0 0 ${WIDE.width} ${WIDE.height}`;
  const whole = svg("svg", { viewBox: box, role: "img", "aria-label": figure.title }, ...parts);
  return make("figure", "whole", make("figcaption", "", make("b", "", figure.title)), whole);
}

function label(text, x, y, anchor) {
  return svg("text", { x, y, "text-anchor": anchor }, visible(text));
}

// {axes: [{name, ticks: [[place, text]]}], lines: [{name, places, rank}]}; places are from 0 to 1, ranks above 0 to 1.
function parallel(figure) {
  const { width, height, left, right, top, bottom } = WIDE;
  const toX = scale([0, Math.max(1, figure.axes.length - 1)], left, width - right);
  const toY = scale([0, 1], height - bottom, top);
  const parts = figure.axes.flatMap((axis, i) => [
    svg("line", { class: "grid", x1: toX(i), x2: toX(i), y1: toY(0), y2: toY(1) }),
    label(axis.name, toX(i), height - 8, "middle"),
    ...axis.ticks.map(([place, text]) => label(text, toX(i) - 5, toY(place) + 4, "end")),
  ]);
  for (const line of figure.lines) {
    const points = line.places.map((place, i) => `${toX(i).toFixed(1)},${toY(place).toFixed(1)}`).join(" ");
    const name = svg("title", {}, visible(line.name));
    parts.push(svg("polyline", { class: "series series0", points, fill: "none", opacity: 0.15 + 0.85 * line.rank ** 2 }, name));
  }
  return wide(figure, ...parts);
}

// {rows: [trial], lives: [{trial, start, end, parent, forebear}]}: a policy is a line, from its parent's row to its own.
function lineage(figure) {
  const { width, height, left, right, top, bottom } = WIDE;
  const xs = range([0], figure.lives.map((life) => life.end));
  const toX = scale(xs, left, width - right);
  const toY = scale([-0.5, figure.rows.length - 0.5], top, height - bottom);
  const row = (life) => toY(figure.rows.indexOf(life.trial));
  const parts = figure.rows.map((trial, i) => label(`trial ${trial}`, left - 8, toY(i) + 4, "end"));
  parts.push(...xs.map((x, i) => label(rounded(x), toX(x), height - 8, ["start", "end"][i])));
  for (const life of figure.lives) {
    const from = life.parent === null ? row(life) : row(figure.lives[life.parent]);
    const points = `${toX(life.start)},${from} ${toX(life.start)},${row(life)} ${toX(life.end)},${row(life)}`;
    parts.push(svg("polyline", { class: `series ${life.forebear ? "series0" : "other"}`, points, fill: "none" }));
  }
  return wide(figure, ...parts);
}
