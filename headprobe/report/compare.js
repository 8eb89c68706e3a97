// Two rankings side by side with one cursor, their difference, and a scatter of ranks.

const sideHint = (place) => (layer, head) => {
  const { measure: its } = chosenPair()[place];
  return [
    `Layer ${layer}, head ${head}`,
    `${its.name} ${number(its.score[layer][head])}, rank ${whole(its.rank[layer][head])}`,
  ];
};
const goTo = (layer, head) => update({ layer, head });
const sides = [0, 1].map(
  (place) =>
    new Heatmap({
      label: `${place ? "Second" : "First"} ranking by layer and head`,
      pick: goTo,
      hint: sideHint(place),
    }),
);
const differenceMap = new Heatmap({
  label: "Difference of the rankings by layer and head",
  pick: goTo,
  hint: (layer, head) => [`Layer ${layer}, head ${head}`, ...[0, 1].map((place) => sideHint(place)(layer, head)[1])],
});

function chosenPair() {
  const one = state.one ?? rankings.findIndex((its) => its.run === run() && its.measure === measure());
  const fits = (place) => place !== one && modelKey(rankings[place].run.model) === modelKey(rankings[one].run.model);
  const places = rankings.map((_, place) => place).filter(fits);
  const sameRun = (place) => rankings[place].run === rankings[one].run;
  const other =
    state.other !== null && fits(state.other) ? state.other : (places.find((place) => !sameRun(place)) ?? places[0]);
  return other === undefined ? [] : [rankings[one], rankings[other]];
}

function renderCompare() {
  const panel = $("view-compare");
  const pair = rankings.length ? chosenPair() : [];
  if (!pair.length)
    return fill(
      panel,
      make(
        "p.card",
        "One ranking has nothing to be compared with: give the report another run of the same layout, or score more measures.",
      ),
    );
  if (!$("compare-tools")) {
    fill(
      panel,
      make("div.card", make("div", { id: "compare-tools" })),
      make(
        "div.charts",
        [...sides, differenceMap].map((map, i) =>
          make(
            "article.card",
            make("h2", { id: `compare-name-${i}` }),
            make("div.frame", map.canvas),
            make("div", { id: `compare-legend-${i}` }),
          ),
        ),
        make("article.card", make("h2", "Ranks"), make("div", { id: "scatter" })),
      ),
    );
  }
  const options = rankings.map((its, place) => [place, rankingLabel(its)]);
  const at = pair.map((its) => rankings.indexOf(its));
  refill(
    $("compare-tools"),
    make(
      "div.toolbar",
      select("One", options, at[0], (value) => update({ one: Number(value) })),
      select("Other", options, at[1], (value) => update({ other: Number(value) })),
      choice(
        "Scale",
        [
          ["value", "Value"],
          ["rank", "Rank"],
        ],
        state.scale,
        (scale) => update({ scale }),
      ),
    ),
    agreement(at),
  );
  const byRank = state.scale === "rank";
  const cursor = [state.layer, state.head];
  const size = groupSize(pair[0].run);
  pair.forEach(({ measure: its }, i) => {
    const values = byRank ? its.rank : its.score;
    drawSide(
      sides[i],
      i,
      rankingLabel(pair[i]),
      values,
      scaleOf(values, { map: state.map, byRank }),
      byRank ? "rank" : `mean ${its.name} score`,
      { group: size, cursor, write: byRank ? whole : evenly(values) },
    );
  });
  const [one, other] = pair.map(({ measure: its }) => (byRank ? its.rank : scaled(its, pair)));
  const difference = one.map((row, layer) =>
    row.map((value, head) => (byRank ? value - other[layer][head] : other[layer][head] - value)),
  );
  const what = byRank
    ? "ranks gained in the other"
    : pair[0].measure.name === pair[1].measure.name
      ? "other less one"
      : "other less one, each over its highest";
  drawSide(differenceMap, 2, "Difference", difference, scaleOf(difference, { map: state.map, diverging: true }), what, {
    group: size,
    cursor,
    write: byRank ? whole : evenly(difference),
  });
  fill($("scatter"), scatter(pair));
}

// Scores as they are of one measure; of two measures each over its highest.
function scaled(its, pair) {
  if (pair[0].measure.name === pair[1].measure.name) return its.score;
  const most = Math.max(...its.score.flat()) || 1;
  return its.score.map((row) => row.map((value) => value / most));
}

function drawSide(map, place, name, values, scale, what, rest) {
  $(`compare-name-${place}`).textContent = name;
  map.draw({ values, scale, ...rest });
  fill($(`compare-legend-${place}`), legend(scale, what));
}

function agreement(at) {
  const names = at.map((place) => rankings[place].at.join());
  const found = record.agreements.find((one) =>
    [names.join(" "), [...names].reverse().join(" ")].includes(`${one.one.join()} ${one.other.join()}`),
  );
  return found
    ? make(
        "p.note",
        `Rank correlation ${found.rank_correlation.toFixed(2)} (Spearman); the top ${found.k} heads overlap by ${percent(found.overlap, 0)}.`,
      )
    : null;
}

function scatter(pair) {
  const count = pair[0].run.model.layers * pair[0].run.model.heads;
  const place = (rank) => Math.log(rank) / Math.log(count);
  const [x, y] = [(rank) => 46 + 350 * (1 - place(rank)), (rank) => 10 + 350 * place(rank)];
  const ticks = [1, 10, 100, 1000, 10000].filter((tick) => tick <= count);
  const [one, other] = pair.map((its) => its.measure.rank);
  const dots = one.flatMap((row, layer) =>
    row.map((rank, head) =>
      shape(
        "circle",
        {
          cx: x(rank),
          cy: y(other[layer][head]),
          r: layer === state.layer && head === state.head ? 7 : 3.5,
          class: layer === state.layer && head === state.head ? "dot now" : "dot",
          onclick: () => goTo(layer, head),
        },
        shape("title", {}, `${headName(layer, head)}: rank ${rank} and ${other[layer][head]}`),
      ),
    ),
  );
  // The cursor's dot last, so that it lies on top.
  dots.push(...dots.splice(state.layer * pair[0].run.model.heads + state.head, 1));
  const text = (left, top, anchor, words) => shape("text", { x: left, y: top, "text-anchor": anchor }, words);
  return shape(
    "svg",
    {
      class: "chart scatter",
      viewBox: "0 0 410 400",
      role: "img",
      "aria-label": "Ranks of all heads in the two rankings, rank 1 at the top right",
    },
    ticks.flatMap((tick) => [
      shape("line", { class: "rule", x1: x(tick), x2: x(tick), y1: 10, y2: 360 }),
      shape("line", { class: "rule", x1: 46, x2: 396, y1: y(tick), y2: y(tick) }),
      text(x(tick), 376, "middle", tick),
      text(40, y(tick) + 4, "end", tick),
    ]),
    text(221, 394, "middle", "rank in the one (upright: in the other)"),
    dots,
  );
}
