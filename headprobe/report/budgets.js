// Budgets on a slider: entries of every head, bytes, and the point on an evaluation's curve.

const CONTEXTS = [4096, 32768, 131072];
const columnOf = (of, head) => Math.floor(head / of.column_heads);

// The entries of a context that a column of a budget keeps: a number of tokens, or a fraction.
function keptBy(of, layer, column, context) {
  const fraction = of.ratio ? Math.ceil(Number((of.ratio[layer][column] * context).toFixed(6))) : 0;
  return Math.min(context, Math.max(of.tokens[layer][column], fraction));
}
const entriesOf = (of, layer, head, context) => keptBy(of, layer, columnOf(of, head), context);

const budgetMap = new Heatmap("budget-map", {
  pick: (layer, column) => update({ layer, head: column * budget().column_heads }),
  hint: (layer, column) => [
    `Layer ${layer}, ${budget().column} ${column}`,
    ...CONTEXTS.map((context) => `${whole(keptBy(budget(), layer, column, context))} entries of ${context / 1024}k`),
    budget().streaming?.[layer][column] ? "streaming: the first and the newest" : "most attended entries",
  ],
});

function renderBudgets() {
  const charts = [...record.evaluations, ...record.ablations].flatMap(({ charts }) => charts).map(chartCard);
  $("view-budgets").classList.toggle("empty", !budget() && !charts.length);
  $("budgets").hidden = !budget();
  if (budget()) renderBudget(budget());
  fill($("curves"), charts);
}

function renderBudget(of) {
  $("slider").value = state.budget;
  $("slider").ariaValueText = `${of.label}: ${of.kept[1].size} of 32k tokens`;
  fill($("slider-label"), html`<b>${of.label}</b>${!of.name && " (divided for this report)"}`);
  const [layer, head] = [Math.min(state.layer, of.model.layers - 1), Math.min(state.head, of.model.heads - 1)];
  budgetMap.draw({
    values: of.tokens.map((row, i) => row.map((_, column) => keptBy(of, i, column, CONTEXTS[2]))),
    ...{ group: groupSize(of) / of.column_heads, cursor: [layer, columnOf(of, head)] },
    label: `entries kept of 128k by each ${of.column}`,
  });
  const rows = of.kept.map(({ context_length: context, size, percent, tokens }) => [
    ...[`${context / 1024}k`, size, percent],
    ...[whole(entriesOf(of, layer, head, context)), whole(tokens / of.tokens.flat().length)],
  ]);
  const columns = ["context", "bytes", "of full", `entries of ${headName(layer, head)}`, "a head"];
  fill($("budget-kept"), table("What the budget keeps of three contexts", columns, rows));
  fill($("budget-divided"), facts(of.facts));
}

// A chart of lines on a logarithmic axis; of an evaluation with the place of the chosen budget.
function chartCard(its) {
  const x = (value) => 46 + (358 * Math.log(value / its.low)) / Math.log(its.high / its.low);
  const y = (value) => 180 - 1.7 * value;
  const now = its.places[state.budget];
  return html`<article class="card"><h2>${its.title}</h2><p class="note">${its.note}</p>
    <svg class="chart" viewBox="0 0 420 222" role="img" aria-label=${`${its.title} by ${its.unit}; ${its.note}`}>
      ${[0, 25, 50, 75, 100].map((at) => [rule(40, 410, y(at), y(at)), label(34, y(at) + 4, "end", at)])}
      ${its.ticks.map(([value, text]) => label(x(value), 197, "middle", text))}${label(225, 216, "middle", its.unit)}
      ${its.full !== null && rule(40, 410, y(its.full), y(its.full), "rule full")}
      ${its.lines.map(({ name, look, points }) => [
        html`<polyline class=${`line ${look}`}
          points=${points.map((at) => [x(at.x), y(at.value)]).join(" ")} />`,
        ...points.map((at) => rule(x(at.x), x(at.x), y(at.ci_low), y(at.ci_high), `line thin ${look}`)),
        ...points.map((at) => html`<circle class=${`point ${look}`} cx=${x(at.x)} cy=${y(at.value)} r="3.5">
          <title>${name} ${at.told}</title></circle>`),
      ])}
      ${now && rule(x(now.x), x(now.x), 10, 180, "now")}
      ${Number.isFinite(now?.value) && html`<circle class="now" cx=${x(now.x)} cy=${y(now.value)} r="6" />`}</svg>
    <ul class="keys">${its.lines.map(({ name, look }) => html`<li><i class=${look}></i>${name}</li>`)}
      ${its.full !== null && html`<li><i class="full"></i>${its.full_name}</li>`}</ul>
    ${now && html`<p class="note point-note">${now.text}</p>`}</article>`;
}

const rule = (x1, x2, y1, y2, look = "rule") => html`<line class=${look} x1=${x1} x2=${x2} y1=${y1} y2=${y2} />`;
