// One query from a live server, and the nearest stored one without.

/** Panels ask while they are on the screen: again once scrolling has come to rest. */
function goLive() {
  state.live = true;
  const rested = () => {
    clearTimeout(state.scrolled);
    state.scrolled = setTimeout(plan, 200);
  };
  document.addEventListener("scroll", rested, { capture: true, passive: true });
  window.addEventListener("resize", rested);
}

function isOnScreen(canvas) {
  const box = canvas.getBoundingClientRect();
  const within = (low, high, size) => high > 0 && low < size;
  return within(box.top, box.bottom, innerHeight) && within(box.left, box.right, innerWidth);
}

/** The query nearest to the chosen place that the page has; from a live server, that very one. */
function attentionOf(panel, block, view) {
  const { y, x } = state.settings;
  const rows = view.queries.length;
  const attention = view.queries[part(y, rows)][part(x, view.queries[0].length)];
  const [row, column] = attention.query;
  const isThat = row === part(y, attention.size[0]) && column === part(x, attention.size[1]);
  const note = isThat ? "" : `Nearest of ${rows} × ${view.queries[0].length} stored queries.`;
  const nearest = { attention, numbers: panel.model.numbers, note };
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

/** Ask the server once the query has come to rest, for what is seen and not asked for yet. */
function ask(panel, asked) {
  if (panel.asked === asked || !isOnScreen(panel.canvas)) return;
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
