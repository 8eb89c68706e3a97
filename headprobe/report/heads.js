// The heatmap of a run, what is chosen on it, and the heads that rank first.

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
  return values.map((row) =>
    Array.from(
      { length: row.length / size },
      (_, group) => row.slice(group * size, (group + 1) * size).reduce((sum, value) => sum + value, 0) / size,
    ),
  );
}

// Ranks of a matrix of means: 1 for the highest.
function ranksOf(values) {
  const order = values
    .flatMap((row, layer) => row.map((value, column) => [value, layer, column]))
    .sort((a, b) => b[0] - a[0]);
  const ranks = values.map((row) => row.map(() => 0));
  order.forEach(([, layer, column], place) => {
    ranks[layer][column] = place + 1;
  });
  return ranks;
}

function shownValues(of, its) {
  const scores = state.kv ? grouped(its.score, groupSize(of)) : its.score;
  if (state.scale === "rank") return state.kv ? ranksOf(scores) : its.rank;
  return scores;
}

// What hovering over a head, or moving to it, says.
function headLines(layer, head) {
  const [of, its] = [run(), measure()];
  const size = groupSize(of);
  const group = Math.floor(head / size);
  const lines = [state.kv && size > 1 ? `Layer ${layer}, KV head ${group}` : `Layer ${layer}, head ${head}`];
  if (state.kv && size > 1)
    lines.push(
      `mean ${its.name} ${number(grouped(its.score, size)[layer][group])}`,
      `query heads ${group * size} to ${group * size + size - 1}`,
    );
  else {
    lines.push(
      `${its.name} ${number(its.score[layer][head])} (${number(its.ci_low[layer][head])} to ${number(its.ci_high[layer][head])})`,
    );
    lines.push(
      `rank ${whole(its.rank[layer][head])} of ${whole(of.model.layers * of.model.heads)}${size > 1 ? `, KV head ${group}` : ""}`,
    );
  }
  const budget = currentBudget();
  if (budget && modelKey(budget.model) === modelKey(of.model))
    lines.push(`${budgetLabel(budget)}: ${whole(entriesOf(budget, layer, head, 32768))} entries of 32k`);
  return lines;
}

function toolbar(of) {
  const its = measure();
  return make(
    "div.toolbar",
    record.runs.length > 1 &&
      select(
        "Run",
        record.runs.map((one, i) => [i, runLabel(one)]),
        state.run,
        (value) => changeRun(Number(value)),
      ),
    select(
      "Measure",
      of.measures.map((one, i) => [i, one.name]),
      of.measures.indexOf(its),
      (value) => update({ measure: Number(value) }),
    ),
    groupSize(of) > 1 &&
      choice(
        "Heads",
        [
          [false, "Query heads"],
          [true, "KV heads", "The mean over the query heads of each KV head"],
        ],
        state.kv,
        (kv) => update({ kv }),
      ),
    choice(
      "Scale",
      [
        ["value", "Value"],
        ["rank", "Rank"],
      ],
      state.scale,
      (scale) => update({ scale }),
    ),
    choice(
      "Colours",
      [
        ["viridis", "Viridis"],
        ["cividis", "Cividis"],
      ],
      state.map,
      (map) => update({ map }),
    ),
  );
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
  if (!of) return fill(panel, make("p.card", "No run is in this report."));
  if (!panel.childElementCount) {
    panel.append(
      make(
        "div.columns",
        make(
          "div.stack",
          make(
            "div.card",
            make("div", { id: "heads-tools" }),
            make("div.frame", headsMap.canvas),
            make("div", { id: "heads-legend" }),
            make("div", { id: "brush" }),
          ),
          make("div.card", { id: "top-heads" }),
        ),
        make("article.card", { id: "head-card", "aria-label": "The chosen head" }),
      ),
    );
  }
  const its = measure();
  refill($("heads-tools"), toolbar(of), make("p.note", its.summary ? `${its.name}: ${its.summary}` : its.name));
  const values = shownValues(of, its);
  const scale = scaleOf(values, { map: state.map, byRank: state.scale === "rank" });
  const size = groupSize(of);
  headsMap.draw({
    values,
    scale,
    group: state.kv ? 1 : size,
    write: state.scale === "rank" ? whole : evenly(values),
    cursor: [state.layer, state.kv ? Math.floor(state.head / size) : state.head],
  });
  const what = state.scale === "rank" ? `rank by ${its.name}` : `mean ${its.name} score`;
  fill(
    $("heads-legend"),
    legend(scale, what),
    make(
      "p.note",
      `Rows are layers, 0 next to the input; columns are ${state.kv ? "KV heads" : `query heads${size > 1 ? `, ${size} to a KV head` : ""}`}. Drag, or shift and arrows, to choose heads.`,
    ),
  );
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
  refill(
    box,
    make(
      "div.brush",
      make("b", plural(brushed.length, state.kv ? "KV head" : "head")),
      make("code", names),
      make("button", { onclick: () => copy(names) }, "Copy list"),
      make("button", { onclick: () => copy(pairs) }, "Copy as JSON"),
    ),
  );
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // A page that was opened from a file may not reach the clipboard: the older way.
    const area = make("textarea.unseen");
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

function renderTop(of, its) {
  const count = Math.min(12, of.model.layers * of.model.heads);
  const best = Array.from({ length: count }, (_, i) => {
    const layer = its.rank.findIndex((ranks) => ranks.includes(i + 1));
    return [layer, its.rank[layer].indexOf(i + 1)];
  });
  refill(
    $("top-heads"),
    make("h2", `Top ${count} heads by ${its.name}`),
    reliabilityNote(its),
    make(
      "ol.tops",
      best.map(([layer, head]) =>
        make(
          "li",
          make(
            "button",
            {
              "aria-pressed": String(layer === state.layer && head === state.head),
              onclick: () => update({ layer, head }),
            },
            make("b", headName(layer, head)),
            ` ${number(its.score[layer][head])}`,
          ),
        ),
      ),
    ),
  );
}

function reliabilityNote(its) {
  const { rank_correlation: found, needles } = its.reliability;
  return make(
    "p.note",
    found
      ? `Halves of the ${whole(needles)} needles rank the heads alike: ${number(found.value)} (${number(found.ci_low)} to ${number(found.ci_high)}).`
      : `How firm the ranking is, is unknown: passed cases have ${plural(needles, "needle")}.`,
  );
}
