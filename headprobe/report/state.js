// What is looked at, and the address that says so: report.html#L17H24&m=r2&case=12.

const VIEWS = ["heads", "cases", "budgets", "compare"];
// The budget that is shown first: one that was given, or else a usual size.
const firstBudget = Math.max(
  0,
  record.budgets.findIndex((budget) => budget.name || budget.strategy.budget === 128),
);
const state = {
  view: "heads",
  run: 0,
  measure: 0,
  layer: 0,
  head: 0,
  case: null,
  kv: false,
  scale: "value",
  map: "viridis",
  budget: firstBudget,
  one: null,
  other: null,
  step: null,
};
const defaults = { ...state };
let render = () => {};

const run = () => record.runs[state.run] ?? null;
const measure = (of = run()) => of?.measures[state.measure] ?? of?.measures[0] ?? null;
const groupSize = (of = run()) => of.model.heads / of.model.kv_heads;

// All rankings that can be compared: a measure of a run.
const rankings = record.runs.flatMap((of, i) => of.measures.map((its, j) => ({ run: of, measure: its, at: [i, j] })));

function runLabel(of) {
  const alike = record.runs.filter((one) => one.model.id === of.model.id && one.task === of.task);
  return `${modelName(of.model)}, ${of.task}${alike.length > 1 ? ` (${of.name})` : ""}`;
}

function rankingLabel({ run: of, measure: its }) {
  return its.name === of.task ? runLabel(of) : `${runLabel(of)}: ${its.name}`;
}

function topHead(its) {
  for (const [layer, ranks] of its.rank.entries()) {
    const head = ranks.indexOf(1);
    if (head >= 0) return [layer, head];
  }
  return [0, 0];
}

// Change what is looked at, then the address and the page with it.
function update(changes) {
  Object.assign(state, changes);
  settle();
  history.replaceState(null, "", `#${address()}`);
  render();
}

// Bring every index back inside its bounds.
function settle() {
  state.run = clamp(state.run, 0, Math.max(0, record.runs.length - 1));
  const of = run();
  state.budget = clamp(state.budget, 0, Math.max(0, record.budgets.length - 1));
  if (!of) return;
  state.measure = clamp(state.measure, 0, of.measures.length - 1);
  state.layer = clamp(state.layer, 0, of.model.layers - 1);
  state.head = clamp(state.head, 0, of.model.heads - 1);
}

function address() {
  const parts = [`L${state.layer}H${state.head}`];
  const its = measure();
  if (its) parts.push(`m=${encodeURIComponent(its.name)}`);
  if (state.case !== null) parts.push(`case=${state.case}`);
  for (const key of ["view", "run", "scale", "map", "budget", "one", "other"]) {
    if (state[key] !== defaults[key]) parts.push(`${key}=${encodeURIComponent(state[key])}`);
  }
  if (state.kv) parts.push("kv=1");
  return parts.join("&");
}

// Read the address; whatever in it makes no sense is left as it is by default.
function readAddress() {
  const found = { ...defaults };
  const text = location.hash.slice(1);
  const head = /(?:^|&)L(\d{1,4})H(\d{1,4})(?:&|$)/.exec(text);
  const fields = new URLSearchParams(text);
  const index = (key) => (/^\d{1,4}$/.test(fields.get(key) ?? "") ? Number(fields.get(key)) : defaults[key]);
  found.run = clamp(index("run"), 0, Math.max(0, record.runs.length - 1));
  const of = record.runs[found.run];
  const named = of ? of.measures.findIndex((its) => its.name === fields.get("m")) : -1;
  found.measure = Math.max(0, named);
  if (head) [found.layer, found.head] = [Number(head[1]), Number(head[2])];
  else if (of) [found.layer, found.head] = topHead(of.measures[found.measure]);
  if (/^\d{1,9}$/.test(fields.get("case") ?? "")) found.case = Number(fields.get("case"));
  if (VIEWS.includes(fields.get("view"))) found.view = fields.get("view");
  if (fields.get("scale") === "rank") found.scale = "rank";
  if (fields.get("map") === "cividis") found.map = "cividis";
  found.kv = fields.get("kv") === "1";
  found.budget = index("budget");
  for (const key of ["one", "other"]) {
    const place = index(key);
    found[key] = place !== null && place < rankings.length ? place : null;
  }
  Object.assign(state, found);
  settle();
}
