// Line charts as inline SVG: axes with round numbers, lines told apart by colour and dashes.

const CHART = { width: 448, height: 336, left: 78, top: 14, bottom: 58 };
const DASHES = ["none", "7 4", "2 3", "9 3 2 3", "14 4", "4 2"];
// More names than this beside the lines would lie over each other, longer ones leave no room.
const NAMED_LINES = 6;
const LONGEST_NAME = 15;

/** An element of SVG with attributes and text. */
function svg(name, attributes, text) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  Object.entries(attributes).forEach(([key, value]) => element.setAttribute(key, value));
  if (text !== undefined) element.textContent = text;
  return element;
}

/** About `count` round numbers from `low` to `high`. */
function ticks(low, high, count) {
  const raw = (high - low) / count || 1;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= raw * 0.999);
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + 1e-9 * step; i++) {
    found.push(+(i * step).toPrecision(12));
  }
  return found;
}

function limits(values) {
  const known = values.filter((value) => value !== null);
  const [low, high] = [Math.min(...known), Math.max(...known)];
  if (!Number.isFinite(low)) return [0, 1];
  return high > low ? [low, high] : [low - 0.5, high + 0.5];
}

/** Whether the names stand beside the lines; else the legend alone has them. */
function hasNames(view) {
  const lengths = view.labels.map((label) => label.length);
  return lengths.length <= NAMED_LINES && Math.max(...lengths) <= LONGEST_NAME;
}

/** Where the lines end: room for their names is left beside them. */
function rightOf(view) {
  const longest = hasNames(view) ? Math.max(...view.labels.map((label) => label.length)) : 0;
  return CHART.width - 16 - 11 * longest;
}

/** The power of ten that an axis is told in, where its numbers would be long; else 0. */
function powerOf(values) {
  const most = Math.max(...values.map(Math.abs));
  return most > 0 && (most < 0.01 || most >= 1e5) ? Math.floor(Math.log10(most)) : 0;
}

function axisName(name, power) {
  const digits = String(power).replace("-", "⁻");
  const raised = digits.replace(/\d/g, (digit) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[digit]);
  return power === 0 ? name : `${name} (× 10${raised})`;
}

/** The ticks' numbers, in as many decimals as tell them apart. */
function tickNames(values, power) {
  const scaled = values.map((value) => value / 10 ** power);
  const step = Math.min(...scaled.slice(1).map((value, i) => value - scaled[i]));
  const decimals = clamp(-Math.floor(Math.log10(step) + 1e-9), 0, 6);
  return scaled.map((value) => value.toFixed(decimals).replace("-", "−"));
}

/** From values to places on the chart. */
function scales(view) {
  const right = rightOf(view);
  const [x0, x1] = limits(view.x);
  const [y0, y1] = limits(view.y.flat());
  const wide = right - CHART.left;
  const tall = CHART.height - CHART.top - CHART.bottom;
  return {
    x: (value) => CHART.left + ((value - x0) / (x1 - x0)) * wide,
    y: (value) => CHART.height - CHART.bottom - ((value - y0) / (y1 - y0)) * tall,
    right,
    xs: ticks(x0, x1, 5),
    ys: ticks(y0, y1, 5),
  };
}

function drawAxes(chart, view, scale) {
  const bottom = CHART.height - CHART.bottom;
  const { right } = scale;
  const [xPower, yPower] = [powerOf(scale.xs), powerOf(scale.ys)];
  const [xNames, yNames] = [tickNames(scale.xs, xPower), tickNames(scale.ys, yPower)];
  scale.ys.forEach((value, i) => {
    const y = scale.y(value);
    chart.append(
      svg("line", { class: "rule", x1: CHART.left, x2: right, y1: y, y2: y }),
      svg("text", { x: CHART.left - 6, y: y + 5, "text-anchor": "end" }, yNames[i]));
  });
  scale.xs.forEach((value, i) => {
    const x = scale.x(value);
    chart.append(
      svg("line", { class: "axis", x1: x, x2: x, y1: bottom, y2: bottom + 4 }),
      svg("text", { x, y: bottom + 23, "text-anchor": "middle" }, xNames[i]));
  });
  const middle = (CHART.top + bottom) / 2;
  chart.append(
    svg("line", { class: "axis", x1: CHART.left, x2: right, y1: bottom, y2: bottom }),
    svg("text", { x: (CHART.left + right) / 2, y: CHART.height - 10, "text-anchor": "middle" },
      axisName(view.xLabel, xPower)),
    svg("text",
      { x: 16, y: middle, "text-anchor": "middle", transform: `rotate(-90 16 ${middle})` },
      axisName(view.yLabel, yPower)));
}

/** The path of a curve, with a gap where it has no value. */
function pathOf(view, curve, scale) {
  let pen = "M";
  return curve.map((value, i) => {
    if (value === null) {
      pen = "M";
      return "";
    }
    const step = `${pen}${scale.x(view.x[i]).toFixed(1)} ${scale.y(value).toFixed(1)}`;
    pen = "L";
    return step;
  }).join("");
}

function lineOf(path, index, chosen) {
  const faint = chosen >= 0 && chosen !== index;
  return svg("path", {
    class: `curve colour-${index % 6}${faint ? " faint" : ""}`,
    d: path,
    "stroke-dasharray": DASHES[(index + Math.floor(index / 6)) % DASHES.length],
  });
}

/** Names at the right ends of the lines, moved apart where they would touch. */
function nameLines(chart, view, scale, shown) {
  const names = shown.map((index) => {
    const curve = view.y[index];
    const last = curve.findLastIndex((value) => value !== null);
    return { index, x: scale.x(view.x[Math.max(last, 0)]), y: scale.y(curve[last] ?? 0) };
  }).sort((a, b) => a.y - b.y);
  names.forEach((name, i) => {
    if (i > 0) name.y = Math.max(name.y, names[i - 1].y + 20);
  });
  const over = names.length ? names[names.length - 1].y - (CHART.height - CHART.bottom) : 0;
  for (const { index, x, y } of names) {
    const place = { x: x + 6, y: y + 4 - Math.max(0, over) };
    chart.append(svg("text", { class: `name colour-${index % 6}`, ...place }, view.labels[index]));
  }
}

/** The chart of a view; `chosen` is the line to point out, or -1. */
function chartOf(view, chosen) {
  const chart = svg("svg", { viewBox: `0 0 ${CHART.width} ${CHART.height}`, role: "img" });
  const scale = scales(view);
  drawAxes(chart, view, scale);
  const order = [...view.y.keys()].sort((a, b) => (a === chosen) - (b === chosen));
  order.forEach((index) => chart.append(lineOf(pathOf(view, view.y[index], scale), index, chosen)));
  if (hasNames(view)) nameLines(chart, view, scale, order);
  return chart;
}

/** A sample of every line with its name. */
function curveLegend(view, chosen) {
  const list = document.createElement("ul");
  list.className = "lines";
  view.labels.forEach((label, index) => {
    const item = document.createElement("li");
    const sample = svg("svg", { viewBox: "0 0 34 8", "aria-hidden": "true" });
    sample.append(lineOf("M0 4L34 4", index, chosen));
    item.append(sample, label);
    list.append(item);
  });
  return list;
}

/** "power from 0.1 to 3 over frequency from 0 to 0.5" and which line is pointed out. */
function curvesInWords(view, chosen) {
  const [x0, x1] = limits(view.x);
  const [y0, y1] = limits(chosen < 0 ? view.y.flat() : view.y[chosen]);
  const name = chosen < 0 ? view.yLabel : `${view.labels[chosen]}: ${view.yLabel}`;
  const reach = `${view.xLabel} from ${short(x0)} to ${short(x1)}`;
  return `${name} from ${short(y0)} to ${short(y1)} over ${reach}`;
}
