// The cases: prompts with what the chosen head reads of them, failed cases first.

const WHY = {
  failed: "failed",
  best: "top heads score highest",
  worst: "top heads score lowest",
  deepest: "deepest needle",
};
let hoveredToken = null;

const passedIn = (cases, place) => cases.accepted[place];

async function renderCases() {
  const panel = $("view-cases");
  const of = run();
  if (!of || !of.table) return fill(panel, make("p.card", "No table of cases is in this report."));
  const cases = await unpack(of.table);
  if (of !== run()) return;
  const places = new Map(cases.case_id.map((id, place) => [id, place]));
  const order = { failed: 0, worst: 1, best: 2, deepest: 3 };
  const kept = [...of.kept].sort((a, b) => order[a.why] - order[b.why]);
  const known = new Set(kept.map((one) => one.case_id));
  if (state.case === null || !places.has(state.case))
    state.case = kept[0]?.case_id ?? cases.case_id.find((_, place) => !passedIn(cases, place)) ?? cases.case_id[0];
  const failed = cases.case_id.filter((id, place) => !passedIn(cases, place) && !known.has(id));
  const place = places.get(state.case);
  const chosen = kept.find((one) => one.case_id === state.case) ?? null;
  const view = chosen && (await keptView(of, chosen));
  if (of !== run() || cases.case_id[place] !== state.case) return;
  const before = $("prompt");
  const body = view
    ? keptNodes(view)
    : [
        make("p.note", "The attention rows of this case were not kept. "),
        make(
          "p",
          make("code", "headprobe score --keep-rows 6"),
          " with the options of this run reads a few telling cases again and keeps theirs.",
        ),
      ];
  refill(
    panel,
    make(
      "div.columns.narrow",
      make("div.card", { id: "case-list" }, caseList(of, cases, places, kept, failed)),
      make(
        "article.card.wide",
        { id: "case" },
        caseHeading(of, cases, place, chosen),
        make("div", { id: "case-body" }, body),
      ),
    ),
  );
  if (view) scrollPrompt(view, before);
}

function caseList(of, cases, places, kept, failed) {
  const item = (id, note) => {
    const place = places.get(id);
    return make(
      "li",
      make(
        "button",
        {
          class: `case ${passedIn(cases, place) ? "passed" : "failed"}`,
          "aria-pressed": String(id === state.case),
          onclick: () => update({ case: id, step: null }),
        },
        make("b", `Case ${id}`),
        of.asks && make("span.badge", passedIn(cases, place) ? "passed" : "failed"),
        make(
          "small",
          `${whole(cases.length[place])} tokens, ${Math.round(cases.depth[place])} % deep${note ? `; ${note}` : ""}`,
        ),
      ),
    );
  };
  const shown = failed.slice(0, 100);
  return [
    make("h2", "Cases"),
    make(
      "p.note",
      of.asks
        ? `${whole(of.accepted)} of ${whole(of.cases)} passed.${
            of.failed
              ? ` Failed: ${Object.entries(of.failed)
                  .map(([kind, count]) => `${count} ${kind}`)
                  .join(", ")}.`
              : ""
          }`
        : `${plural(of.cases, "case")}; nothing is asked.`,
    ),
    kept.length > 0 && make("h3", "Kept with their attention"),
    make(
      "ul.plain",
      kept.map((one) => item(one.case_id, WHY[one.why])),
    ),
    shown.length > 0 && make("h3", "Other failed cases"),
    make(
      "ul.plain",
      shown.map((id) => item(id, "")),
    ),
    failed.length > shown.length && make("p.note", `and ${whole(failed.length - shown.length)} more`),
  ];
}

function caseHeading(of, cases, place, chosen) {
  const expected = chosen ? chosen.answer : null;
  const facts = [
    `needle ${cases.needle_id[place]}`,
    cases.kind[place],
    `${whole(cases.length[place])} tokens`,
    `${cases.depth[place].toFixed(0)} % deep`,
    of.asks && `grade ${cases.success[place].toFixed(0)}`,
  ];
  return [
    make(
      "div.heading",
      make("h2", `Case ${cases.case_id[place]}`),
      of.asks &&
        make(
          "span",
          { class: `badge ${passedIn(cases, place) ? "passed" : "failed"}` },
          passedIn(cases, place) ? "passed" : "failed",
        ),
    ),
    make("p.note", facts.filter(Boolean).join(", ")),
    of.asks &&
      make(
        "dl.answers",
        make("dt", "Response"),
        make("dd", cases.response[place] || "nothing"),
        expected && [make("dt", "Expected"), make("dd.answer", expected)],
        chosen?.wrong_answer && [make("dt", "Wrong answer"), make("dd.wrong", chosen.wrong_answer)],
      ),
  ];
}
