// The cases, failed ones first: responses, and prompts with what the chosen head reads of them.

// The kept case that is shown, with its data unpacked and the token that is looked at.
let shown = null;

async function renderCases() {
  const of = run();
  $("view-cases").classList.toggle("empty", !of?.table);
  if (!of?.table) return;
  const cases = await unpack(of.table);
  if (of !== run()) return;
  const isKept = (id) => of.kept.some((one) => one.case_id === id);
  const failed = cases.case_id.filter((id, place) => !cases.accepted[place] && !isKept(id));
  if (!cases.case_id.includes(state.case)) state.case = of.kept[0]?.case_id ?? failed[0] ?? cases.case_id[0];
  const place = cases.case_id.indexOf(state.case);
  const kept = of.kept.find((one) => one.case_id === state.case);
  const data = kept && (await dataOf(kept));
  if (of !== run() || cases.case_id[place] !== state.case) return;
  renderCaseList(of, cases, failed);
  fill($("case-heading"), caseHeading(of, cases, place));
  $("case-body").classList.toggle("empty", !kept);
  if (kept) renderKept(of, kept, data);
}

function badge(of, passed) {
  const word = passed ? "passed" : "failed";
  return of.asks && html`<span class=${`badge ${word}`}>${word}</span>`;
}

function renderCaseList(of, cases, failed) {
  const list = (title, ids) => {
    const items = ids.map(([id, why]) => {
      const place = cases.case_id.indexOf(id);
      return html`<li>
        <button class="case" aria-pressed=${id === state.case} @click=${() => update({ case: id, step: null })}>
          <b>Case ${id}</b>${badge(of, cases.accepted[place])}
          <small>${cases.where[place]}${why && `; ${why}`}</small></button></li>`;
    });
    return items.length > 0 && html`<h3>${title}</h3><ul class="plain">${items}</ul>`;
  };
  fill($("case-list"), html`<h2>Cases</h2><p class="note">${of.passed}</p>
    ${list("Kept with their attention", of.kept.map((one) => [one.case_id, one.why]))}
    ${list("Failed cases", failed.slice(0, 100).map((id) => [id]))}
    ${failed.length > 100 && html`<p class="note">and ${whole(failed.length - 100)} more</p>`}`);
}

function caseHeading(of, cases, place) {
  const told = [
    ["Response", cases.response[place] || "nothing"],
    ["Expected", cases.answer[place], "answer"],
    ["Wrong answer", cases.wrong_answer[place], "wrong"],
  ].filter(([, text]) => of.asks && text);
  return html`<div class="heading"><h2>Case ${cases.case_id[place]}</h2>${badge(of, cases.accepted[place])}</div>
    <p class="note">${cases.where[place]}, ${cases.about[place]}</p>
    <dl class="answers">${told.map(([name, text, look]) => html`<dt>${name}</dt><dd class=${look}>${text}</dd>`)}</dl>`;
}

// A kept case's data: its texts, its bins, and for each head of the run's list and each step the
// attention by token.
async function dataOf({ text, bins, rows, stretches, steps }) {
  const packed = [text, bins, rows.count, rows.step, rows.level];
  const [texts, levels, counts, moves, weights] = await Promise.all(packed.map(unpack));
  let at = 0;
  const read = Array.from(counts, (count) => {
    const row = new Map();
    for (let token = 0, end = at + count; at < end; at += 1) row.set((token += moves[at]), (weights[at] / 255) ** 2);
    return row;
  });
  const tokens = stretches.flatMap(([start, end]) => Array.from({ length: end - start }, (_, i) => start + i));
  const counted = steps.flatMap((step, i) => (step.counts ? [i] : []));
  return { texts: texts.flat(), bins: levels, rows: read, tokens, counted };
}

function renderKept(of, kept, data) {
  const again = shown?.kept === kept;
  shown = { ...data, of, kept, token: again ? shown.token : null };
  const [own, names] = [headName(state.layer, state.head), of.heads.map((head) => headName(...head))];
  offer($("read-by"), [...new Set([own, ...names])].map((name) => [name, `head ${name}`]), own);
  fill($("steps"), html`<span class="note">${of.asks ? "Said:" : "Read:"}</span>
    ${chip({ text: "all steps", title: "the mean over the steps that count" }, null)}${kept.steps.map(chip)}`);
  $("coarse").hidden = names.includes(own);
  for (const mark of $("marks").children) mark.hidden = kept.marks[mark.className]?.length === 0;
  paintStrip();
  if (!again) $("prompt").replaceChildren(...promptSpans());
  shadePrompt(state.step);
  showReaders(shown.token ?? mostRead());
  if (!again) $("prompt").scrollTop = ($("prompt").querySelector(".needle")?.offsetTop ?? 0) - 120;
}

// A step of the answer: hovering or focusing it shades the prompt by the head's row of that step.
const chip = ({ text, title, counts }, step) => html`<button class=${counts ? "chip counted" : "chip"} title=${title}
  aria-pressed=${step === state.step} @click=${() => update({ step: step === state.step ? null : step })}
  @pointerenter=${() => shadePrompt(step)} @pointerleave=${() => shadePrompt(state.step)}
  @focus=${() => shadePrompt(step)}>${visible(text)}</button>`;
const visible = (text) => text.replace(/\n/g, "⏎").replace(/^ /, "·") || "∅";

function promptSpans() {
  const { kept, texts, tokens } = shown;
  const marked = (token) => Object.keys(kept.marks)
    .filter((name) => kept.marks[name].some(([start, end]) => token >= start && token < end));
  return tokens.flatMap((token, i) => {
    const skipped = token - (tokens[i - 1] ?? -1) - 1;
    return [
      ...(skipped ? [html`<span class="gap">⋯ ${plural(skipped, "token")} ⋯</span>`] : []),
      html`<span class=${marked(token).join(" ")} data-token=${token}>${texts[i]}</span>`,
    ];
  });
}

// How much a head reads a token at a step, or on average over the steps that count: by its rows
// where these are kept, else by one of 256 stretches of the context.
function reads(layer, head, token, step = null) {
  const { of, kept, rows, counted } = shown;
  const place = of.heads.findIndex((one) => one[0] === layer && one[1] === head);
  if (place < 0) return coarsely(layer, head, token);
  const steps = step === null ? counted : [step];
  return sum(steps.map((one) => rows[place * kept.steps.length + one].get(token) ?? 0)) / steps.length;
}
const coarsely = (layer, head, token) =>
  (shown.bins[(layer * shown.of.model.heads + head) * 256 + Math.floor((token * 256) / shown.kept.tokens)] / 15) ** 2;

function shadePrompt(step) {
  for (const span of $("prompt").querySelectorAll("[data-token]")) {
    const strength = reads(state.layer, state.head, Number(span.dataset.token), step);
    span.style.setProperty("--strength", `${Math.round(100 * Math.sqrt(Math.min(1, strength)))}%`);
    span.classList.toggle("read", strength > 0.002);
  }
}

// The token that the head reads most, but for the first, on which heads rest that look for nothing.
function mostRead() {
  const strengths = shown.tokens.map((token) => (token ? reads(state.layer, state.head, token, state.step) : -1));
  return shown.tokens[strengths.indexOf(Math.max(...strengths))];
}

// The heads that read a token most: exactly those that are kept by token, then all by stretch.
function showReaders(token) {
  const { of, tokens, texts } = shown;
  shown.at = token;
  const line = (what, heads, strength) => {
    const best = heads.map((head) => [strength(...head, token), ...head]).filter(([weight]) => weight > 0);
    const chips = best.sort(([a], [b]) => b - a).slice(0, 8).map(([weight, layer, head]) => html`
      <button class="chip" @click=${() => update({ layer, head })}>
        <b>${headName(layer, head)}</b> ${Math.round(100 * weight)} %</button>`);
    return html`<p class="steps"><span class="note">${what}</span>${chips.length ? chips : "none"}</p>`;
  };
  const all = of.measures[0].score.flatMap((row, layer) => row.map((_, head) => [layer, head]));
  const text = visible(texts[tokens.indexOf(token)]);
  fill($("readers"), html`<h3>Who reads token <code>${text}</code> (${whole(token)})</h3>
    ${line("of the top heads:", of.heads, reads)}${line("of all heads, this 1/256 of the context:", all, coarsely)}`);
  $("prompt").querySelector(".at")?.classList.remove("at");
  $("prompt").querySelector(`[data-token="${token}"]`)?.classList.add("at");
}

function lookAt(span) {
  const token = Number(span.dataset.token ?? NaN);
  if (Number.isNaN(token) || token === shown.at) return;
  shown.token = token;
  showReaders(token);
}

// 256 stretches of the whole context, and where the needle lies.
function paintStrip() {
  const { of, kept, bins } = shown;
  const [at, colour] = [(state.layer * of.model.heads + state.head) * 256, colours(state.map)];
  const stop = (bin, i) => `rgb(${colour(bin / 15)}) ${i / 2.56}% ${(i + 1) / 2.56}%`;
  const stops = Array.from(bins.slice(at, at + 256), stop);
  $("strip").style.background = `linear-gradient(to right, ${stops})`;
  const [start, end] = kept.marks.needle[0].map((token) => (100 * token) / kept.tokens);
  $("strip-needle").style.cssText = `margin-left: ${start}%; width: ${end - start}%`;
  $("strip-end").textContent = `token ${whole(kept.tokens - 1)}`;
}

// Not pointerover, which scrolling brings about too.
for (const name of ["pointermove", "click"]) $("prompt").addEventListener(name, ({ target }) => lookAt(target));
$("prompt").addEventListener("keydown", (event) => {
  const step = arrow(event);
  if (!step) return;
  const place = clamp(shown.tokens.indexOf(shown.at) + step, 0, shown.tokens.length - 1);
  const span = $("prompt").querySelector(`[data-token="${shown.tokens[place]}"]`);
  lookAt(span);
  span.scrollIntoView({ block: "nearest" });
});
$("read-by").addEventListener("input", ({ target }) => {
  const [layer, head] = target.value.split("-").map(Number);
  update({ layer, head });
});
