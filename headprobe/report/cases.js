// The cases: prompts with what the chosen head reads of them, failed cases first.

const WHY = { failed: "failed", best: "top heads score highest", worst: "top heads score lowest", deepest: "deepest needle" };
let hoveredToken = null;

const passedIn = (cases, place) => cases.accepted[place];

async function renderCases() {
  const panel = $("view-cases");
  const of = run();
  if (!of || !of.table) return fill(panel, make("p", { class: "card" }, "No table of cases is in this report."));
  const cases = await unpack(of.table);
  if (of !== run()) return;
  const places = new Map(cases.case_id.map((id, place) => [id, place]));
  const order = { failed: 0, worst: 1, best: 2, deepest: 3 };
  const kept = [...of.kept].sort((a, b) => order[a.why] - order[b.why]);
  const known = new Set(kept.map((one) => one.case_id));
  if (state.case === null || !places.has(state.case)) state.case = kept[0]?.case_id ?? cases.case_id.find((_, place) => !passedIn(cases, place)) ?? cases.case_id[0];
  const failed = cases.case_id.filter((id, place) => !passedIn(cases, place) && !known.has(id));
  const place = places.get(state.case);
  const chosen = kept.find((one) => one.case_id === state.case) ?? null;
  refill(panel, make("div", { class: "columns narrow" },
    make("div", { class: "card", id: "case-list" }, caseList(of, cases, places, kept, failed)),
    make("article", { class: "card wide", id: "case" }, caseHeading(of, cases, place, chosen), make("div", { id: "case-body" }))));
  if (chosen) await renderKept(of, chosen);
  else fill($("case-body"), make("p", { class: "note" }, "The attention rows of this case were not kept. "), make("p", {}, make("code", {}, "headprobe score --keep-rows 6"), " with the options of this run reads a few telling cases again and keeps theirs."));
}

function caseList(of, cases, places, kept, failed) {
  const item = (id, note) => {
    const place = places.get(id);
    return make("li", {}, make("button", { type: "button", class: `case ${passedIn(cases, place) ? "passed" : "failed"}`, "aria-pressed": String(id === state.case), "data-key": `case ${id}`, onclick: () => update({ case: id, step: null }) },
      make("b", {}, `Case ${id}`), make("span", { class: "badge" }, passedIn(cases, place) ? "passed" : "failed"),
      make("small", {}, `${whole(cases.length[place])} tokens, ${Math.round(cases.depth[place])} % deep${note ? `; ${note}` : ""}`)));
  };
  const shown = failed.slice(0, 100);
  return [
    make("h2", {}, "Cases"),
    make("p", { class: "note" }, of.asks ? `${whole(of.accepted)} of ${whole(of.cases)} passed.${of.failed ? ` Failed: ${Object.entries(of.failed).map(([kind, count]) => `${count} ${kind}`).join(", ")}.` : ""}` : `${plural(of.cases, "case")}; nothing is asked.`),
    kept.length > 0 && make("h3", {}, "Kept with their attention"),
    make("ul", { class: "plain" }, kept.map((one) => item(one.case_id, WHY[one.why]))),
    shown.length > 0 && make("h3", {}, "Other failed cases"),
    make("ul", { class: "plain" }, shown.map((id) => item(id, ""))),
    failed.length > shown.length && make("p", { class: "note" }, `and ${whole(failed.length - shown.length)} more`),
  ];
}

function caseHeading(of, cases, place, chosen) {
  const expected = chosen ? chosen.answer : null;
  const facts = [`needle ${cases.needle_id[place]}`, cases.kind[place], `${whole(cases.length[place])} tokens`, `${cases.depth[place].toFixed(0)} % deep`, of.asks && `grade ${cases.success[place].toFixed(0)}`];
  return [
    make("div", { class: "heading" }, make("h2", {}, `Case ${cases.case_id[place]}`), of.asks && make("span", { class: `badge ${passedIn(cases, place) ? "passed" : "failed"}` }, passedIn(cases, place) ? "passed" : "failed")),
    make("p", { class: "note" }, facts.filter(Boolean).join(", ")),
    of.asks && make("dl", { class: "answers" },
      make("dt", {}, "Response"), make("dd", {}, cases.response[place] || "nothing"),
      expected && [make("dt", {}, "Expected"), make("dd", { class: "answer" }, expected)],
      chosen?.wrong_answer && [make("dt", {}, "Wrong answer"), make("dd", { class: "wrong" }, chosen.wrong_answer)]),
  ];
}

// A kept case's rows: for each head of the run's list and each step, attention by token.
async function rowsOf(kept) {
  const [counts, steps, levels] = await Promise.all(["count", "step", "level"].map((name) => unpack(kept.rows[name])));
  const rows = [];
  let at = 0;
  for (const count of counts) {
    const weights = new Map();
    let token = 0;
    for (let i = 0; i < count; i += 1, at += 1) {
      token += steps[at];
      weights.set(token, (levels[at] / 255) ** 2);
    }
    rows.push(weights);
  }
  return rows;
}

async function renderKept(of, kept) {
  const [texts, bins, rows] = await Promise.all([unpack(kept.text), unpack(kept.bins), rowsOf(kept)]);
  if (state.case !== kept.case_id || !$("case-body")) return;
  const place = of.heads.findIndex(([layer, head]) => layer === state.layer && head === state.head);
  const step = state.step !== null && state.step < kept.rows.count.shape[1] ? state.step : null;
  const view = { of, kept, texts, bins, rows, place, step };
  const text = make("div", { class: "prompt", id: "prompt", onpointerover: (event) => overToken(event, view), onpointerleave: () => hideHint() });
  fill(text, promptSpans(view));
  refill($("case-body"),
    make("div", { class: "toolbar" }, headPicker(of)),
    stepChips(view),
    make("div", { class: "frame strip" }, stripPicture(view)),
    place < 0 && make("p", { class: "note" }, `This head is not among the ${of.heads.length} with the highest scores, whose rows are kept by token: the shades are those of 256 stretches of the context.`),
    make("p", { class: "key" }, make("span", { class: "needle" }, "needle"), make("span", { class: "span" }, "watched"), make("span", { class: "answer" }, "answer"), kept.wrong_at.length > 0 && make("span", { class: "wrong" }, "wrong answer"), make("span", { class: "shade" }, "read by this head")),
    text, make("div", { id: "readers", "aria-live": "polite" }));
  const strength = strengths(view);
  // The token that the head reads most, but the first, on which heads rest that look for nothing.
  const most = kept.stretches.flatMap(([start, end]) => Array.from({ length: end - start }, (_, i) => start + i)).reduce((best, token) => (token && strength(token) > strength(best) ? token : best), kept.span[0]);
  renderReaders(view, hoveredToken?.case === kept.case_id ? hoveredToken.token : most);
  const needle = text.querySelector(".needle");
  if (needle) text.scrollTop = needle.offsetTop - 120;
}

function headPicker(of) {
  const value = `${state.layer}-${state.head}`;
  const names = of.heads.map(([layer, head]) => headName(layer, head));
  const options = [...(names.includes(value) ? [] : [value]), ...names].map((name) => [name, `head ${name}`]);
  return select("Read by", options, value, (name) => {
    const [layer, head] = name.split("-").map(Number);
    update({ layer, head });
  });
}

// The answer's steps: hovering or focusing one shades the prompt by the head's row of that step.
function stepChips({ kept, step }) {
  const [start, end] = kept.steps;
  const count = kept.rows.count.shape[1];
  const chip = (i) => make("button", {
    type: "button", class: i >= start && i < end ? "chip counted" : "chip", "aria-pressed": String(i === step), "data-key": `step ${i}`,
    title: `step ${i}${i >= start && i < end ? ", writes the answer" : ""}`,
    onclick: () => setStep(i === state.step ? null : i), onpointerenter: () => previewStep(i), onpointerleave: () => previewStep(state.step), onfocus: () => previewStep(i),
  }, visible(kept.chosen[i] ?? `query ${kept.first_query + i}`));
  return make("div", { class: "steps", role: "group", "aria-label": "Steps of the answer" }, make("span", { class: "note" }, kept.chosen.length ? "Said:" : "Read:"),
    make("button", { type: "button", class: "chip", "aria-pressed": String(step === null), "data-key": "step all", onclick: () => setStep(null) }, "all steps"),
    Array.from({ length: count }, (_, i) => chip(i)));
}

const visible = (text) => text.replace(/\n/g, "⏎").replace(/^ /, "·") || "∅";
const setStep = (step) => update({ step });

async function previewStep(step) {
  const of = run();
  const kept = of.kept.find((one) => one.case_id === state.case);
  if (!kept || !$("prompt")) return;
  const [bins, rows] = await Promise.all([unpack(kept.bins), rowsOf(kept)]);
  const place = of.heads.findIndex(([layer, head]) => layer === state.layer && head === state.head);
  const strength = strengths({ of, kept, bins, rows, place, step });
  for (const span of $("prompt").querySelectorAll("[data-token]")) shade(span, strength(Number(span.dataset.token)));
}

const binOf = (kept, token) => Math.floor((token * 256) / kept.tokens);

// How strongly the chosen head reads a token: by its rows if these are kept, else by its bins.
function strengths({ of, kept, bins, rows, place, step }) {
  const count = kept.rows.count.shape[1];
  if (place < 0) {
    const at = (state.layer * of.model.heads + state.head) * 256;
    return (token) => (bins[at + binOf(kept, token)] / 15) ** 2;
  }
  if (step !== null) {
    const weights = rows[place * count + step];
    return (token) => weights.get(token) ?? 0;
  }
  const [start, end] = kept.steps[0] < kept.steps[1] ? kept.steps : [0, count];
  const counted = rows.slice(place * count + start, place * count + end);
  return (token) => counted.reduce((sum, weights) => sum + (weights.get(token) ?? 0), 0) / counted.length;
}

function shade(span, strength) {
  span.style.setProperty("--strength", `${Math.round(100 * Math.sqrt(clamp(strength, 0, 1)))}%`);
  span.classList.toggle("read", strength > 0.002);
}

function promptSpans(view) {
  const { kept, texts } = view;
  const strength = strengths(view);
  const within = (places, token) => places.some(([start, end]) => token >= start && token < end);
  const parts = [];
  let before = 0;
  kept.stretches.forEach(([start, end], i) => {
    if (start > before) parts.push(make("span", { class: "gap" }, `⋯ ${plural(start - before, "token")} ⋯`));
    texts[i].forEach((text, j) => {
      const token = start + j;
      const inNeedle = token >= kept.needle[0] && token < kept.needle[1];
      const classes = [
        inNeedle && "needle", token >= kept.span[0] && token < kept.span[1] && "span",
        within(kept.answer_at, token) && "answer", within(kept.wrong_at, token) && "wrong",
        kept.question && token >= kept.question[0] && token < kept.question[1] && "question",
      ].filter(Boolean);
      const span = make("span", { class: classes.join(" ") || null, "data-token": token }, text);
      shade(span, strength(token));
      parts.push(span);
    });
    before = end;
  });
  return parts;
}

function overToken(event, view) {
  const token = event.target.dataset?.token;
  if (token === undefined) return;
  hoveredToken = { case: view.kept.case_id, token: Number(token) };
  renderReaders(view, Number(token));
}

// The heads that read a token most: exactly those that are kept by token, then all by stretch.
function renderReaders({ of, kept, texts, bins, rows }, token) {
  const count = kept.rows.count.shape[1];
  const [start, end] = kept.steps[0] < kept.steps[1] ? kept.steps : [0, count];
  const exact = of.heads.map(([layer, head], i) => [layer, head, rows.slice(i * count + start, i * count + end).reduce((sum, one) => sum + (one.get(token) ?? 0), 0) / (end - start)]);
  const bin = binOf(kept, token);
  const coarse = [];
  for (let layer = 0; layer < of.model.layers; layer += 1) {
    for (let head = 0; head < of.model.heads; head += 1) coarse.push([layer, head, (bins[(layer * of.model.heads + head) * 256 + bin] / 15) ** 2]);
  }
  const best = (list) => list.filter((one) => one[2] > 0).sort((a, b) => b[2] - a[2]).slice(0, 8);
  const buttons = (list) => best(list).map(([layer, head, weight]) => make("button", { type: "button", class: "chip", "data-key": `reader ${layer} ${head}`, onclick: () => update({ layer, head }) }, make("b", {}, headName(layer, head)), ` ${percent(weight, 0)}`));
  const stretch = kept.stretches.findIndex(([from, to]) => token >= from && token < to);
  const text = stretch >= 0 ? texts[stretch][token - kept.stretches[stretch][0]] : "";
  const line = (label, list) => make("p", { class: "steps" }, make("span", { class: "note" }, label), best(list).length ? buttons(list) : make("span", { class: "note" }, "none"));
  fill($("readers"), make("h3", {}, "Who reads token ", make("code", {}, visible(text)), ` (${whole(token)})`),
    line("of the top heads:", exact), line(`of all heads, this 1/256 of the context:`, coarse));
}

// 256 stretches of the whole context, and where the needle lies.
function stripPicture({ of, kept, bins }) {
  const canvas = make("canvas", { width: 1024, height: 34, class: "strip", role: "img", "aria-label": "Attention of this head over the whole context, in 256 stretches" });
  const pen = canvas.getContext("2d");
  const at = (state.layer * of.model.heads + state.head) * 256;
  for (let bin = 0; bin < 256; bin += 1) {
    pen.fillStyle = css(colourAt(state.map, bins[at + bin] / 15));
    pen.fillRect(bin * 4, 0, 4, 26);
  }
  pen.fillStyle = ink("needle");
  const x = (token) => (1024 * token) / kept.tokens;
  pen.fillRect(x(kept.needle[0]), 28, Math.max(5, x(kept.needle[1]) - x(kept.needle[0])), 6);
  return [canvas, make("p", { class: "note ends" }, make("span", {}, "token 0"), make("span", {}, "the line below marks the needle"), make("span", {}, `token ${whole(kept.tokens - 1)}`))];
}
