// A kept case: its prompt, marked and shaded by what the chosen head reads.

// Of a kept case the number of steps, the steps that count, and where the chosen head's rows are.
const stepsOf = (kept) => kept.rows.count.shape[1];
const countedOf = (kept) => (kept.steps[0] < kept.steps[1] ? kept.steps : [0, stepsOf(kept)]);
const placeIn = (of) => of.heads.findIndex(([layer, head]) => layer === state.layer && head === state.head);
// The chosen head's 256 bins, and the attention that a head of theirs gives a token's stretch.
const binOf = (kept, token) => Math.floor((token * 256) / kept.tokens);
const coarse = (bins, of, layer, head, bin) => (bins[(layer * of.model.heads + head) * 256 + bin] / 15) ** 2;

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

// What is needed to show a case by the chosen head: its data, unpacked, and the chosen step.
async function keptView(of, kept) {
  const [texts, bins, rows] = await Promise.all([unpack(kept.text), unpack(kept.bins), rowsOf(kept)]);
  return { of, kept, texts, bins, rows, step: state.step !== null && state.step < stepsOf(kept) ? state.step : null };
}

function keptNodes(view) {
  const { of, kept } = view;
  return [
    make("div.toolbar", headPicker(of)),
    stepChips(view),
    make("div.frame.strip", stripPicture(view)),
    placeIn(of) < 0 &&
      make(
        "p.note",
        `This head is not among the ${of.heads.length} with the highest scores, whose rows are kept by token: the shades are those of 256 stretches of the context.`,
      ),
    make(
      "p.key",
      make("span.needle", "needle"),
      make("span.span", "watched"),
      kept.answer_at.length > 0 && make("span.answer", "answer"),
      kept.wrong_at.length > 0 && make("span.wrong", "wrong answer"),
      make("span.shade", "read by this head"),
    ),
    make(
      "div.prompt",
      {
        id: "prompt",
        "data-case": kept.case_id,
        tabindex: "0",
        role: "group",
        "aria-label": "Prompt; the left and right arrows move over its tokens",
        // Not pointerover, which scrolling brings about too.
        onpointermove: (event) => overToken(event.target, view),
        onclick: (event) => overToken(event.target, view),
        onkeydown: (event) => stepToken(event, view),
      },
      promptSpans(view),
    ),
    make("div", { id: "readers", "aria-live": "polite" }, readers(view, firstToken(view))),
  ];
}

// The token that was pointed at, or else the one that the head reads most; but for the first, on
// which heads rest that look for nothing.
function firstToken(view) {
  const { kept } = view;
  if (hoveredToken?.case === kept.case_id) return hoveredToken.token;
  const strength = strengths(view);
  return kept.stretches
    .flatMap(([start, end]) => Array.from({ length: end - start }, (_, i) => start + i))
    .reduce((best, token) => (token && strength(token) > strength(best) ? token : best), kept.span[0]);
}

// Scroll a prompt to its needle, or, where it was shown before, to where it was.
function scrollPrompt(view, before) {
  const prompt = $("prompt");
  const same = before?.dataset.case === prompt.dataset.case;
  markToken(view);
  prompt.scrollTop = same ? before.dataset.top : (prompt.querySelector(".needle")?.offsetTop ?? 120) - 120;
  prompt.addEventListener("scroll", () => (prompt.dataset.top = prompt.scrollTop));
  prompt.dataset.top = prompt.scrollTop;
}

function markToken({ shown }) {
  $("prompt").querySelector(".at")?.classList.remove("at");
  $("prompt").querySelector(`[data-token="${shown}"]`)?.classList.add("at");
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
  const chip = (i) =>
    make(
      "button",
      {
        class: i >= start && i < end ? "chip counted" : "chip",
        "aria-pressed": String(i === step),
        title: `step ${i}${i >= start && i < end ? ", writes the answer" : ""}`,
        onclick: () => setStep(i === state.step ? null : i),
        onpointerenter: () => previewStep(i),
        onpointerleave: () => previewStep(state.step),
        onfocus: () => previewStep(i),
      },
      visible(kept.chosen[i] ?? `query ${kept.first_query + i}`),
    );
  return make(
    "div.steps",
    { role: "group", "aria-label": "Steps of the answer" },
    make("span.note", kept.chosen.length ? "Said:" : "Read:"),
    make("button", { class: "chip", "aria-pressed": String(step === null), onclick: () => setStep(null) }, "all steps"),
    Array.from({ length: stepsOf(kept) }, (_, i) => chip(i)),
  );
}

const visible = (text) => text.replace(/\n/g, "⏎").replace(/^ /, "·") || "∅";
const setStep = (step) => update({ step });

async function previewStep(step) {
  const of = run();
  const kept = of.kept.find((one) => one.case_id === state.case);
  if (!kept) return;
  const strength = strengths({ ...(await keptView(of, kept)), step });
  for (const span of $("prompt")?.querySelectorAll("[data-token]") ?? [])
    shade(span, strength(Number(span.dataset.token)));
}

// How strongly the chosen head reads a token: by its rows if these are kept, else by its bins.
function strengths({ of, kept, bins, rows, step }) {
  const place = placeIn(of);
  if (place < 0) return (token) => coarse(bins, of, state.layer, state.head, binOf(kept, token));
  return (token) => exact(kept, rows, place, token, step === null ? countedOf(kept) : [step, step + 1]);
}

// The mean attention on a token over steps, of a head whose rows are kept by token.
function exact(kept, rows, place, token, [start, end]) {
  const first = place * stepsOf(kept);
  return (
    rows.slice(first + start, first + end).reduce((sum, weights) => sum + (weights.get(token) ?? 0), 0) / (end - start)
  );
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
    if (start > before) parts.push(make("span.gap", `⋯ ${plural(start - before, "token")} ⋯`));
    texts[i].forEach((text, j) => {
      const token = start + j;
      const inNeedle = token >= kept.needle[0] && token < kept.needle[1];
      const classes = [
        inNeedle && "needle",
        token >= kept.span[0] && token < kept.span[1] && "span",
        within(kept.answer_at, token) && "answer",
        within(kept.wrong_at, token) && "wrong",
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

function overToken(span, view) {
  const token = span.dataset?.token;
  if (token === undefined || Number(token) === view.shown) return;
  hoveredToken = { case: view.kept.case_id, token: Number(token) };
  fill($("readers"), readers(view, Number(token)));
  markToken(view);
}

function stepToken(event, view) {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!step) return;
  event.preventDefault();
  const spans = [...$("prompt").querySelectorAll("[data-token]")];
  const here = spans.findIndex((span) => Number(span.dataset.token) === view.shown);
  const next = spans[clamp(here + step, 0, spans.length - 1)];
  overToken(next, view);
  next.scrollIntoView({ block: "nearest" });
}

// The heads that read a token most: exactly those that are kept by token, then all by stretch.
function readers(view, token) {
  const { of, kept, texts, bins, rows } = view;
  view.shown = token;
  const tops = of.heads.map(([layer, head], i) => [layer, head, exact(kept, rows, i, token, countedOf(kept))]);
  const all = measure(of).score.flatMap((row, layer) =>
    row.map((_, head) => [layer, head, coarse(bins, of, layer, head, binOf(kept, token))]),
  );
  const best = (list) =>
    list
      .filter((one) => one[2] > 0)
      .sort((a, b) => b[2] - a[2])
      .slice(0, 8);
  const buttons = (list) =>
    best(list).map(([layer, head, weight]) =>
      make(
        "button",
        { class: "chip", onclick: () => update({ layer, head }) },
        make("b", headName(layer, head)),
        ` ${percent(weight, 0)}`,
      ),
    );
  const stretch = kept.stretches.findIndex(([from, to]) => token >= from && token < to);
  const text = stretch >= 0 ? texts[stretch][token - kept.stretches[stretch][0]] : "";
  const line = (label, list) =>
    make("p.steps", make("span.note", label), best(list).length ? buttons(list) : make("span.note", "none"));
  return [
    make("h3", "Who reads token ", make("code", visible(text)), ` (${whole(token)})`),
    line("of the top heads:", tops),
    line("of all heads, this 1/256 of the context:", all),
  ];
}

// 256 stretches of the whole context, and where the needle lies.
function stripPicture({ of, kept, bins }) {
  const canvas = make("canvas", {
    width: 1024,
    height: 34,
    class: "strip",
    role: "img",
    "aria-label": "Attention of this head over the whole context, in 256 stretches",
  });
  const pen = canvas.getContext("2d");
  const at = (state.layer * of.model.heads + state.head) * 256;
  for (let bin = 0; bin < 256; bin += 1) {
    pen.fillStyle = css(colourAt(state.map, bins[at + bin] / 15));
    pen.fillRect(bin * 4, 0, 4, 26);
  }
  pen.fillStyle = ink("needle");
  const x = (token) => (1024 * token) / kept.tokens;
  pen.fillRect(x(kept.needle[0]), 28, Math.max(5, x(kept.needle[1]) - x(kept.needle[0])), 6);
  return [
    canvas,
    make(
      "p.note.ends",
      make("span", "token 0"),
      make("span", "the line below marks the needle"),
      make("span", `token ${whole(kept.tokens - 1)}`),
    ),
  ];
}
