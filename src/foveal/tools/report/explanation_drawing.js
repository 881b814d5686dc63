// Drawing on canvases: maps over the picture, one query's attention, points.
// Every function that draws a reading returns what it drew in words.

const LONG_SIDE = 448;
// A circle of an even share covers this part of the canvas, and all circles at most that.
const EVEN_CIRCLE = 0.0025;
const ALL_CIRCLES = 0.15;
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
function fit(canvas, picture, side = LONG_SIDE) {
  const scale = side / Math.max(picture.naturalWidth, picture.naturalHeight);
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

/** Bilinear between the middles of cells; none where a neighbour is none. */
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
  return above * (1 - down) + below * down;
}

/** A canvas with as many pixels as asked for, `value(row, column)` giving each its colour. */
function painted(width, height, palette, { low, high }, value) {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  let place = 0;
  for (let row = 0; row < height; row++) {
    for (let column = 0; column < width; column++, place += 4) {
      const step = stepOf(value(row, column), low, high);
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

/** Values between the cells get their own colours; every other pixel is as fine as is seen. */
function smoothLayer(map, palette, like, covered) {
  const [width, height] = [Math.ceil(like.width / 2), Math.ceil(like.height / 2)];
  const canvas = painted(width, height, palette, map, (row, column) => between(
    map, ((row + 0.5) / height) * covered[0], ((column + 0.5) / width) * covered[1]));
  return { canvas, width: like.width, height: like.height, smooth: true };
}

/** One pixel a cell, to be enlarged; cells may reach beyond the picture. */
function blockyLayer(map, palette, like, covered) {
  const [rows, columns] = map.shape;
  const canvas = painted(columns, rows, palette, map, (row, column) =>
    map.values[row * columns + column]);
  const [width, height] = [(like.width * columns) / covered[1], (like.height * rows) / covered[0]];
  return { canvas, width, height, smooth: false };
}

/**
 * A map in colours, for canvases of the size of `like`, kept until another one is asked for.
 * `covered` are the rows and columns of the map that lie on the picture: fractions where pooled
 * cells reach beyond it.
 */
function layerOf(kept, map, palette, like, covered, smooth) {
  const { source } = map;
  if (kept.source !== source || kept.index !== map.index || kept.smooth !== smooth) {
    const make = smooth ? smoothLayer : blockyLayer;
    Object.assign(kept, { source, index: map.index, smooth });
    kept.layer = make(map, palette, like, covered);
  }
  return kept.layer;
}

function overlay(context, { canvas, width, height, smooth }, opacity) {
  context.globalAlpha = opacity;
  context.imageSmoothingEnabled = smooth;
  context.drawImage(canvas, 0, 0, width, height);
  context.globalAlpha = 1;
}

/** Draw a path twice, light over dark, so that it is seen on any ground. */
function cased(context, width, path, casing = 2) {
  for (const [colour, extra] of [[CASING, casing], [LINE, 0]]) {
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

function drawUnder(context, picture) {
  context.drawImage(picture, 0, 0, context.canvas.width, context.canvas.height);
}

/** A map over the picture, and the value at the query's place. */
function drawMap(context, kept, grey, map, palette, settings) {
  drawUnder(context, grey);
  const layer = layerOf(kept, map, palette, context.canvas, map.shape, settings.smooth);
  overlay(context, layer, settings.opacity);
  drawCross(context, settings.y, settings.x);
  const place = [part(settings.y, map.shape[0]), part(settings.x, map.shape[1])];
  const value = map.values[place[0] * map.shape[1] + place[1]];
  return `${within(value, map.low, map.high)} at ${placeInWords(place, map.shape)}`;
}

/** A map that is not of places in the image: alone, in its own shape, every cell as it is. */
function drawApart(context, kept, map, palette) {
  const { canvas } = context;
  const [rows, columns] = map.shape;
  const side = Math.min(canvas.width / columns, canvas.height / rows);
  const shape = { width: columns * side, height: rows * side };
  const layer = layerOf(kept, map, palette, shape, map.shape, false);
  context.clearRect(0, 0, canvas.width, canvas.height);
  context.save();
  context.translate((canvas.width - shape.width) / 2, (canvas.height - shape.height) / 2);
  overlay(context, layer, 1);
  context.restore();
  const best = greatest(map.values);
  const place = placeInWords([Math.floor(best / columns), best % columns], map.shape);
  return `greatest ${within(map.values[best], map.low, map.high)} at ${place}`;
}

/** Cells around the query as far as they are on the map, outlined, in colours of their own. */
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

/** Radius of the circle of a share, where there are `count` points. */
function radiusOf(share, count, canvas) {
  const whole = Math.min(EVEN_CIRCLE * count, ALL_CIRCLES);
  return Math.sqrt((share * whole * canvas.width * canvas.height) / Math.PI);
}

function drawCircle(context, y, x, radius) {
  const { canvas } = context;
  context.beginPath();
  context.arc(x * canvas.width, y * canvas.height, radius, 0, 2 * Math.PI);
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
    if (mass[i] > 0) drawCircle(context, y, x, radiusOf(mass[i], mass.length, context.canvas));
  }
  return off;
}

/** "strongest of 49 points 12 % (40 % down, 63 % across)", what lies outside. */
function pointsInWords(places, mass, off) {
  const best = greatest(mass);
  const where = (value) => `${Math.round(100 * value)} %`;
  const place = `${where(places[2 * best])} down, ${where(places[2 * best + 1])} across`;
  const outside = off > 0 ? `; ${percent(off)} off the image` : "";
  return `strongest of ${mass.length} points ${percent(mass[best])} (${place})${outside}`;
}

/** All that one query attends to: pooled cells, window, points. */
function drawAttention(context, kept, grey, reading, index, palettes, settings) {
  const { attention, numbers } = reading;
  const words = [];
  const legends = [];
  drawUnder(context, grey);
  if (attention.grid) {
    const pooled = slice(numbers, attention.grid, index);
    const covered = [0, 1].map((i) => attention.size[i] / attention.cell[i]);
    const layer = layerOf(
      kept, pooled, palettes.sequential, context.canvas, covered, settings.smooth);
    overlay(context, layer, settings.opacity);
    const whole = attention.cell.every((reach) => reach === 1);
    const [name, one] = whole ? ["cells", "cell"] : ["pooled cells", "pooled cell"];
    legends.push({ palette: "sequential", name, one, ...pooled });
    words.push(`${whole ? "all cells" : "pooled"} ${percent(attention.grid.sums[index])}`);
  }
  if (attention.window) {
    const near = slice(numbers, attention.window, index);
    drawWindow(context, near, attention, palettes.second, settings.opacity);
    legends.push({ palette: "second", name: "window", one: "in the window", ...near });
    words.unshift(`window ${percent(attention.window.sums[index])}`);
  }
  const parts = words.length > 1 ? [`${words.join(", ")} of the attention`] : [];
  parts.push(...strongest(legends));
  const off = attention.window ? attention.off[index] : 0;
  if (off > 0) parts.push(`${percent(off)} on padding off the map`);
  if (attention.points) {
    const places = slice(numbers, attention.points, index).values;
    const mass = slice(numbers, attention.mass, index).values;
    parts.push(pointsInWords(places, mass, drawPoints(context, places, mass)));
    legends.push({ points: mass.length });
  }
  drawQuery(context, attention);
  const place = placeInWords(attention.query, attention.size);
  return { words: `query at ${place}: ${parts.join("; ")}`, legends };
}

/** The cell of each part that has most; what is off the map has no values. */
function strongest(legends) {
  return legends.map(({ one, values, shape }) => {
    const best = greatest(values);
    const place = placeInWords([Math.floor(best / shape[1]), best % shape[1]], shape);
    return `strongest ${one} ${percent(values[best])} (${place})`;
  });
}

/** Where points started, arrows to where they went, circles of what they weigh. */
function drawDisplacements(context, grey, { references, points, mass }) {
  const { width, height } = context.canvas;
  drawUnder(context, grey);
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
  const path = () => {
    context.moveTo(x, y);
    context.lineTo(toX, toY);
    context.moveTo(toX - head * (dx + 0.6 * dy), toY - head * (dy - 0.6 * dx));
    context.lineTo(toX, toY);
    context.lineTo(toX - head * (dx - 0.6 * dy), toY - head * (dy + 0.6 * dx));
  };
  cased(context, 1, path, 1.4);
  context.beginPath();
  context.arc(x, y, 1.8, 0, 2 * Math.PI);
  context.fillStyle = LINE;
  context.fill();
}
