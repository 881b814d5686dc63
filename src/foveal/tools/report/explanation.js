// The page itself: what is chosen, the panels, and what a click or a key does.

const state = {
  content: null, palettes: null, image: 0, live: false,
  settings: { y: 0.5, x: 0.5, opacity: 0.65, smooth: true },
  // What was chosen in each panel, kept while another image is looked at.
  choices: new Map(),
  panels: [], readings: new Map(), pictures: new Map(), exact: new Map(), planned: false,
};

/** An element with attributes, listeners (functions) and children; text is never markup. */
function element(name, attributes, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes ?? {})) {
    if (typeof value === "function") made.addEventListener(key, value);
    else if (value !== false && value !== null) made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children);
  return made;
}

function say(text) {
  const message = document.getElementById("message");
  message.textContent = text;
  message.hidden = !text;
}

function queryInWords() {
  const { y, x } = state.settings;
  return `${Math.round(100 * y)} % from the top, ${Math.round(100 * x)} % from the left`;
}

// ------------------------------------------------------------------ loading

function loadPicture(index) {
  if (!state.pictures.has(index)) {
    const picture = element("img", { src: state.content.pictures[index] });
    state.pictures.set(index, picture.decode().then(() => ({ picture, grey: greyOf(picture) })));
  }
  return state.pictures.get(index);
}

function loadReadings(id) {
  if (!state.readings.has(id)) state.readings.set(id, opened(bytesOf(embedded(id))));
  return state.readings.get(id);
}

async function loadModel(model, index) {
  const [{ header, numbers }, pixels] = await Promise.all([
    loadReadings(model.readings), loadPicture(model.picture)]);
  return { ...model, ...header, ...pixels, numbers, index };
}

// ------------------------------------------------------------------ choosing

function chooser(name, place, changed) {
  const control = element("select", { "aria-label": `${place}: ${name}`, change: changed });
  return { control, wrapper: element("label", { class: "chooser" }, `${name} `, control) };
}

/** Offer names, the chosen one first seen; nothing to choose is not shown. */
function offer({ control, wrapper }, names, chosen) {
  const offered = Array.from(control.options, (option) => option.value);
  if (offered.join("\n") !== names.join("\n")) {
    control.replaceChildren(...names.map((name) => element("option", { value: name }, name)));
  }
  control.value = chosen;
  wrapper.hidden = names.length < 2;
}

/** The block, view and label that a panel shows. Choices go by name, as blocks differ. */
function chosenOf(panel) {
  const { choice, blocks } = panel;
  const block = blocks[clamp(choice.block, 0, blocks.length - 1)];
  const view = block.views.find((other) => other.title === choice.view) ?? block.views[0];
  const labels = view ? labelsOf(view) : [];
  return { block, view, labels, label: Math.max(0, labels.indexOf(choice.label)) };
}

/** A chart shows all its lines unless one is to be pointed out. */
function labelsOf(view) {
  return view.type === "curve" && view.labels.length > 1 ? ["all", ...view.labels] : view.labels;
}

function choiceOf(key, blocks) {
  if (!state.choices.has(key)) {
    state.choices.set(key, { block: blocks.length - 1, view: null, label: null });
  }
  return state.choices.get(key);
}

// ------------------------------------------------------------------ the query

function moveTo(y, x) {
  Object.assign(state.settings, { y: clamp(y, 0, 1), x: clamp(x, 0, 1) });
  plan();
}

function clicked(event) {
  const box = event.currentTarget.getBoundingClientRect();
  moveTo((event.clientY - box.top) / box.height, (event.clientX - box.left) / box.width);
}

const ARROWS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

/** One cell further, to its middle; the other direction stays where it is. */
function pressed(event, [rows, columns]) {
  const step = ARROWS[event.key];
  if (!step || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  const { y, x } = state.settings;
  const next = (value, by, count) =>
    by ? (clamp(part(value, count) + by, 0, count - 1) + 0.5) / count : value;
  moveTo(next(y, step[0], rows), next(x, step[1], columns));
}

/** A canvas of a picture: click and arrow keys move the query. */
function queryCanvas(picture, steps) {
  const canvas = element("canvas", {
    role: "img", tabindex: "0", click: clicked, keydown: (event) => pressed(event, steps()) });
  fit(canvas, picture);
  return canvas;
}

/** The query nearest to the chosen place that the page has; from a live server, that very one. */
function attentionOf(panel, block, view) {
  const { y, x } = state.settings;
  const rows = view.queries.length;
  const attention = view.queries[part(y, rows)][part(x, view.queries[0].length)];
  const nearest = { attention, numbers: panel.model.numbers, note: "" };
  if (!state.live) return nearest;
  const asked = new URLSearchParams({
    image: state.image, model: panel.model.index, path: block.path, title: view.title,
    y: y.toFixed(5), x: x.toFixed(5) }).toString();
  const answer = state.exact.get(asked);
  if (!answer) ask(panel, asked);
  if (answer?.attention) return answer;
  const waiting = "Nearest stored query; asking for this one.";
  return { ...nearest, note: answer ? answer.refusal : waiting };
}

/** Ask the server once the query has come to rest; not again for what is being asked already. */
function ask(panel, asked) {
  if (panel.asked === asked) return;
  panel.asked = asked;
  clearTimeout(panel.timer);
  panel.timer = setTimeout(() => fetchExact(panel, asked), 120);
}

async function fetchExact(panel, asked) {
  panel.asking?.abort();
  panel.asking = new AbortController();
  if (state.exact.size > 500) state.exact.clear();
  try {
    const reply = await fetch(`query?${asked}`, { signal: panel.asking.signal });
    state.exact.set(asked, await answerOf(reply));
  } catch (error) {
    if (error.name === "AbortError") return;
    state.live = false;
    say("The server does not answer any more: the nearest of the stored queries is shown.");
  }
  plan();
}

async function answerOf(reply) {
  if (!reply.ok) return { refusal: `Nearest stored query; the server: ${await reply.text()}` };
  const { header, numbers } = await opened(await reply.arrayBuffer());
  return { attention: header.query, numbers, note: "Exactly this query, from the server." };
}

// ------------------------------------------------------------------ panels

/** A panel for some blocks of a model, with a slider over them. */
function buildPanel(model, name, key, blocks) {
  const panel = { model, name, blocks, choice: choiceOf(key, blocks), steps: [20, 20] };
  const choose = (change) => () => {
    Object.assign(panel.choice, change());
    plan();
  };
  const place = `${model.model}, ${name}`;
  panel.slider = element("input", {
    type: "range", min: 0, max: blocks.length - 1, "aria-label": `${place}: block`,
    input: choose(() => ({ block: Number(panel.slider.value) })), hidden: blocks.length < 2 });
  panel.view = chooser("show", place, choose(() => ({ view: panel.view.control.value })));
  panel.label = chooser("of", place, choose(() => ({ label: panel.label.control.value })));
  panel.canvas = queryCanvas(model.picture, () => panel.steps);
  panel.chart = element("div", { class: "chart" });
  panel.block = element("p", { class: "block" });
  panel.shown = element("figcaption");
  panel.legend = element("div", { class: "legends" });
  panel.words = element("p", { class: "words" });
  panel.about = element("p", { class: "about" });
  panel.choosers = element("div", { class: "choosers" }, panel.view.wrapper, panel.label.wrapper);
  panel.figure = element("figure", {}, panel.shown, panel.canvas, panel.chart, panel.legend);
  state.panels.push(panel);
  return panel;
}

function framed(panel) {
  const { model, name } = panel;
  return element("article", { class: "panel", "aria-label": `${model.model}, ${name}` },
    element("div", {}, element("h4", {}, model.model), panel.block, panel.slider),
    panel.choosers, panel.figure,
    element("div", { class: "texts" }, panel.words, panel.about));
}

function showControls(panel, { block, view, labels, label }) {
  panel.block.textContent = panel.title ?? blockInWords(block, panel.blocks);
  panel.slider.value = panel.blocks.indexOf(block);
  panel.slider.setAttribute("aria-valuetext", panel.block.textContent);
  offer(panel.view, block.views.map((other) => other.title), view.title);
  offer(panel.label, labels, labels[label]);
  panel.shown.textContent = labels.length > 1 ? `${view.title}: ${labels[label]}` : view.title;
  panel.about.textContent = view.about;
}

function drawPanel(panel) {
  const chosen = chosenOf(panel);
  const { block, view, labels, label } = chosen;
  if (!view) return;
  showControls(panel, chosen);
  const isChart = view.type === "curve";
  panel.canvas.hidden = isChart;
  panel.chart.hidden = !isChart;
  const drawn = DRAWINGS[view.type](panel, view, label, block);
  panel.words.textContent = `${capital(drawn.words)}.${drawn.note ? ` ${drawn.note}` : ""}`;
  panel.legend.replaceChildren(...drawn.legends);
  const name = `${panel.model.model}, ${panel.name}, ${panel.block.textContent}`;
  const what = `${view.title}${labels.length ? `, ${labels[label]}` : ""}`;
  const image = isChart ? panel.chart.querySelector("svg") : panel.canvas;
  image.setAttribute("aria-label", `${name}: ${what}. ${panel.words.textContent}`);
}

function capital(text) {
  return text.charAt(0).toUpperCase() + text.slice(1);
}

const DRAWINGS = {
  map(panel, view, label) {
    const map = slice(panel.model.numbers, view.values, label);
    const palette = view.signed ? "diverging" : "sequential";
    panel.steps = map.shape;
    const words = drawMap(panel.canvas.getContext("2d"), panel.model.grey, map,
      state.palettes[palette], state.settings);
    const name = view.labels.length > 1 && view.values.low.length === 1 ? "one scale for all" : "";
    return { words, legends: [scaleLegend({ palette, ...map, signed: view.signed, name })] };
  },
  query(panel, view, label, block) {
    const reading = attentionOf(panel, block, view);
    const stored = [view.queries.length, view.queries[0].length];
    panel.steps = state.live ? reading.attention.size : stored;
    const { words, legends } = drawAttention(panel.canvas.getContext("2d"), panel.model.grey,
      reading, label, state.palettes, state.settings);
    return { words, note: reading.note, legends: legends.map((legend) => legend.circles
      ? circleLegend(panel.canvas) : scaleLegend({ ...legend, share: true })) };
  },
  point(panel, view, label) {
    const values = (array) => slice(panel.model.numbers, array, label).values;
    const words = drawDisplacements(panel.canvas.getContext("2d"), panel.model.grey, {
      references: values(view.references), points: values(view.points), mass: values(view.mass) });
    return { words, legends: [circleLegend(panel.canvas)] };
  },
  curve(panel, view, label) {
    const chosen = view.labels.length > 1 ? label - 1 : 0;
    panel.chart.replaceChildren(chartOf(view, chosen));
    const legends = view.labels.length > 1 ? [curveLegend(view, chosen)] : [];
    return { words: curvesInWords(view, chosen), legends };
  },
};

/** Colours from the least to the greatest value, with numbers. */
function scaleLegend({ palette, low, high, signed, share, name }) {
  const write = share ? percent : (value) => within(value, low, high);
  const bar = element("canvas", {
    role: "img", class: "bar", width: 255, height: 1,
    "aria-label": `${name ? `${name}: ` : ""}colours from ${write(low)} to ${write(high)}` });
  const context = bar.getContext("2d");
  for (let step = 0; step < 255; step++) {
    context.fillStyle = cssColour(state.palettes[palette], step);
    context.fillRect(step, 0, 1, 1);
  }
  const middle = signed ? [element("span", { class: "zero" }, "0")] : [];
  return element("div", { class: "scale" }, element("span", { class: "part" }, name || ""),
    element("span", {}, write(low)), element("span", { class: "bars" }, bar, ...middle),
    element("span", {}, write(high)));
}

/** Circles of some shares, as large as those on the canvas. */
function circleLegend(canvas) {
  const shares = [0.01, 0.05, 0.2];
  const height = 2 * radiusOf(shares.at(-1), canvas) + 6;
  const legend = svg("svg", {
    viewBox: `0 0 ${canvas.width} ${height}`, role: "img", class: "circles",
    "aria-label": "areas of circles of 1, 5 and 20 per cent of the attention" });
  let x = 4;
  for (const share of shares) {
    const radius = radiusOf(share, canvas);
    const text = svg("text", { x: x + 2 * radius + 6, y: height / 2 + 6 }, percent(share));
    legend.append(svg("circle", { cx: x + radius, cy: height / 2, r: radius }), text);
    x += 2 * radius + 78;
  }
  return legend;
}

// ------------------------------------------------------------------ a model's card

function buildCard(model) {
  const [height, width] = model.inputSize;
  return element("article", { class: "panel card", "aria-label": model.model },
    element("div", {}, element("h4", {}, model.model), element("p", { class: "about" },
      `${capital(model.source)}; input of ${height} × ${width} pixels.`)),
    element("div", {}, ...bannersOf(model)),
    element("div", { class: "pair" }, buildPicture(model), ...activationOf(model)),
    buildScores(model));
}

function bannersOf(model) {
  const untrained = element("p", { class: "untrained" }, "Untrained: what follows is noise.");
  const note = element("p", { class: "note" }, model.note ?? "");
  return [...(model.isTrained ? [] : [untrained]), ...(model.note ? [note] : [])];
}

function buildPicture(model) {
  const canvas = queryCanvas(model.picture, () => [20, 20]);
  state.panels.push({ picture: model, canvas });
  return element("figure", {}, canvas, element("figcaption", {}, "what the model saw"));
}

function drawPicture({ picture: model, canvas }) {
  const context = canvas.getContext("2d");
  context.drawImage(model.picture, 0, 0, canvas.width, canvas.height);
  drawCross(context, state.settings.y, state.settings.x);
  canvas.setAttribute("aria-label", `What ${model.model} saw; the query is ${queryInWords()}.`);
}

/** The class activation map, as a panel of its own without a slider. */
function activationOf(model) {
  if (!model.activation) return [];
  const block = { path: "", stage: -1, block: 0, kind: "", views: [model.activation] };
  const panel = buildPanel(model, "overview", `${model.index} activation`, [block]);
  panel.title = "class activation map";
  return [element("div", {}, panel.figure, panel.choosers, panel.words)];
}

function buildScores(model) {
  if (model.scores.length === 0) return element("p", { class: "about" }, "No classifier.");
  const items = model.scores.slice(0, 5).map(([name, probability]) => {
    const bar = element("span", { class: "fill", "aria-hidden": "true" });
    bar.style.width = `${100 * probability}%`;
    return element("li", {}, bar, element("span", { class: "name" }, name),
      element("span", { class: "percent" }, percent(probability)));
  });
  const label = `likeliest classes of ${model.model}`;
  return element("ol", { class: "scores", "aria-label": label }, ...items);
}

// ------------------------------------------------------------------ the whole

function buildRow(title, cells) {
  return element("section", { class: "row", "aria-label": title }, element("h3", {}, title),
    element("div", { class: "cells" }, ...cells));
}

function buildStage(stage, models) {
  const name = `stage ${stage + 1}`;
  return buildRow(capital(name), models.map((model) => {
    const blocks = model.blocks.filter((block) => block.stage === stage && block.views.length);
    if (blocks.length) return framed(buildPanel(model, name, `${model.index} ${stage}`, blocks));
    return element("article", { class: "panel empty", "aria-label": `${model.model}, ${name}` },
      element("h4", {}, model.model), element("p", { class: "about" }, "Nothing to be read here."));
  }));
}

async function showImage(index) {
  state.image = index;
  const image = state.content.images[index];
  const place = document.getElementById("image");
  place.setAttribute("aria-busy", "true");
  const models = await Promise.all(image.models.map(loadModel));
  if (state.image !== index) return;
  state.panels = [];
  const stages = new Set(models.flatMap((model) => model.blocks.map((block) => block.stage)));
  const rows = [buildRow("Overview", models.map(buildCard)),
    ...[...stages].sort((a, b) => a - b).map((stage) => buildStage(stage, models))];
  const columns = element("div", {
    class: models.length === 1 ? "models single" : "models", tabindex: "0", role: "region",
    "aria-label": "models side by side" }, ...rows);
  columns.style.setProperty("--models", models.length);
  place.replaceChildren(element("h2", {}, image.name),
    ...image.notices.map((notice) => element("p", { class: "notice" }, notice)), columns);
  drawAll();
  place.setAttribute("aria-busy", "false");
}

function drawAll() {
  state.planned = false;
  state.panels.forEach((panel) => (panel.picture ? drawPicture(panel) : drawPanel(panel)));
  const where = document.getElementById("where");
  if (where.textContent !== queryInWords()) where.textContent = queryInWords();
}

/** Draw before the next frame, however many changes there are till then. */
function plan() {
  if (state.planned) return;
  state.planned = true;
  requestAnimationFrame(drawAll);
}

function buildImageChooser() {
  const { images, pictures } = state.content;
  const choices = images.map((image, index) => element("label", {},
    element("input", {
      type: "radio", name: "image", value: index, checked: index === 0,
      change: () => showImage(index) }),
    element("img", { src: pictures[image.models[0].picture], alt: "" }),
    element("span", {}, image.name)));
  return element("fieldset", { class: "images", hidden: images.length < 2 },
    element("legend", {}, "Image"), ...choices);
}

function buildControls() {
  const { settings } = state;
  const opacity = element("input", {
    type: "range", min: 0, max: 100, value: 100 * settings.opacity,
    "aria-label": "opacity of the colours",
    input: () => { settings.opacity = Number(opacity.value) / 100; plan(); } });
  const smooth = element("input", {
    type: "checkbox", checked: settings.smooth,
    change: () => { settings.smooth = smooth.checked; plan(); } });
  return element("div", { class: "controls", role: "group", "aria-label": "all panels" },
    element("label", {}, "colours ", opacity), element("label", {}, smooth, " smooth"),
    element("span", {}, "query: ", element("span", { id: "where", role: "status" })),
    element("button", { type: "button", click: () => moveTo(0.5, 0.5) }, "to the middle"));
}

async function start() {
  const root = document.getElementById("explanation");
  if (typeof DecompressionStream === "undefined") {
    say("This browser is too old for this page: it cannot decompress data (DecompressionStream). "
      + "Firefox 113, Chrome 80, Safari 16.4 and newer can.");
    return;
  }
  state.content = JSON.parse(embedded("content"));
  state.palettes = palettesFrom(state.content.palettes);
  state.live = state.content.live && location.protocol.startsWith("http");
  root.append(buildImageChooser(), buildControls(), element("div", { id: "image" }));
  await showImage(0);
  root.setAttribute("aria-busy", "false");
}

start().catch((error) => {
  say(`The page cannot be drawn: ${error.message}`);
  throw error;
});
