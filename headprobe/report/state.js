// What is looked at, and the address that says so: report.html#L17H24&m=r2&case=12.

const RENDER = { heads: renderHeads, cases: renderCases, budgets: renderBudgets, compare: renderCompare };
const VIEWS = Object.keys(RENDER);
const CHOICES = { view: VIEWS, scale: ["rank"], map: ["cividis"], kv: ["1"] };
const defaults = {
  ...{ view: "heads", run: 0, m: null, case: null, one: null, other: null },
  ...{ scale: "value", map: "viridis", kv: "" },
  // The budget that is shown first: one that was given, or else a usual size.
  budget: Math.max(0, record.budgets.findIndex(({ name, strategy }) => name || strategy.budget === 128)),
};
const state = { ...defaults, layer: 0, head: 0, step: null, brushed: [], theme: "auto" };

const run = () => record.runs[state.run] ?? null;
const measure = () => run()?.measures.find((its) => its.name === state.m) ?? run()?.measures[0];
const budget = () => record.budgets[state.budget] ?? null;
const groupSize = (of = run()) => of.model.heads / of.model.kv_heads;
const groupOf = (head, of = run()) => Math.floor(head / groupSize(of));
const headCount = (of) => of.model.layers * of.model.heads;
const headName = (layer, head) => `${layer}-${head}`;
const isShown = (layer, head) => layer === state.layer && head === state.head;
const sameHeads = (one, other) =>
  ["layers", "heads", "kv_heads"].every((size) => one.model[size] === other.model[size]);

// All rankings that can be compared: a measure of a run.
const rankings = record.runs.flatMap((of, i) =>
  of.measures.map((its, j) => {
    return { of, its, at: `${i},${j}`, label: its.name === of.task ? of.label : `${of.label}: ${its.name}` };
  }),
);

function headOfRank(its, rank) {
  const layer = its.rank.findIndex((ranks) => ranks.includes(rank));
  return { layer, head: its.rank[layer].indexOf(rank) };
}

// Change what is looked at, then the address and the page with it.
function update(changes) {
  const before = run();
  Object.assign(state, changes);
  if (run() !== before)
    Object.assign(state, { case: null, step: null }, !sameHeads(run(), before) && headOfRank(measure(), 1));
  if (run() !== before || "kv" in changes) state.brushed = [];
  history.replaceState(null, "", `#${address()}`);
  render();
}

function address() {
  const changed = Object.keys(defaults).filter((key) => state[key] !== null && state[key] !== defaults[key]);
  const fields = changed.map((key) => `${key}=${encodeURIComponent(state[key])}`);
  return [`L${state.layer}H${state.head}`, ...fields].join("&");
}

// Read the address; what in it makes no sense is left as it is by default.
function readAddress() {
  const text = location.hash.slice(1);
  const fields = new URLSearchParams(text);
  const most = { case: 1e9, run: record.runs.length, budget: record.budgets.length };
  most.one = most.other = rankings.length;
  Object.assign(state, defaults, { step: null });
  for (const [key, value] of fields) {
    if (CHOICES[key]?.includes(value)) state[key] = value;
    if (/^\d{1,9}$/.test(value) && Number(value) < most[key]) state[key] = Number(value);
  }
  if (!run()) return;
  state.m = fields.get("m");
  state.m = measure().name;
  const head = /(?:^|&)L(\d{1,4})H(\d{1,4})(?:&|$)/.exec(text);
  const { layers, heads } = run().model;
  if (head) Object.assign(state, { layer: Math.min(layers - 1, head[1]), head: Math.min(heads - 1, head[2]) });
  else Object.assign(state, headOfRank(measure(), 1));
}
