// The card of the chosen head: its score, ranks, cases, and what budgets give it.

function renderCard(of, its) {
  const { layer, head } = state;
  const [count, rank, group] = [headCount(of), its.rank[layer][head], groupOf(head)];
  const step = (to, text, name) => html`<button aria-label=${name} disabled=${(to < 1 || to > count) && ""}
    @click=${() => update(headOfRank(its, to))}>${text}</button>`;
  const measures = of.measures.map((one) => [
    one === its ? html`<b>${one.name}</b>` : link(one.name, { m: one.name }),
    number(one.score[layer][head]),
    whole(one.rank[layer][head]),
    html`<progress aria-hidden="true" value=${1 - Math.log(one.rank[layer][head]) / Math.log(count + 1)}></progress>`,
  ]);
  fill($("head-card"), html`
    <div class="heading"><h2>Layer ${layer}, head ${head}</h2><div class="choice">
      ${step(rank - 1, "↑", "The head one rank higher")}
      ${step(rank + 1, "↓", "The head one rank lower")}</div></div>
    ${groupSize() > 1 && html`<p class="note">KV head ${group}, shared by ${queryHeads(group)}</p>`}
    <p class="figure"><b>${number(its.score[layer][head])}</b>
      ${its.name}, rank ${whole(rank)} of ${whole(count)}</p>
    ${intervalBar(its, layer, head)}
    <p class="note">${withInterval(its, layer, head)}, 95 % interval over needles</p>
    <h3>By every measure</h3>
    ${table("Rank of this head by every measure", ["measure", "score", "rank", ""], measures)}
    <div id="head-cases"></div>
    ${budgetTable(of, layer, head)}`);
  renderHeadCases(of, its);
}

// The score with its interval, among the scores of all heads.
function intervalBar(its, layer, head) {
  const [low, score, high] = [its.ci_low, its.score, its.ci_high].map((values) => values[layer][head]);
  const all = its.score.flat();
  const [least, most] = [Math.min(0, low, ...all), Math.max(high, ...all)];
  const x = (value) => (6 + (288 * (value - least)) / (most - least || 1)).toFixed(1);
  return html`<svg class="interval" viewBox="0 0 300 26" role="img" aria-label="The score among those of all heads">
    <path class="tick" d=${all.map((value) => `M${x(value)} 16v8`).join("")} />
    ${rule(x(low), x(high), 8, 8, "reach")}<circle class="dot" cx=${x(score)} cy="8" r="5" /></svg>`;
}

async function renderHeadCases(of, its) {
  const place = state.layer * of.model.heads + state.head;
  const { details } = its;
  if (!details || !of.table) return fill($("head-cases"), html`<p class="note">The cases of this measure are not
    in this file: no table of cases lies beside the scores, or there was no room.</p>`);
  const packed = [of.table, details.grid, details.extremes, details.values];
  const [cases, grid, extremes, values] = await Promise.all(packed.map(unpack));
  if (its !== measure() || place !== state.layer * of.model.heads + state.head) return;
  const count = Math.min(3, of.accepted);
  const lines = (side) => Array.from({ length: count }, (_, i) => {
    const at = (place * 2 + side) * count + i;
    const value = details.values_low + (values[at] / 65535) * (details.values_high - details.values_low);
    const id = cases.case_id[extremes[at]];
    return html`<li>${link(`case ${id}`, { case: id, step: null, view: "cases" })}
      <span class="note">${number(value)}, ${cases.where[extremes[at]]}</span></li>`;
  });
  fill($("head-cases"), html`<h3>By length and depth</h3>${gridPicture(cases, gridOf(cases, details, grid, place), its)}
    <div class="pair"><div><h3>Strongest cases</h3><ol class="plain">${lines(0)}</ol></div>
    <div><h3>Weakest cases</h3><ol class="plain">${lines(1)}</ol></div></div>`);
}

// The mean of a head at each depth and length, null without a case.
function gridOf({ depths, lengths }, details, grid, place) {
  const [low, high] = [details.low, details.high].map((values) => values.flat()[place]);
  return depths.map((_, i) => lengths.map((__, j) => {
    const code = grid[(place * depths.length + i) * lengths.length + j];
    return code ? low + ((code - 1) / 254) * (high - low) : null;
  }));
}

function gridPicture({ depths, lengths }, means, its) {
  const { colour } = scaleOf(means);
  const cell = (value, where) => value === null
    ? html`<td class="missing" title=${`${where}: no case`}></td>`
    : html`<td style=${`background: rgb(${colour(value)})`} title=${`${where}: ${number(value)}`}></td>`;
  const line = (row, depth) => html`<tr><th>${depth}</th>
    ${row.map((value, i) => cell(value, `${whole(lengths[i])} tokens, ${depth} deep`))}</tr>`;
  return html`<div class="grid" role="img" aria-label=${`Mean ${its.name} by prompt length and needle depth`}>
    <table>${means.map((row, i) => line(row, `${depths[i].toFixed(0)} %`))}</table>
    <p class="note ends"><span>${whole(lengths[0])}</span><span>prompt length (tokens)</span>
      <span>${lengths.length > 1 && whole(lengths.at(-1))}</span></p></div>`;
}

const label = (x, y, anchor, text) => html`<text x=${x} y=${y} text-anchor=${anchor}>${text}</text>`;

function budgetTable(of, layer, head) {
  const rows = record.budgets.flatMap((one, i) =>
    sameHeads(one, of)
      ? [[
          link(one.label, { budget: i, view: "budgets" }),
          ...CONTEXTS.map((context) => whole(entriesOf(one, layer, head, context))),
        ]]
      : [],
  );
  return rows.length > 0 && html`<details open><summary>What each budget gives it</summary>
    ${table("Entries that each budget gives this head", ["budget", "of 4k", "of 32k", "of 128k"], rows)}</details>`;
}
