// The frame of the page: title, tabs, theme, provenance; then the first picture.

const TITLES = { heads: "Heads", cases: "Cases", budgets: "Budgets", compare: "Compare" };
const RENDER = { heads: renderHeads, cases: renderCases, budgets: renderBudgets, compare: renderCompare };

render = () => {
  const tabs = VIEWS.map((view) =>
    make(
      "button",
      {
        role: "tab",
        id: `tab-${view}`,
        "aria-controls": `view-${view}`,
        "aria-selected": String(view === state.view),
        tabindex: view === state.view ? "0" : "-1",
        onclick: () => update({ view }),
        onkeydown: turnTab,
      },
      TITLES[view],
    ),
  );
  refill($("tabs"), tabs);
  for (const view of VIEWS) $(`view-${view}`).hidden = view !== state.view;
  hideHint();
  RENDER[state.view]();
};

function turnTab(event) {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!step) return;
  event.preventDefault();
  const view = VIEWS[(VIEWS.indexOf(state.view) + step + VIEWS.length) % VIEWS.length];
  update({ view });
  $(`tab-${view}`).focus();
}

function renderTitle() {
  const of = record.runs[0] ?? record.budgets[0] ?? record.evaluations[0] ?? record.ablations[0];
  const models = [
    ...new Set(
      [...record.runs, ...record.budgets, ...record.evaluations, ...record.ablations]
        .filter((one) => one.model?.id)
        .map((one) => modelName(one.model)),
    ),
  ];
  $("title").textContent = models.join(", ") || "headprobe report";
  document.title = `${models.join(", ")} – headprobe report`;
  const size = of?.model?.layers
    ? `${plural(of.model.layers, "layer")} of ${plural(of.model.heads, "query head")}${of.model.kv_heads < of.model.heads ? ` on ${plural(of.model.kv_heads, "KV head")}` : ""}`
    : null;
  const tasks = record.runs.map((one) =>
    one.asks
      ? `${one.task}: ${whole(one.accepted)} of ${whole(one.cases)} cases passed`
      : `${one.task}: ${plural(one.cases, "case")}`,
  );
  $("subtitle").textContent = [size, ...tasks].filter(Boolean).join(" · ");
}

// Automatic, light, dark: the automatic theme is the system's.
function turnTheme() {
  const order = ["auto", "light", "dark"];
  const root = document.documentElement;
  root.dataset.theme = order[(order.indexOf(root.dataset.theme ?? "auto") + 1) % 3];
  $("theme").textContent = { auto: "◐ Auto", light: "☀ Light", dark: "☾ Dark" }[root.dataset.theme];
  render();
}

function renderProvenance() {
  const sources = [
    ...record.runs,
    ...record.budgets.filter((one) => one.name),
    ...record.evaluations,
    ...record.ablations,
  ];
  const facts = (one) => ({
    ...one.plan,
    prompt: one.prompt,
    started: one.started,
    seconds: one.seconds,
    versions:
      one.versions &&
      Object.entries(one.versions)
        .map(([name, version]) => `${name} ${version}`)
        .join(", "),
  });
  fill(
    $("provenance"),
    make("h2", "Where this comes from"),
    sources.map((one) =>
      make(
        "details",
        make("summary", one.name),
        make(
          "dl.facts",
          Object.entries(facts(one))
            .filter(([, value]) => value !== null && value !== undefined)
            .map(([name, value]) => [make("dt", name), make("dd", String(value))]),
        ),
      ),
    ),
    record.left_out.length > 0 &&
      make("p.note", `Left out to keep the file under a megabyte: ${record.left_out.join(", ")}.`),
    make(
      "p.note",
      `Made by headprobe ${record.headprobe}. The numbers are in this file: `,
      make("code", "headprobe show report.html --json"),
      " reads them back.",
    ),
  );
}

addEventListener("hashchange", () => {
  readAddress();
  render();
});
addEventListener("resize", () => render());
// On paper every view is shown, so every view is drawn.
addEventListener("beforeprint", () => {
  for (const view of VIEWS) {
    $(`view-${view}`).hidden = false;
    RENDER[view]();
  }
});
addEventListener("afterprint", () => render());
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => render());
$("theme").addEventListener("click", turnTheme);
$("theme").textContent = "◐ Auto";

readAddress();
renderTitle();
renderProvenance();
render();
