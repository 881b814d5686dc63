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
  return `${Math.round(100 * y)} % down, ${Math.round(100 * x)} % across`;
}

// Pictures in the overview stand two beside each other.
const SMALL_SIDE = 280;

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
  const title = model.which ? `${model.model}, ${model.which}` : model.model;
  return { ...model, title, ...header, ...pixels, numbers, index };
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
  if (event.currentTarget.classList.contains("apart")) return;
  const box = event.currentTarget.getBoundingClientRect();
  moveTo((event.clientY - box.top) / box.height, (event.clientX - box.left) / box.width);
}

const ARROWS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

/** One cell further, to its middle; the other direction stays where it is. */
function pressed(event, [rows, columns]) {
  const step = ARROWS[event.key];
  if (event.currentTarget.classList.contains("apart")) return;
  if (!step || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  const { y, x } = state.settings;
  const next = (value, by, count) =>
    by ? (clamp(part(value, count) + by, 0, count - 1) + 0.5) / count : value;
  moveTo(next(y, step[0], rows), next(x, step[1], columns));
}

/** A canvas of a picture: click and arrow keys move the query. */
function queryCanvas(picture, steps, side) {
  const canvas = element("canvas", {
    role: "img", tabindex: "0", click: clicked, keydown: (event) => pressed(event, steps()) });
  fit(canvas, picture, side);
  return canvas;
}

// ------------------------------------------------------------------ panels

/** A panel for some blocks of a model, with sliders over them and over heads or levels. */
function buildPanel(model, name, key, blocks) {
  const panel = { model, name, blocks, choice: choiceOf(key, blocks), steps: [20, 20], kept: {} };
  const choose = (change) => () => {
    Object.assign(panel.choice, change());
    plan();
  };
  const place = `${model.title}, ${name}`;
  panel.slider = element("input", {
    type: "range", min: 0, max: blocks.length - 1, "aria-label": `${place}: block`,
    input: choose(() => ({ block: Number(panel.slider.value) })), hidden: blocks.length < 2 });
  panel.view = chooser("show", place, choose(() => ({ view: panel.view.control.value })));
  panel.label = chooser("of", place, choose(() => ({ label: panel.label.control.value })));
  panel.sweep = element("input", {
    type: "range", min: 0, class: "sweep", "aria-label": `${place}: of which`,
    input: choose(() => ({ label: chosenOf(panel).labels[Number(panel.sweep.value)] })) });
  panel.canvas = queryCanvas(model.picture, () => panel.steps);
  panel.chart = element("div", { class: "chart" });
  panel.block = element("p", { class: "block" });
  panel.shown = element("p", { class: "shown" });
  panel.legend = element("div", { class: "legends" });
  panel.words = element("p", { class: "words" });
  panel.about = element("p", { class: "about" });
  panel.choosers = element("div", { class: "choosers" },
    panel.shown, panel.view.wrapper, panel.label.wrapper, panel.sweep);
  panel.figure = element("figure", {}, panel.canvas, panel.chart, panel.legend);
  state.panels.push(panel);
  return panel;
}

/** The model's name, and what tells it from another of that name. */
function named(model, ...more) {
  const which = model.which ? [" ", element("span", { class: "which" }, model.which)] : [];
  return element("h4", {}, model.model, ...more, ...which);
}

/** As `named`; wherever its readings are seen, whether they are noise. */
function heading(model) {
  const tag = model.isTrained ? [] : [" ", element("span", { class: "tag" }, "untrained")];
  return named(model, ...tag);
}

function framed(panel) {
  const { model, name } = panel;
  // A sheet of paper need not begin with the stage's name.
  const where = element("p", { class: "for-print" }, capital(name));
  return element("article", { class: "panel", "aria-label": `${model.title}, ${name}` },
    element("div", {}, heading(model), where, panel.block, panel.slider),
    panel.choosers, panel.figure,
    element("div", { class: "texts" }, panel.words, panel.about));
}

function showControls(panel, { block, view, labels, label }) {
  panel.block.textContent = panel.title ?? blockInWords(block, panel.blocks);
  panel.block.hidden = !panel.block.textContent;
  panel.slider.value = panel.blocks.indexOf(block);
  panel.slider.setAttribute("aria-valuetext", panel.block.textContent);
  offer(panel.view, block.views.map((other) => other.title), view.title);
  offer(panel.label, labels, labels[label]);
  panel.sweep.hidden = labels.length < 2;
  panel.sweep.max = Math.max(labels.length - 1, 0);
  panel.sweep.value = label;
  panel.sweep.setAttribute("aria-valuetext", labels[label] ?? "");
  panel.shown.classList.toggle("for-print", block.views.length > 1);
  // The view has to be named where there is nothing to choose; on paper, all that was chosen.
  const chosen = labels.length > 1 ? element("span", {}, `: ${labels[label]}`) : "";
  panel.shown.replaceChildren(view.title, chosen);
  panel.about.textContent = view.about;
}

function drawPanel(panel) {
  const chosen = chosenOf(panel);
  const { block, view, labels, label } = chosen;
  if (!view) return;
  showControls(panel, chosen);
  const isChart = view.type === "curve";
  panel.canvas.hidden = isChart;
  // What is not of the image has no place for a query.
  panel.canvas.classList.toggle("apart", view.overImage === false);
  panel.chart.hidden = !isChart;
  const drawn = DRAWINGS[view.type](panel, view, label, block);
  panel.words.textContent = `${capital(drawn.words)}.${drawn.note ? ` ${drawn.note}` : ""}`;
  panel.legend.replaceChildren(...drawn.legends);
  const parts = [panel.model.title, panel.name, panel.block.textContent];
  const name = parts.filter((text) => text).join(", ");
  const what = `${view.title}${labels[label] ? `, ${labels[label]}` : ""}`;
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
    const [context, colours] = [panel.canvas.getContext("2d"), state.palettes[palette]];
    const words = view.overImage
      ? drawMap(context, panel.kept, panel.model.grey, map, colours, state.settings)
      : drawApart(context, panel.kept, map, colours);
    const name = view.labels.length > 1 && view.values.low.length === 1 ? "one scale for all" : "";
    return { words, legends: [scaleLegend({ palette, ...map, signed: view.signed, name })] };
  },
  query(panel, view, label, block) {
    const reading = attentionOf(panel, block, view);
    const stored = [view.queries.length, view.queries[0].length];
    panel.steps = state.live ? reading.attention.size : stored;
    const { words, legends } = drawAttention(panel.canvas.getContext("2d"), panel.kept,
      panel.model.grey, reading, label, state.palettes, state.settings);
    return { words, note: reading.note, legends: legends.map((legend) => legend.points
      ? circleLegend(legend.points, panel.canvas) : scaleLegend({ ...legend, share: true })) };
  },
  point(panel, view, label) {
    const values = (array) => slice(panel.model.numbers, array, label).values;
    const mass = values(view.mass);
    const words = drawDisplacements(panel.canvas.getContext("2d"), panel.model.grey, {
      references: values(view.references), points: values(view.points), mass });
    return { words, legends: [circleLegend(mass.length, panel.canvas)] };
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

/** Circles of some shares, as large as those of `count` points on the canvas. */
function circleLegend(count, canvas) {
  const shares = [1, 4, 16].map((times) => Math.min(1, +(times / count).toPrecision(1)));
  const radii = shares.map((share) => radiusOf(share, count, canvas));
  const height = 2 * radii.at(-1) + 6;
  const legend = svg("svg", {
    viewBox: `0 0 ${canvas.width} ${height}`, role: "img", class: "circles",
    "aria-label": `areas of the circles of ${shares.map(percent).join(", ")} of the attention` });
  let x = 4;
  radii.forEach((radius, i) => {
    const text = svg("text", { x: x + 2 * radius + 6, y: height / 2 + 6 }, percent(shares[i]));
    legend.append(svg("circle", { cx: x + radius, cy: height / 2, r: radius }), text);
    x += 2 * radius + 84;
  });
  return legend;
}

// ------------------------------------------------------------------ a model's card

function buildCard(model) {
  const [height, width] = model.inputSize;
  // The path of a file as it was given.
  const source = model.isTrained ? `Weights: ${model.weights}` : "Random weights";
  const apart = model.which === model.weights ? "" : model.which;
  return element("article", { class: "panel card", "aria-label": model.title },
    element("div", {}, named({ ...model, which: apart }), element("p", { class: "about" },
      `${source}; input of ${height}\u00a0×\u00a0${width} pixels.`)),
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
  const canvas = queryCanvas(model.picture, () => [20, 20], SMALL_SIDE);
  state.panels.push({ picture: model, canvas });
  return element("figure", {}, canvas, element("figcaption", {}, "input"));
}

function drawPicture({ picture: model, canvas }) {
  const context = canvas.getContext("2d");
  drawUnder(context, model.picture);
  drawCross(context, state.settings.y, state.settings.x);
  canvas.setAttribute("aria-label", `What ${model.title} saw; the query is ${queryInWords()}.`);
}

/** The class activation map, as a panel of its own without a slider. */
function activationOf(model) {
  if (!model.activation) return [];
  const block = { path: "", stage: -1, block: 0, kind: "", views: [model.activation] };
  const panel = buildPanel(model, "overview", `${model.index} activation`, [block]);
  panel.title = "class activation map";
  fit(panel.canvas, model.picture, SMALL_SIDE);
  const { title, labels } = model.activation;
  const caption = labels[0] ? `${title}: ${labels[0]}` : title;
  panel.figure.append(element("figcaption", {}, caption));
  return [panel.figure];
}

function buildScores(model) {
  if (model.scores.length === 0) return element("p", { class: "about" }, "No classifier.");
  const items = model.scores.map(([name, probability]) => {
    const bar = element("span", { class: "fill", "aria-hidden": "true" });
    bar.style.width = `${100 * probability}%`;
    return element("li", {}, bar, element("span", { class: "name" }, name),
      element("span", { class: "percent" }, percent(probability)));
  });
  const label = `likeliest classes of ${model.title}`;
  return element("ol", { class: "scores", "aria-label": label }, ...items);
}

// ------------------------------------------------------------------ the whole

function buildRow(title, cells) {
  return element("section", { class: "row", "aria-label": title }, element("h3", {}, title),
    element("div", { class: "cells" }, ...cells));
}

function buildStage(stage, models) {
  const name = stage < 0 ? "elsewhere" : `stage ${stage + 1}`;
  return buildRow(capital(name), models.map((model) => {
    const blocks = model.blocks.filter((block) => block.stage === stage && block.views.length);
    if (blocks.length) return framed(buildPanel(model, name, `${model.index} ${stage}`, blocks));
    return nothing(model, name);
  }));
}

/** What there is of whole networks: a row of panels without sliders, or none. */
function buildWhole(models) {
  const name = "the whole network";
  if (!models.some((model) => model.views.length)) return [];
  return [buildRow(capital(name), models.map((model) => {
    if (model.views.length === 0) return nothing(model, name);
    const block = { path: "", stage: -1, block: 0, kind: "", views: model.views };
    const panel = buildPanel(model, name, `${model.index} whole`, [block]);
    panel.title = "";
    return framed(panel);
  }))];
}

function nothing(model, name) {
  return element("article", { class: "panel empty", "aria-label": `${model.title}, ${name}` },
    named(model), element("p", { class: "about" }, "Nothing to be read here."));
}

async function showImage(index) {
  state.image = index;
  const image = state.content.images[index];
  const place = document.getElementById("image");
  place.setAttribute("aria-busy", "true");
  const models = await Promise.all(image.models.map(loadModel));
  if (state.image !== index) return;
  state.panels = [];
  const found = new Set(models.flatMap((model) => model.blocks.map((block) => block.stage)));
  // Mixers outside of stages, of stage −1, come last.
  const stages = [...found].sort((a, b) => (a < 0) - (b < 0) || a - b);
  const rows = [buildRow("Overview", models.map(buildCard)), ...buildWhole(models),
    ...stages.map((stage) => buildStage(stage, models))];
  const columns = element("div", {
    class: models.length === 1 ? "models single" : "models", tabindex: "0", role: "region",
    "aria-label": "models side by side" }, ...rows);
  columns.style.setProperty("--models", models.length);
  // On paper, more than these would be too narrow to be seen.
  columns.style.setProperty("--on-paper", Math.min(models.length, 3));
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
  if (state.content.live && location.protocol.startsWith("http")) goLive();
  root.append(buildImageChooser(), buildControls(), element("div", { id: "image" }));
  await showImage(0);
  root.setAttribute("aria-busy", "false");
}

start().catch((error) => {
  say(`The page cannot be drawn: ${error.message}`);
  throw error;
});
