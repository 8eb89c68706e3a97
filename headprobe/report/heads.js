// The heatmap of a run and the card of one head.

let brushed = [];

const headsMap = new Heatmap({
  label: "Scores by layer and head. Arrow keys move, with shift they choose heads, Escape drops the choice.",
  pick: (layer, column) => update({ layer, head: state.kv ? column * groupSize() : column }),
  brush: (chosen) => {
    brushed = chosen;
    renderBrush();
  },
  hint: (layer, column) => headLines(layer, state.kv ? column * groupSize() : column),
});

// The mean over each group of query heads, a column a KV head.
function grouped(values, size) {
  return values.map((row) => Array.from({ length: row.length / size }, (_, group) =>
    row.slice(group * size, (group + 1) * size).reduce((sum, value) => sum + value, 0) / size));
}

// Ranks of a matrix of means: 1 for the highest.
function ranksOf(values) {
  const order = values.flatMap((row, layer) => row.map((value, column) => [value, layer, column])).sort((a, b) => b[0] - a[0]);
  const ranks = values.map((row) => row.map(() => 0));
  order.forEach(([, layer, column], place) => { ranks[layer][column] = place + 1; });
  return ranks;
}

function shownValues(of, its) {
  const scores = state.kv ? grouped(its.score, groupSize(of)) : its.score;
  if (state.scale === "rank") return state.kv ? ranksOf(scores) : its.rank;
  return scores;
}

function entriesOf(budget, layer, head, context) {
  const column = budget.granularity === "kv" ? Math.floor(head / (budget.model.heads / budget.model.kv_heads)) : head;
  const ratio = budget.ratio ? Math.ceil(Math.round(budget.ratio[layer][column] * context * 1e6) / 1e6) : 0;
  return Math.min(context, Math.max(budget.tokens[layer][column], ratio));
}

// The budgets of a model, smallest first.
const budgetsOf = (model) => record.budgets.filter((budget) => modelKey(budget.model) === modelKey(model)).sort((a, b) => a.kept[1].tokens - b.kept[1].tokens);

function budgetLabel(budget) {
  const { name, budget: size, ...options } = budget.strategy;
  const own = size ?? (options.sparsity !== undefined ? `sparsity ${options.sparsity}` : options.top_k !== undefined ? `top ${options.top_k}` : "");
  return `${name} ${own}`.trim();
}

// What hovering over a head, or moving to it, says.
function headLines(layer, head) {
  const [of, its] = [run(), measure()];
  const size = groupSize(of);
  const group = Math.floor(head / size);
  const lines = [state.kv && size > 1 ? `Layer ${layer}, KV head ${group}` : `Layer ${layer}, head ${head}`];
  if (state.kv && size > 1) lines.push(`mean ${its.name} ${number(grouped(its.score, size)[layer][group])}`, `query heads ${group * size} to ${group * size + size - 1}`);
  else {
    lines.push(`${its.name} ${number(its.score[layer][head])} (${number(its.ci_low[layer][head])} to ${number(its.ci_high[layer][head])})`);
    lines.push(`rank ${whole(its.rank[layer][head])} of ${whole(of.model.layers * of.model.heads)}${size > 1 ? `, KV head ${group}` : ""}`);
  }
  const budget = currentBudget();
  if (budget && modelKey(budget.model) === modelKey(of.model)) lines.push(`${budgetLabel(budget)}: ${whole(entriesOf(budget, layer, head, 32768))} entries of 32k`);
  return lines;
}

function toolbar(of) {
  const its = measure();
  return make("div", { class: "toolbar" },
    record.runs.length > 1 && select("Run", record.runs.map((one, i) => [i, runLabel(one)]), state.run, (value) => changeRun(Number(value))),
    select("Measure", of.measures.map((one, i) => [i, one.name]), of.measures.indexOf(its), (value) => update({ measure: Number(value) })),
    groupSize(of) > 1 && choice("Heads", [[false, "Query heads"], [true, "KV heads", "The mean over the query heads of each KV head"]], state.kv, (kv) => update({ kv })),
    choice("Scale", [["value", "Value"], ["rank", "Rank"]], state.scale, (scale) => update({ scale })),
    choice("Colours", [["viridis", "Viridis"], ["cividis", "Cividis"]], state.map, (map) => update({ map })));
}

// Another run keeps the measure and the head where it has them.
function changeRun(place) {
  const name = measure().name;
  const of = record.runs[place];
  const found = of.measures.findIndex((its) => its.name === name);
  const same = modelKey(of.model) === modelKey(run().model);
  const [layer, head] = same ? [state.layer, state.head] : topHead(of.measures[Math.max(0, found)]);
  update({ run: place, measure: Math.max(0, found), layer, head, case: null });
}

function renderHeads() {
  const panel = $("view-heads");
  const of = run();
  if (!of) return fill(panel, make("p", { class: "card" }, "No run is in this report."));
  if (!panel.childElementCount) {
    panel.append(make("div", { class: "columns" },
      make("div", { class: "stack" },
        make("div", { class: "card" }, make("div", { id: "heads-tools" }), make("div", { class: "frame" }, headsMap.canvas), make("div", { id: "heads-legend" }), make("div", { id: "brush" })),
        make("div", { class: "card", id: "top-heads" })),
      make("article", { class: "card", id: "head-card", "aria-label": "The chosen head" })));
  }
  const its = measure();
  refill($("heads-tools"), toolbar(of), make("p", { class: "note" }, its.summary ? `${its.name}: ${its.summary}` : its.name));
  const values = shownValues(of, its);
  const scale = scaleOf(values, { map: state.map, byRank: state.scale === "rank" });
  const size = groupSize(of);
  headsMap.draw({
    values, scale, group: state.kv ? 1 : size, write: state.scale === "rank" ? whole : evenly(values),
    cursor: [state.layer, state.kv ? Math.floor(state.head / size) : state.head],
  });
  const what = state.scale === "rank" ? `rank by ${its.name}` : `mean ${its.name} score`;
  fill($("heads-legend"), legend(scale, what), make("p", { class: "note" }, `Rows are layers, 0 next to the input; columns are ${state.kv ? "KV heads" : `query heads${size > 1 ? `, ${size} to a KV head` : ""}`}. Drag, or shift and arrows, to choose heads.`));
  renderBrush();
  renderCard(of, its);
  renderTop(of, its);
}

function renderBrush() {
  const box = $("brush");
  if (!box) return;
  headsMap.chosen = brushed;
  headsMap.paint();
  if (!brushed.length) return fill(box);
  const names = brushed.map(([layer, column]) => headName(layer, column)).join(", ");
  const pairs = JSON.stringify(brushed);
  refill(box, make("div", { class: "brush" },
    make("b", {}, plural(brushed.length, state.kv ? "KV head" : "head")),
    make("code", {}, names),
    make("button", { type: "button", onclick: () => copy(names), "data-key": "copy" }, "Copy list"),
    make("button", { type: "button", onclick: () => copy(pairs), "data-key": "copy json" }, "Copy as JSON")));
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // A page that was opened from a file may not reach the clipboard: the older way.
    const area = make("textarea", { class: "unseen" });
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  say("Copied.");
  const box = $("brush").firstElementChild;
  box?.classList.add("copied");
  setTimeout(() => box?.classList.remove("copied"), 900);
}

function renderCard(of, its) {
  const { layer, head } = state;
  const count = of.model.layers * of.model.heads;
  const rank = its.rank[layer][head];
  const size = groupSize(of);
  const group = Math.floor(head / size);
  const step = (to, text, label) => make("button", { type: "button", disabled: to < 1 || to > count, "aria-label": label, title: label, "data-key": label, onclick: () => goToRank(its, to) }, text);
  refill($("head-card"),
    make("div", { class: "heading" },
      make("h2", {}, `Layer ${layer}, head ${head}`),
      make("div", { class: "choice" }, step(rank - 1, "↑", "The head one rank higher"), step(rank + 1, "↓", "The head one rank lower"))),
    size > 1 && make("p", { class: "note" }, `KV head ${group}, shared by query heads ${group * size} to ${group * size + size - 1}`),
    make("p", { class: "figure" }, make("b", {}, number(its.score[layer][head])), ` ${its.name}, rank ${whole(rank)} of ${whole(count)}`),
    intervalBar(its, layer, head),
    make("p", { class: "note" }, `95 % interval over needles: ${number(its.ci_low[layer][head])} to ${number(its.ci_high[layer][head])}`),
    make("h3", {}, "By every measure"),
    table("Rank of this head by every measure", ["measure", "score", "rank", ""], of.measures.map((one) => row([
      one === its ? make("b", {}, one.name) : make("button", { type: "button", class: "link", "data-key": `measure ${one.name}`, onclick: () => update({ measure: of.measures.indexOf(one) }) }, one.name),
      number(one.score[layer][head]), whole(one.rank[layer][head]), rankBar(one.rank[layer][head], count),
    ]))),
    make("div", { id: "head-cases" }),
    budgetLines(of, layer, head));
  renderHeadCases(of, its, layer, head);
}

function goToRank(its, rank) {
  const layer = its.rank.findIndex((ranks) => ranks.includes(rank));
  if (layer >= 0) update({ layer, head: its.rank[layer].indexOf(rank) });
}

function rankBar(rank, count) {
  const width = 100 * (1 - Math.log(rank) / Math.log(Math.max(2, count)));
  return make("td", {}, shape("svg", { class: "meter", viewBox: "0 0 100 8", preserveAspectRatio: "none", "aria-hidden": "true" },
    shape("rect", { width: 100, height: 8, class: "faint" }), shape("rect", { width: Math.max(1, width), height: 8, class: "accent" })));
}

// The score with its interval, among the scores of all heads.
function intervalBar(its, layer, head) {
  const all = its.score.flat();
  const [least, most] = [Math.min(0, ...all, its.ci_low[layer][head]), Math.max(...all, its.ci_high[layer][head])];
  const x = (value) => 2 + 296 * ((value - least) / (most - least || 1));
  const [low, score, high] = [its.ci_low[layer][head], its.score[layer][head], its.ci_high[layer][head]].map(x);
  return shape("svg", { class: "interval", viewBox: "0 0 300 26", role: "img", "aria-label": "The score with its interval, among all heads" },
    all.map((value) => shape("line", { x1: x(value), x2: x(value), y1: 16, y2: 24, class: "tick" })),
    shape("line", { x1: low, x2: high, y1: 8, y2: 8, class: "reach" }),
    shape("circle", { cx: score, cy: 8, r: 5, class: "dot" }));
}

async function renderHeadCases(of, its, layer, head) {
  if (!its.details || !of.table) {
    fill($("head-cases"), make("p", { class: "note" }, of.asks && record.left_out.length ? "The cases of this measure were left out to keep the file small." : "No table of cases lies beside these scores."));
    return;
  }
  const { details } = its;
  const [cases, grid, extremes, values] = await Promise.all([of.table, details.grid, details.extremes, details.values].map(unpack));
  if (layer !== state.layer || head !== state.head || its !== measure()) return;
  const [rows, columns] = [cases.depths.length, cases.lengths.length];
  const place = layer * of.model.heads + head;
  const [low, high] = [details.low[layer][head], details.high[layer][head]];
  const cells = cases.depths.map((_, i) => cases.lengths.map((__, j) => {
    const code = grid[(place * rows + i) * columns + j];
    return code ? low + ((code - 1) / 254) * (high - low) : null;
  }));
  const kept = Math.min(3, of.accepted);
  const list = (side) => Array.from({ length: kept }, (_, i) => {
    const at = (place * 2 + side) * kept + i;
    const value = details.values_low + (values[at] / 65535) * (details.values_high - details.values_low);
    return caseLine(of, cases, extremes[at], value);
  });
  refill($("head-cases"), make("h3", {}, "By length and depth"), gridPicture(cases, cells, its),
    make("div", { class: "pair" },
      make("div", {}, make("h3", {}, "Strongest cases"), make("ol", { class: "plain" }, list(0))),
      make("div", {}, make("h3", {}, "Weakest cases"), make("ol", { class: "plain" }, list(1)))));
}

function caseLine(of, cases, place, value) {
  const id = cases.case_id[place];
  return make("li", {}, make("button", { type: "button", class: "link", "data-key": `case ${id} ${value}`, onclick: () => update({ case: id, view: "cases" }) }, `case ${id}`),
    make("span", { class: "note" }, ` ${number(value)}, ${whole(cases.length[place])} tokens, ${Math.round(cases.depth[place])} % deep`));
}

function gridPicture(cases, cells, its) {
  const scale = scaleOf(cells.map((line) => line.filter((value) => value !== null)), { map: state.map });
  const [width, height] = [Math.min(50, 250 / cases.lengths.length), 13];
  const [left, top] = [44, 4];
  const [across, down] = [left + width * cases.lengths.length, top + height * cases.depths.length];
  const every = Math.max(1, Math.ceil(cases.depths.length / 6));
  const shapes = cells.flatMap((line, i) => line.map((value, j) => shape("rect", {
    x: left + j * width, y: top + i * height, width: width - 1, height: height - 1,
    fill: value === null ? "none" : css(colourAt(scale.map, placeOn(scale, value))), class: value === null ? "missing" : null,
  }, shape("title", {}, `${whole(cases.lengths[j])} tokens, ${cases.depths[i].toFixed(0)} % deep: ${value === null ? "no case" : number(value)}`))));
  const text = (x, y, anchor, label) => shape("text", { x, y, "text-anchor": anchor }, label);
  return shape("svg", { class: "grid", viewBox: `0 0 300 ${down + 30}`, role: "img", "aria-label": `Mean ${its.name} of this head by prompt length and needle depth` }, shapes,
    cases.depths.map((depth, i) => (i % every ? null : text(left - 5, top + (i + 0.75) * height, "end", `${depth.toFixed(0)} %`))),
    text(left, down + 12, "start", whole(cases.lengths[0])), cases.lengths.length > 1 && text(across, down + 12, "end", whole(cases.lengths.at(-1))),
    text(left, down + 24, "start", "prompt length (tokens)"));
}

function budgetLines(of, layer, head) {
  const budgets = budgetsOf(of.model);
  if (!budgets.length) return null;
  return make("details", { open: true }, make("summary", {}, "What each budget gives it"),
    table("Entries that each budget gives this head", ["budget", "of 4k", "of 32k", "of 128k"], budgets.map((budget) => row([
      make("button", { type: "button", class: "link", "data-key": `budget ${record.budgets.indexOf(budget)}`, onclick: () => update({ budget: record.budgets.indexOf(budget), view: "budgets" }) }, budgetLabel(budget)),
      ...[4096, 32768, 131072].map((context) => whole(entriesOf(budget, layer, head, context))),
    ]))));
}

function renderTop(of, its) {
  const count = Math.min(12, of.model.layers * of.model.heads);
  const best = Array.from({ length: count }, (_, i) => {
    const layer = its.rank.findIndex((ranks) => ranks.includes(i + 1));
    return [layer, its.rank[layer].indexOf(i + 1)];
  });
  refill($("top-heads"), make("h2", {}, `Top ${count} heads by ${its.name}`), reliabilityNote(its),
    make("ol", { class: "tops" }, best.map(([layer, head]) => make("li", {}, make("button", {
      type: "button", "aria-pressed": String(layer === state.layer && head === state.head), "data-key": `top ${layer} ${head}`, onclick: () => update({ layer, head }),
    }, make("b", {}, headName(layer, head)), ` ${number(its.score[layer][head])}`)))));
}

function reliabilityNote(its) {
  const { rank_correlation: found, needles } = its.reliability;
  return make("p", { class: "note" }, found
    ? `Halves of the ${whole(needles)} needles rank the heads alike: ${number(found.value)} (${number(found.ci_low)} to ${number(found.ci_high)}).`
    : `How firm the ranking is, is unknown: accepted cases have ${plural(needles, "needle")}.`);
}
