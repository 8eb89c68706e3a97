// Budgets on a slider: entries of every head, bytes, and the point on an evaluation's curve.

const currentBudget = () => record.budgets[state.budget] ?? null;
const SETTINGS = {
  query_aware: "the question is known when the cache is compressed",
  query_agnostic: "the context is compressed before the question is seen",
};

const budgetMap = new Heatmap({
  label: "Cache entries by layer and head of the chosen budget",
  pick: (layer, column) => update({ layer, head: headIn(currentBudget(), column) }),
  hint: (layer, column) => {
    const budget = currentBudget();
    return [
      `Layer ${layer}, ${budget.granularity === "kv" ? "KV head" : "head"} ${column}`,
      ...CONTEXTS.map(
        (context) =>
          `${whole(entriesOf(budget, layer, headIn(budget, column), context))} entries of ${context / 1024}k`,
      ),
      budget.streaming?.[layer][column] ? "streaming: the first and the newest" : "most attended entries",
    ];
  },
});

// The budgets of the slider, smallest first.
function ladder() {
  return record.budgets
    .map((budget, index) => ({ budget, index }))
    .sort((a, b) => a.budget.kept[1].tokens - b.budget.kept[1].tokens);
}

function renderBudgets() {
  const panel = $("view-budgets");
  const budget = currentBudget();
  const curves = record.evaluations
    .flatMap((one) => Object.keys(SETTINGS).map((setting) => [one, setting]))
    .filter(([one, setting]) => one.points.some((point) => point.setting === setting));
  if (!budget && !curves.length && !record.ablations.length)
    return fill(panel, make("p.card", "No budget, evaluation or ablation is in this report."));
  if (!$("budget-tools")) {
    fill(
      panel,
      budget &&
        make(
          "div.columns",
          make(
            "div.card.wide",
            make("div", { id: "budget-tools" }),
            make("div.frame", budgetMap.canvas),
            make("div", { id: "budget-legend" }),
          ),
          make("article.card", { id: "budget-facts" }),
        ),
      make("div", { id: "curves", class: "charts" }),
    );
  }
  if (budget) renderBudget(budget);
  fill(
    $("curves"),
    curves.map(([one, setting]) => evaluationCard(one, setting, budget)),
    record.ablations.map(ablationCard),
  );
}

function renderBudget(budget) {
  const steps = ladder();
  const place = steps.findIndex((step) => step.index === state.budget);
  const say32 = `${budgetLabel(budget)}: ${bytes(budget.kept[1].bytes)} of 32k tokens, ${percent(budget.kept[1].fraction)}`;
  refill(
    $("budget-tools"),
    make(
      "div.slider",
      make(
        "label",
        { for: "slider" },
        make("b", budgetLabel(budget)),
        ` ${budget.name ? "" : "(divided for this report) "}`,
      ),
      make("input", {
        id: "slider",
        type: "range",
        min: 0,
        max: steps.length - 1,
        step: 1,
        value: place,
        "aria-valuetext": say32,
        oninput: (event) => update({ budget: steps[Number(event.target.value)].index }),
      }),
    ),
  );
  const values = keptOf(budget, CONTEXTS[2]);
  const scale = scaleOf(values, { map: state.map });
  budgetMap.draw({
    values,
    scale,
    group: budget.granularity === "kv" ? 1 : groupSize(budget),
    write: whole,
    cursor: [state.layer, columnIn(budget, state.head)],
  });
  fill(
    $("budget-legend"),
    legend(scale, `entries kept of 128k by each ${budget.granularity === "kv" ? "KV head" : "query head"}`),
  );
  const head = Math.min(state.head, budget.model.heads - 1);
  const layer = Math.min(state.layer, budget.model.layers - 1);
  const options = Object.entries({
    ...budget.strategy,
    window: budget.window,
    sinks: budget.sinks,
    compensation: budget.compensation,
  }).filter(([name]) => name !== "name");
  fill(
    $("budget-facts"),
    make("h2", "What it keeps"),
    table(
      "What the budget keeps of three contexts",
      ["context", "bytes", "of full", `entries of ${headName(layer, head)}`, "a head"],
      budget.kept.map((kept) =>
        row([
          `${kept.context_length / 1024}k`,
          bytes(kept.bytes),
          percent(kept.fraction, 2),
          whole(entriesOf(budget, layer, head, kept.context_length)),
          whole(kept.tokens / (budget.tokens.length * budget.tokens[0].length)),
        ]),
      ),
    ),
    make("p.note", "Keys and values of 16-bit numbers."),
    make("h3", `Strategy ${budget.strategy.name}`),
    make(
      "dl.facts",
      options.map(([name, value]) => [make("dt", name), make("dd", String(value))]),
    ),
    budget.name && make("p.note", budget.name),
  );
}

// Axes of a chart on which x is scaled by `across`, and y is accuracy from 0 to 100 %.
function chart({ label, across, ticks, unit, children }) {
  const y = (value) => 10 + 170 * (1 - value / 100);
  const text = (x, top, anchor, words) => shape("text", { x, y: top, "text-anchor": anchor }, words);
  return shape(
    "svg",
    { class: "chart", viewBox: "0 0 420 222", role: "img", "aria-label": label },
    [0, 25, 50, 75, 100]
      .map((value) => [
        shape("line", { x1: 40, x2: 410, y1: y(value), y2: y(value), class: "rule" }),
        text(34, y(value) + 4, "end", value),
      ])
      .flat(),
    ticks.map(([value, words]) => text(across(value), 197, "middle", words)),
    text(225, 216, "middle", unit),
    children(y),
  );
}

const LOOKS = ["c0", "c1", "c2", "c3", "c4", "c5", "c6", "c7"];

function curve(points, across, y, look, dashed = false) {
  const sorted = [...points].sort((a, b) => a.x - b.x);
  return [
    sorted.length > 1 &&
      shape("polyline", {
        class: `line ${look}${dashed ? " dashed" : ""}`,
        points: sorted.map((one) => `${across(one.x)},${y(one.value)}`).join(" "),
      }),
    sorted.map((one) =>
      shape("line", {
        class: `line thin ${look}`,
        x1: across(one.x),
        x2: across(one.x),
        y1: y(one.ci_low),
        y2: y(one.ci_high),
      }),
    ),
    sorted.map((one) =>
      shape(
        "circle",
        { class: `point ${look}`, cx: across(one.x), cy: y(one.value), r: 3.5 },
        shape("title", {}, one.title),
      ),
    ),
  ].flat();
}

function key(entries) {
  return make(
    "ul.keys",
    entries.map(([name, look]) => make("li", make("i", { class: look }), name)),
  );
}

// The accuracy of a strategy at a fraction of the cache, between the points that were measured.
function between(points, fraction) {
  const sorted = [...points].sort((a, b) => a.fraction - b.fraction);
  const above = sorted.findIndex((point) => point.fraction >= fraction - 1e-9);
  if (above < 0 || (above === 0 && sorted[0].fraction > fraction * 1.02)) return null;
  if (above === 0) return sorted[0].value;
  const [low, high] = [sorted[above - 1], sorted[above]];
  const part = Math.log(fraction / low.fraction) / Math.log(high.fraction / low.fraction);
  return low.value + clamp(part, 0, 1) * (high.value - low.value);
}

function evaluationCard(one, setting, budget) {
  const points = one.points.filter((point) => point.setting === setting);
  const full = points.find((point) => point.strategy === "full");
  const names = new Set(points.filter((point) => point !== full).map((point) => point.name));
  const lines = [...names].map((name) => points.filter((point) => point.name === name));
  lines.sort((a, b) => a[0].is_baseline - b[0].is_baseline);
  const context = one.context ?? CONTEXTS[1];
  const fits = budget && modelKey(budget.model) === modelKey(one.model);
  const kept = fits ? keptOf(budget, context).flat() : [];
  const here = fits ? kept.reduce((sum, value) => sum + value, 0) / kept.length / context : null;
  const fractions = [...lines.flat().map((point) => point.fraction), here ?? 0.1];
  const [low, high] = [Math.min(...fractions) / 1.25, Math.min(1, Math.max(...fractions)) * 1.25];
  const across = (fraction) => 46 + 358 * (Math.log(fraction / low) / Math.log(high / low));
  const ticks = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1]
    .filter((tick) => tick >= low && tick <= high)
    .map((tick) => [tick, Number((100 * tick).toPrecision(2))]);
  const own = lines.find(([first]) => fits && first.name === budget.strategy.name);
  const value = own ? between(own, here) : null;
  const interval = (point) => `${point.value.toFixed(1)} (${point.ci_low.toFixed(1)} to ${point.ci_high.toFixed(1)})`;
  const withTitle = (point) => ({
    ...point,
    x: point.fraction,
    title: `${point.name} ${point.budget}: ${interval(point)}`,
  });
  const title = `${modelName(one.model)}, ${one.asked}: ${one.metric.replace("_", " ")}`;
  const children = (y) => [
    full && shape("line", { class: "rule full", x1: 40, x2: 410, y1: y(full.value), y2: y(full.value) }),
    lines.map((line, i) => curve(line.map(withTitle), across, y, LOOKS[i % LOOKS.length], line[0].is_baseline)),
    fits && shape("line", { class: "now", x1: across(here), x2: across(here), y1: 10, y2: 180 }),
    value !== null && shape("circle", { class: "now", cx: across(here), cy: y(value), r: 6 }),
  ];
  const measured =
    value === null
      ? `, where ${budget?.strategy.name} was not measured`
      : `: about ${value.toFixed(1)} by the measured ${budget.strategy.name}`;
  return make(
    "article.card",
    make("h2", title),
    make(
      "p.note",
      `${SETTINGS[setting]}; ${plural(one.questions ?? 0, "question")}${one.context ? ` at ${whole(one.context)} tokens` : ""}`,
    ),
    chart({
      label: `${title} by fraction of the KV cache kept, ${SETTINGS[setting]}`,
      across,
      ticks,
      unit: "KV cache kept (%)",
      children,
    }),
    key([...lines.map(([first], i) => [first.name, LOOKS[i % LOOKS.length]]), ["full cache", "full"]]),
    fits &&
      make(
        "p.note.point-note",
        `${budgetLabel(budget)} keeps ${percent(here, 2)} of ${whole(context)} tokens${measured}${full ? `, ${full.value.toFixed(1)} with the full cache` : ""}.`,
      ),
  );
}

function ablationCard(one) {
  const title = `${modelName(one.model)}, ${one.task}: heads ablated`;
  const most = Math.max(...one.curves.flatMap((its) => its.top_k));
  const across = (k) => 46 + 358 * (Math.log2(1 + k) / Math.log2(1 + most));
  const series = one.curves
    .slice(0, 7)
    .map((its) => [its.measure, its.top, its])
    .concat([["random heads", one.curves[0].random, one.curves[0]]]);
  return make(
    "article.card",
    make("h2", title),
    make(
      "p.note",
      `accuracy (${one.metric.replace("_", " ")}) with the top heads of a measure ablated by ${one.ablation}; ${plural(one.cases, "case")}, ${one.accuracy.value.toFixed(1)} with none`,
    ),
    chart({
      label: title,
      across,
      ticks: one.curves[0].top_k.map((k) => [k, k]),
      unit: "heads ablated",
      children: (y) =>
        series
          .flatMap(([name, values, its], i) =>
            curve(
              values.map((point, j) => ({
                ...point,
                x: its.top_k[j],
                title: `${name}, ${its.top_k[j]} heads: ${point.value.toFixed(1)}`,
              })),
              across,
              y,
              LOOKS[i % 8],
              name === "random heads",
            ),
          )
          .filter(Boolean),
    }),
    key(series.map(([name], i) => [name, LOOKS[i % 8]])),
  );
}
