// Two rankings side by side with one cursor, their difference, and a scatter of ranks.

const goTo = (layer, head) => update({ layer, head });
const hintOf = (places) => (layer, head) => [
  `Layer ${layer}, head ${head}`,
  ...places.map((place) => chosenPair()[place].its)
    .map((its) => `${its.name} ${number(its.score[layer][head])}, rank ${whole(its.rank[layer][head])}`),
];
const compareMaps = [[0], [1], [0, 1]].map(
  (places, i) => new Heatmap(`compare-map-${i}`, { pick: goTo, hint: hintOf(places) }),
);

// The two rankings that were chosen, or else this one and one of another run.
function chosenPair() {
  const one = rankings[state.one] ?? rankings.find(({ of, its }) => of === run() && its === measure());
  const others = rankings.filter((other) => other !== one && sameHeads(other.of, one.of));
  const given = others.find((other) => other === rankings[state.other]);
  const other = given ?? others.find(({ of }) => of !== one.of) ?? others[0];
  return other ? [one, other] : [];
}

function renderCompare() {
  const pair = rankings.length ? chosenPair() : [];
  $("view-compare").classList.toggle("empty", !pair.length);
  if (!pair.length) return;
  const options = rankings.map((one, place) => [place, one.label]);
  pair.forEach((one, i) => offer($(i ? "other" : "one"), options, rankings.indexOf(one)));
  const named = rankings.filter((one) => pair.includes(one)).map(({ at }) => at).join();
  $("agreement").textContent = record.agreements.find(({ one, other }) => [one, other].join() === named)?.told ?? "";
  const byRank = state.scale === "rank";
  const alike = pair[0].its.name === pair[1].its.name;
  // Scores as they are of one measure; of two measures each over its highest.
  const [one, other] = pair.map(({ its: { score, rank } }) => {
    const most = alike || byRank ? 1 : Math.max(...score.flat()) || 1;
    return (byRank ? rank : score).map((row) => row.map((value) => value / most));
  });
  const difference = one.map((row, i) => row.map((value, j) => (byRank ? value - other[i][j] : other[i][j] - value)));
  const kinds = [
    ...pair.map(({ its, label: name }) =>
      byRank ? [name, its.rank, "rank"] : [name, its.score, `mean ${its.name} score`]),
    ["Difference", difference, byRank ? "ranks gained in the other"
      : alike ? "other less one" : "other less one, each over its highest"],
  ];
  const shared = { group: groupSize(pair[0].of), cursor: [state.layer, state.head] };
  kinds.forEach(([name, values, what], i) => {
    $(`compare-name-${i}`).textContent = name;
    compareMaps[i].draw({ ...shared, values, label: what, byRank: byRank && i < 2, diverging: i === 2 || null });
  });
  fill($("scatter"), scatter(pair));
}

function scatter([one, other]) {
  const count = headCount(one.of);
  const place = (rank) => (350 * Math.log(rank)) / Math.log(count);
  const [x, y] = [(rank) => 396 - place(rank), (rank) => 10 + place(rank)];
  const dots = one.its.rank.flatMap((row, layer) => row.map((rank, head) => {
    const [beside, now] = [other.its.rank[layer][head], isShown(layer, head)];
    return [now, html`<circle class=${now ? "dot now" : "dot"} cx=${x(rank)} cy=${y(beside)} r=${now ? 7 : 3.5}
      @click=${() => goTo(layer, head)}><title>${headName(layer, head)}: rank ${rank} and ${beside}</title></circle>`];
  }));
  return html`<svg class="chart scatter" viewBox="0 0 410 400" role="img"
      aria-label="Ranks of all heads in the two rankings, rank 1 at the top right">
    ${[1, 10, 100, 1000, 10000].filter((tick) => tick <= count).map((tick) => [
      ...[rule(x(tick), x(tick), 10, 360), rule(46, 396, y(tick), y(tick))],
      ...[label(x(tick), 376, "middle", tick), label(40, y(tick) + 4, "end", tick)],
    ])}${label(221, 394, "middle", "rank in the one (upright: in the other)")}
    ${dots.sort(([a], [b]) => a - b).map(([, dot]) => dot)}</svg>`;
}
