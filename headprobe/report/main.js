// The frame of the page: title, tabs, controls, theme, provenance; then the first picture.

const NEXT_THEME = { auto: "light", light: "dark", dark: "auto" };

function render() {
  document.documentElement.dataset.view = state.view;
  hideHint();
  renderControls();
  RENDER[state.view]();
}

// Controls name the part of the state that they change: buttons one value of it, lists all.
function renderControls() {
  if (record.runs.length > 1) offer($("run"), record.runs.map((of, i) => [i, of.label]), state.run);
  if (run()) offer($("measure"), run().measures.map(({ name }) => [name, name]), measure().name);
  for (const button of document.querySelectorAll(".choice [data-key]"))
    button.ariaPressed = button.value === String(state[button.dataset.key]);
  for (const tab of $("tabs").children) {
    tab.ariaSelected = tab.value === state.view;
    tab.tabIndex = tab.value === state.view ? 0 : -1;
  }
  // The automatic theme is the system's.
  document.documentElement.dataset.theme = state.theme;
  $("theme").value = NEXT_THEME[state.theme];
}

function useControl({ target, type }) {
  const control = target.closest("[data-key]");
  if (!control || (type === "click") !== (control.localName === "button")) return;
  update({ [control.dataset.key]: /^\d+$/.test(control.value) ? Number(control.value) : control.value });
}

function turnTab(event) {
  const step = arrow(event);
  if (!step) return;
  update({ view: VIEWS[(VIEWS.indexOf(state.view) + step + VIEWS.length) % VIEWS.length] });
  $(`tab-${state.view}`).focus();
}

addEventListener("hashchange", () => {
  readAddress();
  render();
});
addEventListener("resize", render);
// On paper every view is shown, so every view is drawn.
addEventListener("beforeprint", () => {
  document.documentElement.dataset.view = "all";
  for (const view of VIEWS) RENDER[view]();
});
addEventListener("afterprint", render);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", render);
addEventListener("click", useControl);
addEventListener("input", useControl);
$("tabs").addEventListener("keydown", turnTab);

document.title = `${record.title} – headprobe report`;
$("title").textContent = record.title;
$("subtitle").textContent = record.subtitle;
const sources = [record.runs, record.budgets, record.evaluations, record.ablations].flat().filter((one) => one.name);
fill($("sources"), sources.map((one) => html`<details><summary>${one.name}</summary>${facts(one.facts)}</details>`));
if (record.left_out.length)
  $("left-out").textContent = `Left out to keep the file small: ${record.left_out.join(", ")}.`;
readAddress();
render();
