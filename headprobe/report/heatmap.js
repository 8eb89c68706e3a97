// A canvas of layers by heads with one cursor, by mouse, touch and keyboard, and its colours.

// The room of the axes' numbers, in pixels.
const [LEFT, TOP] = [30, 18];
const STEPS = {
  ...{ ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] },
  ...{ PageUp: [-8, 0], PageDown: [8, 0], Home: [0, -1e4], End: [0, 1e4], Escape: [0, 0] },
};

// A colour of the page's style as a canvas takes it.
function ink(name) {
  $("said").style.color = `var(--${name})`;
  return getComputedStyle($("said")).color;
}
const lightness = ([red, green, blue]) => 0.299 * red + 0.587 * green + 0.114 * blue;

// A writer of colours of a scale of the page's style, each at a place from 0 to 1.
function colours(map) {
  const hexes = getComputedStyle(document.documentElement).getPropertyValue(`--${map}`).match(/\w{6}/g);
  const stops = hexes.map((hex) => [0, 2, 4].map((at) => parseInt(hex.slice(at, at + 2), 16)));
  return (place) => {
    const at = clamp(place || 0, 0, 1) * (stops.length - 1);
    const low = Math.min(stops.length - 2, Math.floor(at));
    return stops[low].map((part, i) => Math.round(part + (stops[low + 1][i] - part) * (at - low)));
  };
}

// How values become colours; ranks are spread by their logarithm, so that the top shows.
function scaleOf(values, { byRank = false, diverging = null } = {}) {
  const all = values.flat().filter(Number.isFinite);
  const [least, most] = [Math.min(...all), Math.max(...all)];
  const reach = Math.max(-least, most) || 1;
  const signed = !byRank && (diverging ?? least < -1e-6 * reach);
  const map = signed ? "diverging" : state.map;
  const [low, high] = signed ? [-reach, reach] : byRank ? [all.length, 1] : [Math.min(0, least), most > 0 ? most : 1];
  const [colour, log] = [colours(map), byRank ? Math.log : Number];
  return {
    ...{ map, ends: byRank ? [`rank ${whole(low)}`, "rank 1"] : [number(low), number(high)] },
    colour: (value) => colour((log(value) - log(low)) / (log(high) - log(low) || 1)),
    write: (value) => (byRank ? whole(value) : number(value, reach)),
  };
}

class Heatmap {
  // `pick(layer, column)`, `brush([[layer, column], ...])` and `hint(layer, column)` are callbacks.
  constructor(id, { pick, hint, brush = null }) {
    Object.assign(this, { pick, hint, brush, chosen: [] });
    [this.canvas, this.legend] = $(id).children;
    for (const name of ["pointermove", "pointerleave", "pointerdown", "pointerup", "keydown"])
      this.canvas.addEventListener(name, (event) => this[name](event));
  }

  // Draw `values`, a row a layer; `group` columns share a KV head, `label` says what they are.
  draw({ values, group = 1, cursor, label, ...kind }) {
    const scale = scaleOf(values, kind);
    Object.assign(this, { values, scale, group, cursor, rows: values.length, columns: values[0].length });
    const [low, high] = scale.ends;
    fill(this.legend, html`<span>${label}</span><span class="ramp">
      <span class="end">${low}</span><i class=${`bar ${scale.map}`}></i><span class="end">${high}</span></span>`);
    this.paint();
  }

  paint() {
    const { canvas, rows, columns } = this;
    const width = canvas.clientWidth;
    if (!width || !this.values) return;
    const across = (width - LEFT - 2) / columns;
    const down = clamp(0.8 * across, 11, clamp(640 / rows, 17, 36));
    const height = TOP + rows * down + 2;
    const pen = canvas.getContext("2d");
    [canvas.width, canvas.height] = [width, height].map((size) => size * devicePixelRatio);
    canvas.style.height = `${height}px`;
    pen.scale(devicePixelRatio, devicePixelRatio);
    Object.assign(this, { pen, cell: { across, down } });
    Object.assign(pen, { font: "11px system-ui, sans-serif", textBaseline: "middle", textAlign: "center" });
    pen.fillStyle = ink("soft");
    for (let i = 0; i < rows; i += Math.ceil(13 / down)) pen.fillText(i, LEFT / 2, TOP + (i + 0.5) * down);
    for (let i = 0; i < columns; i += Math.ceil(24 / across)) pen.fillText(i, LEFT + (i + 0.5) * across, 8);
    this.values.forEach((row, layer) => row.forEach((value, column) => this.paintCell([layer, column], value)));
    for (const head of this.chosen) this.frame(head, "accent", 2);
    if (this.hovered) this.frame(this.hovered, "ink", 1);
    this.frame(this.cursor, "ground", 4);
    this.frame(this.cursor, "cursor", 2.5);
  }

  // A head's left, top, width and height; groups of a KV head stand apart.
  box([layer, column]) {
    const { group, cell: { across, down } } = this;
    const [apart, gap] = [Math.min(2.5, across / 5), across > 12 ? 1 : 0.4];
    const before = group > 1 && column % group === 0 ? apart : 0;
    const after = group > 1 && (column + 1) % group === 0 ? apart : gap;
    const [left, top] = [LEFT + column * across + before, TOP + layer * down];
    return [left, top, across - before - after, down - (down > 10 ? 1 : 0.4)];
  }

  paintCell(head, value) {
    const [left, top, width, height] = this.box(head);
    const colour = this.scale.colour(value);
    this.pen.fillStyle = `rgb(${colour})`;
    this.pen.fillRect(left, top, width, height);
    if (width <= 42 || height <= 15) return;
    this.pen.fillStyle = lightness(colour) > 140 ? "#111" : "#fff";
    this.pen.fillText(this.scale.write(value), left + width / 2, top + height / 2 + 0.5);
  }

  frame([layer, column], colour, width) {
    if (layer >= this.rows || column >= this.columns) return;
    Object.assign(this.pen, { strokeStyle: ink(colour), lineWidth: width });
    this.pen.strokeRect(...this.box([layer, column]));
  }

  at({ clientX, clientY }) {
    const { left, top } = this.canvas.getBoundingClientRect();
    const layer = Math.floor((clientY - top - TOP) / this.cell.down);
    const column = Math.floor((clientX - left - LEFT) / this.cell.across);
    return this.values[layer]?.[column] === undefined ? null : [layer, column];
  }

  pointermove(event) {
    this.hovered = this.at(event);
    if (this.hovered) showHint(event, this.hint(...this.hovered));
    else hideHint();
    if (this.anchor && this.hovered && this.brush) this.choose(this.anchor, this.hovered);
    this.paint();
  }

  pointerleave() {
    this.hovered = null;
    hideHint();
    this.paint();
  }

  pointerdown(event) {
    this.anchor = this.at(event);
    this.chosen = [];
    if (this.anchor && event.pointerType !== "touch") this.canvas.setPointerCapture(event.pointerId);
  }

  pointerup(event) {
    const [from, to] = [this.anchor, this.at(event)];
    this.anchor = null;
    if (!from || !to) return;
    if (this.brush && String(from) !== String(to)) return this.brush(this.chosen);
    this.brush?.([]);
    this.pick(...to);
  }

  // Choose the heads of the rectangle between two.
  choose(one, other) {
    const within = (place, i) => place >= Math.min(one[i], other[i]) && place <= Math.max(one[i], other[i]);
    const all = this.values.flatMap((row, layer) => row.map((_, column) => [layer, column]));
    this.chosen = all.filter((head) => head.every(within));
  }

  // Arrows move the cursor, with shift they brush; Home, End and the page keys go further.
  keydown(event) {
    const step = STEPS[event.key];
    if (event.altKey || event.ctrlKey || event.metaKey || !step) return;
    event.preventDefault();
    const most = [this.rows - 1, this.columns - 1];
    const next = this.cursor.map((place, i) => clamp(place + step[i], 0, most[i]));
    if (event.shiftKey) this.choose((this.from ??= this.cursor), next);
    else [this.chosen, this.from] = [[], null];
    this.brush?.(this.chosen);
    this.pick(...next);
    say(this.hint(...next).join(", "));
  }
}
