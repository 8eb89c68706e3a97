// The heatmap of a run, what is chosen on it, and the heads that rank first.

const shownHead = (column) => (state.kv ? column * groupSize() : column);
const headsMap = new Heatmap("heads-map", {
  pick: (layer, column) => update({ layer, head: shownHead(column) }),
  brush: (brushed) => {
    state.brushed = brushed;
    renderBrush();
  },
  hint: hintOfHead,
});

const withInterval = ({ score, ci_low: low, ci_high: high }, layer, head) =>
  `${number(score[layer][head])} (${number(low[layer][head])} to ${number(high[layer][head])})`;
const queryHeads = (group) => `query heads ${group * groupSize()} to ${(group + 1) * groupSize() - 1}`;

function hintOfHead(layer, column) {
  const [of, its, given] = [run(), measure(), budget()];
  const ofGroup = groupSize() > 1 && !state.kv ? `, KV head ${groupOf(column)}` : "";
  const lines = state.kv
    ? [`Layer ${layer}, KV head ${column}`, `mean ${its.name} ${number(its.kv.score[layer][column])}`,
       queryHeads(column)]
    : [`Layer ${layer}, head ${column}`, `${its.name} ${withInterval(its, layer, column)}`,
       `rank ${whole(its.rank[layer][column])} of ${whole(headCount(of))}${ofGroup}`];
  if (given && sameHeads(given, of))
    lines.push(`${given.label}: ${whole(entriesOf(given, layer, shownHead(column), 32768))} entries of 32k`);
  return lines;
}

function renderHeads() {
  const [of, its] = [run(), measure()];
  if (!of) return;
  const byRank = state.scale === "rank";
  const { score, rank } = state.kv ? its.kv : its;
  $("summary").textContent = its.summary;
  $("columns").textContent = state.kv ? "KV heads" : of.columns;
  headsMap.draw({
    ...{ values: byRank ? rank : score, byRank, group: state.kv ? 1 : groupSize() },
    cursor: [state.layer, state.kv ? groupOf(state.head) : state.head],
    label: byRank ? `rank by ${its.name}` : `mean ${its.name} score`,
  });
  renderBrush();
  renderCard(of, its);
  renderTop(of, its);
}

function renderBrush() {
  const heads = (headsMap.chosen = state.brushed);
  headsMap.paint();
  const names = heads.map((head) => headName(...head)).join(", ");
  fill($("brush"), heads.length > 0 && html`<div class="brush">
    <b>${plural(heads.length, state.kv ? "KV head" : "head")}</b><code>${names}</code>
    <button @click=${() => copy(names)}>Copy list</button>
    <button @click=${() => copy(JSON.stringify(heads))}>Copy as JSON</button></div>`);
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // A page that was opened from a file may not reach the clipboard: the older way.
    const area = Object.assign(document.createElement("textarea"), { className: "unseen", value: text });
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  say("Copied.");
  $("brush").firstElementChild.animate([{ outline: "2px solid var(--good)" }, {}], 900);
}

function renderTop(of, its) {
  const heads = Array.from({ length: Math.min(12, headCount(of)) }, (_, i) => headOfRank(its, i + 1));
  const item = ({ layer, head }) => html`<li>
    <button aria-pressed=${isShown(layer, head)} @click=${() => update({ layer, head })}>
      <b>${headName(layer, head)}</b> ${number(its.score[layer][head])}</button></li>`;
  fill($("top-heads"), html`<h2>Top ${heads.length} heads by ${its.name}</h2>
    <p class="note">${its.firmness}</p><ol class="tops">${heads.map(item)}</ol>`);
}
