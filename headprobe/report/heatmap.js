// A canvas of layers by heads with one cursor: by mouse, by touch, by keyboard.

const AXIS = { left: 30, top: 18 };

class Heatmap {
  // `pick(layer, column)`, `brush([[layer, column], ...])` and `hint(layer, column)` are callbacks.
  constructor({ label, pick, brush = null, hint }) {
    Object.assign(this, { pick, brush, hint, hovered: null, anchor: null, chosen: [] });
    this.canvas = make("canvas", {
      class: "heatmap",
      tabindex: "0",
      role: "application",
      "aria-label": label,
      "aria-roledescription": "heatmap",
      onpointermove: (event) => this.move(event),
      onpointerleave: () => this.leave(),
      onpointerdown: (event) => this.press(event),
      onpointerup: (event) => this.release(event),
      onkeydown: (event) => this.key(event),
    });
  }

  // Draw `values`, a row a layer, on `scale`; `group` columns share a KV head.
  draw({ values, scale, group, cursor, write }) {
    Object.assign(this, { values, scale, group, cursor, write });
    this.paint();
  }

  paint() {
    const canvas = this.canvas;
    const width = canvas.parentElement?.clientWidth ?? 0;
    if (!width || !this.values) return;
    const [rows, columns] = [this.values.length, this.values[0].length];
    this.cell = {
      width: (width - AXIS.left - 2) / columns,
      height: clamp(((width - AXIS.left) / columns) * 0.8, rows > 40 ? 8 : 11, Math.max(17, Math.min(36, 640 / rows))),
    };
    const height = AXIS.top + rows * this.cell.height + 2;
    const ratio = Math.max(1, devicePixelRatio || 1);
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    canvas.style.height = `${height}px`;
    const pen = canvas.getContext("2d");
    pen.scale(ratio, ratio);
    this.paintAxes(pen, rows, columns);
    for (let layer = 0; layer < rows; layer += 1) {
      for (let column = 0; column < columns; column += 1) this.paintCell(pen, layer, column);
    }
    for (const [layer, column] of this.chosen) this.frame(pen, layer, column, ink("accent"), 2);
    if (this.hovered) this.frame(pen, ...this.hovered, ink("ink"), 1);
    if (this.cursor) {
      this.frame(pen, ...this.cursor, ink("ground"), 4);
      this.frame(pen, ...this.cursor, ink("cursor"), 2.5);
    }
  }

  box(layer, column) {
    const { width, height } = this.cell;
    // Groups of a KV head stand apart.
    const parted = this.group > 1;
    const gap = width > 12 ? 1 : 0.4;
    const left = AXIS.left + column * width + (parted && column % this.group === 0 ? Math.min(2.5, width / 5) : 0);
    const right =
      AXIS.left + (column + 1) * width - (parted && (column + 1) % this.group === 0 ? Math.min(2.5, width / 5) : gap);
    return [left, AXIS.top + layer * height, right - left, height - (height > 10 ? 1 : 0.4)];
  }

  paintCell(pen, layer, column) {
    const value = this.values[layer][column];
    const colour = colourAt(this.scale.map, placeOn(this.scale, value));
    const [left, top, width, height] = this.box(layer, column);
    pen.fillStyle = value === null ? ink("faint") : css(colour);
    pen.fillRect(left, top, width, height);
    if (width > 42 && height > 15 && value !== null) {
      pen.fillStyle = isLight(colour) ? "#111" : "#fff";
      pen.font = "11px system-ui, sans-serif";
      pen.textAlign = "center";
      pen.textBaseline = "middle";
      pen.fillText(this.write(value), left + width / 2, top + height / 2 + 0.5);
    }
  }

  paintAxes(pen, rows, columns) {
    pen.clearRect(0, 0, pen.canvas.width, pen.canvas.height);
    pen.fillStyle = ink("soft");
    pen.font = "11px system-ui, sans-serif";
    pen.textBaseline = "middle";
    pen.textAlign = "right";
    const every = (count, size, least) => [1, 2, 4, 8, 16, 32].find((step) => size * step >= least) ?? count;
    const down = every(rows, this.cell.height, 13);
    for (let layer = 0; layer < rows; layer += down)
      pen.fillText(layer, AXIS.left - 6, AXIS.top + (layer + 0.5) * this.cell.height);
    pen.textAlign = "center";
    const along = every(columns, this.cell.width, 24);
    for (let column = 0; column < columns; column += along)
      pen.fillText(column, AXIS.left + (column + 0.5) * this.cell.width, 8);
  }

  frame(pen, layer, column, colour, width) {
    if (layer >= this.values.length || column >= this.values[0].length) return;
    const [left, top, across, down] = this.box(layer, column);
    pen.strokeStyle = colour;
    pen.lineWidth = width;
    pen.strokeRect(left, top, across, down);
  }

  at(event) {
    const box = this.canvas.getBoundingClientRect();
    const column = Math.floor((event.clientX - box.left - AXIS.left) / this.cell.width);
    const layer = Math.floor((event.clientY - box.top - AXIS.top) / this.cell.height);
    const inside = layer >= 0 && column >= 0 && layer < this.values.length && column < this.values[0].length;
    return inside ? [layer, column] : null;
  }

  move(event) {
    const found = this.at(event);
    this.hovered = found;
    if (found) showHint(event, this.hint(...found));
    else hideHint();
    if (this.anchor && found && this.brush) this.choose(this.anchor, found);
    this.paint();
  }

  leave() {
    this.hovered = null;
    hideHint();
    this.paint();
  }

  press(event) {
    this.anchor = this.at(event);
    this.chosen = [];
    if (this.anchor && event.pointerType !== "touch") this.canvas.setPointerCapture(event.pointerId);
  }

  release(event) {
    const [from, to] = [this.anchor, this.at(event)];
    this.anchor = null;
    if (!from || !to) return;
    const moved = from[0] !== to[0] || from[1] !== to[1];
    if (moved && this.brush) this.brush(this.chosen);
    else {
      this.brush?.([]);
      this.pick(...to);
    }
  }

  choose([layer, column], [toLayer, toColumn]) {
    this.chosen = [];
    for (let l = Math.min(layer, toLayer); l <= Math.max(layer, toLayer); l += 1) {
      for (let c = Math.min(column, toColumn); c <= Math.max(column, toColumn); c += 1) this.chosen.push([l, c]);
    }
  }

  // Arrows move the cursor, with shift they brush; Home, End and the page keys go further.
  key(event) {
    const [rows, columns] = [this.values.length, this.values[0].length];
    const steps = {
      ArrowUp: [-1, 0],
      ArrowDown: [1, 0],
      ArrowLeft: [0, -1],
      ArrowRight: [0, 1],
      PageUp: [-8, 0],
      PageDown: [8, 0],
      Home: [0, -columns],
      End: [0, columns],
    };
    if (event.key === "Escape") {
      [this.chosen, this.from] = [[], null];
      this.brush?.([]);
    }
    const step = steps[event.key];
    if (!step || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    const [layer, column] = this.cursor ?? [0, 0];
    const next = [clamp(layer + step[0], 0, rows - 1), clamp(column + step[1], 0, columns - 1)];
    if (event.shiftKey && this.brush) {
      this.from ??= [layer, column];
      this.choose(this.from, next);
    } else [this.chosen, this.from] = [[], null];
    this.brush?.(this.chosen);
    this.pick(...next);
    say(this.hint(...next).join(", "));
  }
}
