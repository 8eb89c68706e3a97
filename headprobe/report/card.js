// The card of the chosen head: its score, ranks, cases, and what budgets give it.

function renderCard(of, its) {
  const { layer, head } = state;
  const count = of.model.layers * of.model.heads;
  const rank = its.rank[layer][head];
  const size = groupSize(of);
  const group = Math.floor(head / size);
  const step = (to, text, label) =>
    make(
      "button",
      { disabled: to < 1 || to > count, "aria-label": label, title: label, onclick: () => goToRank(its, to) },
      text,
    );
  refill(
    $("head-card"),
    make(
      "div.heading",
      make("h2", `Layer ${layer}, head ${head}`),
      make(
        "div.choice",
        step(rank - 1, "↑", "The head one rank higher"),
        step(rank + 1, "↓", "The head one rank lower"),
      ),
    ),
    size > 1 && make("p.note", `KV head ${group}, shared by query heads ${group * size} to ${group * size + size - 1}`),
    make("p.figure", make("b", number(its.score[layer][head])), ` ${its.name}, rank ${whole(rank)} of ${whole(count)}`),
    intervalBar(its, layer, head),
    make(
      "p.note",
      `95 % interval over needles: ${number(its.ci_low[layer][head])} to ${number(its.ci_high[layer][head])}`,
    ),
    make("h3", "By every measure"),
    table(
      "Rank of this head by every measure",
      ["measure", "score", "rank", ""],
      of.measures.map((one) =>
        row([
          one === its
            ? make("b", one.name)
            : make("button", { class: "link", onclick: () => update({ measure: of.measures.indexOf(one) }) }, one.name),
          number(one.score[layer][head]),
          whole(one.rank[layer][head]),
          rankBar(one.rank[layer][head], count),
        ]),
      ),
    ),
    make("div", { id: "head-cases" }),
    budgetLines(of, layer, head),
  );
  renderHeadCases(of, its, layer, head);
}

function goToRank(its, rank) {
  const layer = its.rank.findIndex((ranks) => ranks.includes(rank));
  if (layer >= 0) update({ layer, head: its.rank[layer].indexOf(rank) });
}

function rankBar(rank, count) {
  const width = 100 * (1 - Math.log(rank) / Math.log(Math.max(2, count)));
  return make(
    "td",
    shape(
      "svg",
      { class: "meter", viewBox: "0 0 100 8", preserveAspectRatio: "none", "aria-hidden": "true" },
      shape("rect", { width: 100, height: 8, class: "faint" }),
      shape("rect", { width: Math.max(1, width), height: 8, class: "accent" }),
    ),
  );
}

// The score with its interval, among the scores of all heads.
function intervalBar(its, layer, head) {
  const all = its.score.flat();
  const [least, most] = [Math.min(0, ...all, its.ci_low[layer][head]), Math.max(...all, its.ci_high[layer][head])];
  const x = (value) => 6 + 288 * ((value - least) / (most - least || 1));
  const [low, score, high] = [its.ci_low[layer][head], its.score[layer][head], its.ci_high[layer][head]].map(x);
  return shape(
    "svg",
    {
      class: "interval",
      viewBox: "0 0 300 26",
      role: "img",
      "aria-label": "The score with its interval, among all heads",
    },
    all.map((value) => shape("line", { x1: x(value), x2: x(value), y1: 16, y2: 24, class: "tick" })),
    shape("line", { x1: low, x2: high, y1: 8, y2: 8, class: "reach" }),
    shape("circle", { cx: score, cy: 8, r: 5, class: "dot" }),
  );
}

async function renderHeadCases(of, its, layer, head) {
  if (!its.details || !of.table) {
    fill(
      $("head-cases"),
      make(
        "p.note",
        of.asks && record.left_out.length
          ? "The cases of this measure were left out to keep the file small."
          : "No table of cases lies beside these scores.",
      ),
    );
    return;
  }
  const { details } = its;
  const [cases, grid, extremes, values] = await Promise.all(
    [of.table, details.grid, details.extremes, details.values].map(unpack),
  );
  if (layer !== state.layer || head !== state.head || its !== measure()) return;
  const [rows, columns] = [cases.depths.length, cases.lengths.length];
  const place = layer * of.model.heads + head;
  const [low, high] = [details.low[layer][head], details.high[layer][head]];
  const cells = cases.depths.map((_, i) =>
    cases.lengths.map((__, j) => {
      const code = grid[(place * rows + i) * columns + j];
      return code ? low + ((code - 1) / 254) * (high - low) : null;
    }),
  );
  const kept = Math.min(3, of.accepted);
  const list = (side) =>
    Array.from({ length: kept }, (_, i) => {
      const at = (place * 2 + side) * kept + i;
      const value = details.values_low + (values[at] / 65535) * (details.values_high - details.values_low);
      return caseLine(of, cases, extremes[at], value);
    });
  refill(
    $("head-cases"),
    make("h3", "By length and depth"),
    gridPicture(cases, cells, its),
    make(
      "div.pair",
      make("div", make("h3", "Strongest cases"), make("ol.plain", list(0))),
      make("div", make("h3", "Weakest cases"), make("ol.plain", list(1))),
    ),
  );
}

function caseLine(of, cases, place, value) {
  const id = cases.case_id[place];
  return make(
    "li",
    make("button", { class: "link", onclick: () => update({ case: id, view: "cases" }) }, `case ${id}`),
    make(
      "span.note",
      ` ${number(value)}, ${whole(cases.length[place])} tokens, ${Math.round(cases.depth[place])} % deep`,
    ),
  );
}

function gridPicture(cases, cells, its) {
  const scale = scaleOf(
    cells.map((line) => line.filter((value) => value !== null)),
    { map: state.map },
  );
  const [width, height] = [Math.min(50, 250 / cases.lengths.length), 13];
  const [left, top] = [44, 4];
  const [across, down] = [left + width * cases.lengths.length, top + height * cases.depths.length];
  const every = Math.max(1, Math.ceil(cases.depths.length / 6));
  const shapes = cells.flatMap((line, i) =>
    line.map((value, j) =>
      shape(
        "rect",
        {
          x: left + j * width,
          y: top + i * height,
          width: width - 1,
          height: height - 1,
          fill: value === null ? "none" : css(colourAt(scale.map, placeOn(scale, value))),
          class: value === null ? "missing" : null,
        },
        shape(
          "title",
          {},
          `${whole(cases.lengths[j])} tokens, ${cases.depths[i].toFixed(0)} % deep: ${value === null ? "no case" : number(value)}`,
        ),
      ),
    ),
  );
  const text = (x, y, anchor, label) => shape("text", { x, y, "text-anchor": anchor }, label);
  return shape(
    "svg",
    {
      class: "grid",
      viewBox: `0 0 300 ${down + 30}`,
      role: "img",
      "aria-label": `Mean ${its.name} of this head by prompt length and needle depth`,
    },
    shapes,
    cases.depths.map((depth, i) =>
      i % every ? null : text(left - 5, top + (i + 0.75) * height, "end", `${depth.toFixed(0)} %`),
    ),
    text(left, down + 12, "start", whole(cases.lengths[0])),
    cases.lengths.length > 1 && text(across, down + 12, "end", whole(cases.lengths.at(-1))),
    text(left, down + 24, "start", "prompt length (tokens)"),
  );
}

function budgetLines(of, layer, head) {
  const budgets = budgetsOf(of.model);
  if (!budgets.length) return null;
  return make(
    "details",
    { open: true },
    make("summary", "What each budget gives it"),
    table(
      "Entries that each budget gives this head",
      ["budget", "of 4k", "of 32k", "of 128k"],
      budgets.map((budget) =>
        row([
          make(
            "button",
            { class: "link", onclick: () => update({ budget: record.budgets.indexOf(budget), view: "budgets" }) },
            budgetLabel(budget),
          ),
          ...CONTEXTS.map((context) => whole(entriesOf(budget, layer, head, context))),
        ]),
      ),
    ),
  );
}
