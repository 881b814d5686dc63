// Drawing on canvases: maps over the picture, one query's attention, points.
// Every function that draws a reading returns what it drew in words.

const LONG_SIDE = 448;
// A circle for all of the attention covers this share of the canvas.
const WHOLE_CIRCLE = 0.05;
const LINE = "#ffffff";
const CASING = "rgba(0, 0, 0, 0.75)";

/** A palette of the page as bytes: red, green and blue of every step. */
function palettesFrom(encoded) {
  return Object.fromEntries(Object.entries(encoded).map(([name, text]) => [name, bytesOf(text)]));
}

/** Step of a palette that a value has; -1 for a value that is none. */
function stepOf(value, low, high) {
  if (Number.isNaN(value)) return -1;
  return high > low ? clamp(Math.round((254 * (value - low)) / (high - low)), 0, 254) : 0;
}

function cssColour(palette, step) {
  return `rgb(${palette[3 * step]}, ${palette[3 * step + 1]}, ${palette[3 * step + 2]})`;
}

/** Give a canvas the shape of a picture. */
function fit(canvas, picture) {
  const scale = LONG_SIDE / Math.max(picture.naturalWidth, picture.naturalHeight);
  canvas.width = Math.max(1, Math.round(picture.naturalWidth * scale));
  canvas.height = Math.max(1, Math.round(picture.naturalHeight * scale));
}

/** The picture in grey: what has a colour on top of it is a reading. */
function greyOf(picture) {
  const canvas = document.createElement("canvas");
  fit(canvas, picture);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(picture, 0, 0, canvas.width, canvas.height);
  const image = context.getImageData(0, 0, canvas.width, canvas.height);
  const { data } = image;
  for (let i = 0; i < data.length; i += 4) {
    const grey = 0.2126 * data[i] + 0.7152 * data[i + 1] + 0.0722 * data[i + 2];
    data[i] = data[i + 1] = data[i + 2] = grey;
  }
  context.putImageData(image, 0, 0);
  return canvas;
}

/** Bilinear between the middles of cells; where a neighbour is no number, the nearest cell. */
function between(map, y, x) {
  const [rows, columns] = map.shape;
  const top = clamp(Math.floor(y - 0.5), 0, rows - 1);
  const left = clamp(Math.floor(x - 0.5), 0, columns - 1);
  const bottom = Math.min(top + 1, rows - 1);
  const right = Math.min(left + 1, columns - 1);
  const down = clamp(y - 0.5 - top, 0, 1);
  const along = clamp(x - 0.5 - left, 0, 1);
  const at = (row, column) => map.values[row * columns + column];
  const above = at(top, left) * (1 - along) + at(top, right) * along;
  const below = at(bottom, left) * (1 - along) + at(bottom, right) * along;
  const value = above * (1 - down) + below * down;
  return Number.isNaN(value) ? cellValue(map, y, x) : value;
}

function cellValue(map, y, x) {
  const [rows, columns] = map.shape;
  const row = clamp(Math.floor(y), 0, rows - 1);
  return map.values[row * columns + clamp(Math.floor(x), 0, columns - 1)];
}

/**
 * A map as a canvas of the same size as another one.
 * `covered` are the rows and columns of the map that lie on the picture: fractions where pooled
 * cells reach beyond it.
 */
function coloured(map, palette, like, covered, smooth) {
  const canvas = document.createElement("canvas");
  canvas.width = like.width;
  canvas.height = like.height;
  const context = canvas.getContext("2d");
  const image = context.createImageData(canvas.width, canvas.height);
  const sample = smooth ? between : cellValue;
  let place = 0;
  for (let row = 0; row < canvas.height; row++) {
    const y = ((row + 0.5) / canvas.height) * covered[0];
    for (let column = 0; column < canvas.width; column++, place += 4) {
      const value = sample(map, y, ((column + 0.5) / canvas.width) * covered[1]);
      const step = stepOf(value, map.low, map.high);
      if (step < 0) continue;
      image.data[place] = palette[3 * step];
      image.data[place + 1] = palette[3 * step + 1];
      image.data[place + 2] = palette[3 * step + 2];
      image.data[place + 3] = 255;
    }
  }
  context.putImageData(image, 0, 0);
  return canvas;
}

function overlay(context, layer, opacity) {
  context.globalAlpha = opacity;
  context.drawImage(layer, 0, 0);
  context.globalAlpha = 1;
}

/** Draw a path twice, light over dark, so that it is seen on any ground. */
function cased(context, width, path) {
  for (const [colour, extra] of [[CASING, 2], [LINE, 0]]) {
    context.beginPath();
    path();
    context.lineWidth = width + extra;
    context.strokeStyle = colour;
    context.stroke();
  }
}

/** A cross whose arms leave the place itself free, and as much around it as `free` says. */
function drawCross(context, y, x, free = 0) {
  const { width, height } = context.canvas;
  const [cy, cx] = [y * height, x * width];
  const near = Math.max(free + 3, 0.018 * LONG_SIDE);
  const far = near + 0.032 * LONG_SIDE;
  cased(context, 2, () => {
    for (const [dy, dx] of [[0, 1], [0, -1], [1, 0], [-1, 0]]) {
      context.moveTo(cx + dx * near, cy + dy * near);
      context.lineTo(cx + dx * far, cy + dy * far);
    }
  });
}

/** The query's cell, and a cross around what is seen of its window. */
function drawQuery(context, attention) {
  const [[row, column], [rows, columns]] = [attention.query, attention.size];
  const { width, height } = context.canvas;
  const [tall, wide] = [height / rows, width / columns];
  cased(context, 2, () => context.rect(column * wide, row * tall, wide, tall));
  const beside = attention.window ? Math.max(...attention.window.shape.slice(1)) : 1;
  drawCross(context, (row + 0.5) / rows, (column + 0.5) / columns,
    (beside / 2) * Math.max(tall, wide));
}

/** A map over the picture, and the value at the query's place. */
function drawMap(context, grey, map, palette, settings) {
  context.drawImage(grey, 0, 0);
  const layer = coloured(map, palette, context.canvas, map.shape, settings.smooth);
  overlay(context, layer, settings.opacity);
  drawCross(context, settings.y, settings.x);
  const place = [part(settings.y, map.shape[0]), part(settings.x, map.shape[1])];
  const value = map.values[place[0] * map.shape[1] + place[1]];
  return `${within(value, map.low, map.high)} at ${placeInWords(place, map.shape)}`;
}

/** Cells of the map around the query, outlined, in colours of their own. */
function drawWindow(context, near, attention, palette, opacity) {
  const { width, height } = context.canvas;
  const [rows, columns] = attention.size;
  const [tall, wide] = [height / rows, width / columns];
  const seen = [];
  near.values.forEach((value, i) => {
    const row = attention.corner[0] + Math.floor(i / near.shape[1]);
    const column = attention.corner[1] + (i % near.shape[1]);
    if (row < 0 || column < 0 || row >= rows || column >= columns) return;
    seen.push([row, column]);
    const step = stepOf(value, near.low, near.high);
    if (step < 0) return;
    context.globalAlpha = Math.max(opacity, 0.8);
    context.fillStyle = cssColour(palette, step);
    context.fillRect(column * wide, row * tall, wide, tall);
  });
  context.globalAlpha = 1;
  if (seen.length === 0) return;
  context.lineWidth = 1;
  context.strokeStyle = "rgba(255, 255, 255, 0.55)";
  seen.forEach(([row, column]) => context.strokeRect(column * wide, row * tall, wide, tall));
  const [top, left] = seen[0];
  const [bottom, right] = seen[seen.length - 1];
  cased(context, 2.5, () =>
    context.rect(left * wide, top * tall, (right + 1 - left) * wide, (bottom + 1 - top) * tall));
}

function radiusOf(mass, canvas) {
  return Math.sqrt((mass * WHOLE_CIRCLE * canvas.width * canvas.height) / Math.PI);
}

function drawCircle(context, y, x, mass) {
  const { canvas } = context;
  context.beginPath();
  context.arc(x * canvas.width, y * canvas.height, radiusOf(mass, canvas), 0, 2 * Math.PI);
  context.fillStyle = "rgba(255, 196, 61, 0.75)";
  context.fill();
  context.lineWidth = 1;
  context.strokeStyle = CASING;
  context.stroke();
}

/** Circles of points, the greatest below; how much lies off the image. */
function drawPoints(context, places, mass) {
  const order = Array.from(mass.keys()).sort((a, b) => mass[b] - mass[a]);
  let off = 0;
  for (const i of order) {
    const [y, x] = [places[2 * i], places[2 * i + 1]];
    if (y < 0 || x < 0 || y >= 1 || x >= 1) off += mass[i];
    if (mass[i] > 0) drawCircle(context, y, x, mass[i]);
  }
  return off;
}

/** "largest circle: 12 % at 40 % from the top, 63 % from the left" and what lies outside. */
function pointsInWords(places, mass, off) {
  const best = greatest(mass);
  const where = (value) => `${Math.round(100 * value)} %`;
  const down = `${where(places[2 * best])} from the top`;
  const place = `${down}, ${where(places[2 * best + 1])} from the left`;
  const outside = off > 0 ? `; ${percent(off)} off the image` : "";
  return `the strongest of ${mass.length} points has ${percent(mass[best])}, at ${place}${outside}`;
}

/** All that one query attends to: pooled cells, window, points. */
function drawAttention(context, grey, reading, index, palettes, settings) {
  const { attention, numbers } = reading;
  const words = [];
  const legends = [];
  context.drawImage(grey, 0, 0);
  if (attention.grid) {
    const pooled = slice(numbers, attention.grid, index);
    const covered = [0, 1].map((i) => attention.size[i] / attention.cell[i]);
    const layer = coloured(pooled, palettes.sequential, context.canvas, covered, settings.smooth);
    overlay(context, layer, settings.opacity);
    const whole = attention.cell.every((reach) => reach === 1);
    const name = whole ? "cells" : "pooled cells";
    legends.push({ palette: "sequential", name, ...pooled });
    words.push(`${whole ? "all cells" : "pooled"} ${percent(attention.grid.sums[index])}`);
  }
  if (attention.window) {
    const near = slice(numbers, attention.window, index);
    drawWindow(context, near, attention, palettes.second, settings.opacity);
    legends.push({ palette: "second", name: "window", ...near });
    words.unshift(`window ${percent(attention.window.sums[index])}`);
  }
  const parts = words.length > 1 ? [`${words.join(", ")} of the attention`] : [];
  parts.push(...strongest(legends));
  if (attention.points) {
    const places = slice(numbers, attention.points, index).values;
    const mass = slice(numbers, attention.mass, index).values;
    parts.push(pointsInWords(places, mass, drawPoints(context, places, mass)));
    legends.push({ circles: true });
  }
  drawQuery(context, attention);
  const place = placeInWords(attention.query, attention.size);
  return { words: `query at ${place}: ${parts.join("; ")}`, legends };
}

/** The cell of each part that has most. */
function strongest(legends) {
  return legends.map(({ name, values, shape }) => {
    const best = greatest(values);
    const place = placeInWords([Math.floor(best / shape[1]), best % shape[1]], shape);
    return `the strongest of the ${name} has ${percent(values[best])}, at ${place}`;
  });
}

/** Where points started, arrows to where they went, circles of what they weigh. */
function drawDisplacements(context, grey, { references, points, mass }) {
  const { width, height } = context.canvas;
  context.globalAlpha = 0.75;
  context.drawImage(grey, 0, 0);
  context.globalAlpha = 1;
  const off = drawPoints(context, points, mass);
  for (let i = 0; i < mass.length; i++) {
    const from = [references[2 * i + 1] * width, references[2 * i] * height];
    const to = [points[2 * i + 1] * width, points[2 * i] * height];
    drawArrow(context, from, to);
  }
  return pointsInWords(points, mass, off);
}

function drawArrow(context, [x, y], [toX, toY]) {
  const length = Math.hypot(toX - x, toY - y);
  const [dx, dy] = length > 0 ? [(toX - x) / length, (toY - y) / length] : [0, 0];
  const head = Math.min(6, length / 2);
  cased(context, 1.2, () => {
    context.moveTo(x, y);
    context.lineTo(toX, toY);
    context.moveTo(toX - head * (dx + 0.6 * dy), toY - head * (dy - 0.6 * dx));
    context.lineTo(toX, toY);
    context.lineTo(toX - head * (dx - 0.6 * dy), toY - head * (dy + 0.6 * dx));
  });
  context.beginPath();
  context.arc(x, y, 1.8, 0, 2 * Math.PI);
  context.fillStyle = LINE;
  context.fill();
}
