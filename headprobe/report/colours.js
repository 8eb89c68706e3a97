// Colour scales: viridis and cividis of matplotlib, diverging ones for scores with signs.

const SCALES = {
  viridis:
    "440154 481467 482677 443983 3e4c8a 365c8d 2e6d8e 277e8e 21908d 1fa187 2db27d 4ac16d 73d056 a0da39 d0e11c fde725",
  cividis:
    "00224e 002f6f 1d3b6c 34476b 46516c 555c6d 636870 717374 7f7f78 8e8a77 9e9674 aea371 c0b069 d2be5e e5cd4e fee838",
  diverging: "2166ac 3d7fb9 5c98c6 85b4d6 aecfe4 d1e3ee eaf1f4 f7f4f1 fbebe0 fad7c1 f4b798 e69172 d6684f c2433c b2182b",
  night: "b5d4f7 86b4ea 5a92d4 3c71b0 2c5285 22395c 1d2a3f 1c222c 2b2128 48262c 6f3035 984042 c05a56 e08377 f7b3a5",
};
const STOPS = Object.fromEntries(
  Object.entries(SCALES).map(([name, stops]) => [
    name,
    stops.split(" ").map((hex) => [0, 2, 4].map((at) => parseInt(hex.slice(at, at + 2), 16))),
  ]),
);

// The colour at t, from 0 to 1, of a scale.
function colourAt(scale, t) {
  const stops = STOPS[scale];
  const place = clamp(Number.isFinite(t) ? t : 0, 0, 1) * (stops.length - 1);
  const low = Math.min(stops.length - 2, Math.floor(place));
  return stops[low].map((part, i) => Math.round(part + (stops[low + 1][i] - part) * (place - low)));
}

const css = ([red, green, blue], alpha = 1) => `rgb(${red} ${green} ${blue} / ${alpha})`;
const isLight = ([red, green, blue]) => 0.299 * red + 0.587 * green + 0.114 * blue > 140;

// A colour of the page's style as a canvas takes it.
function ink(name) {
  const probe = $("hint");
  probe.style.color = `var(--${name})`;
  const found = getComputedStyle(probe).color;
  probe.style.color = "";
  return found;
}

const isDark = () => !isLight(ink("ground").match(/\d+/g).map(Number));

// The scale of a matrix of values: what 0 and 1 of its colours stand for.
function scaleOf(values, { map, byRank = false, diverging = null }) {
  const flat = values.flat().filter(Number.isFinite);
  const [least, most] = [Math.min(...flat), Math.max(...flat)];
  if (byRank) return { map, low: flat.length, high: 1, byRank };
  if (diverging ?? least < -1e-6 * Math.max(1e-9, most)) {
    const reach = Math.max(Math.abs(least), Math.abs(most)) || 1;
    return { map: isDark() ? "night" : "diverging", low: -reach, high: reach, byRank };
  }
  return { map, low: Math.min(0, least), high: most > 0 ? most : 1, byRank };
}

// Where a value stands between the ends; ranks are spread by their logarithm, so that the top shows.
function placeOn(scale, value) {
  if (scale.byRank) return 1 - Math.log(value) / Math.log(Math.max(2, scale.low));
  return (value - scale.low) / (scale.high - scale.low);
}

function legend(scale, label) {
  const bar = make("canvas", { width: 256, height: 1, class: "bar", "aria-hidden": "true" });
  const pen = bar.getContext("2d");
  for (let x = 0; x < 256; x += 1) {
    pen.fillStyle = css(colourAt(scale.map, x / 255));
    pen.fillRect(x, 0, 1, 1);
  }
  const ends = scale.byRank ? [`rank ${whole(scale.low)}`, "rank 1"] : [number(scale.low), number(scale.high)];
  return make(
    "div.legend",
    make("span", label),
    make("span.ramp", make("span.end", ends[0]), bar, make("span.end", ends[1])),
  );
}
