// Elements, numbers and packed data. Texts of the record reach the page as text nodes only.

const record = JSON.parse(document.getElementById("record").textContent);
const $ = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";

// Make an element, as in `make("p.note", { onclick }, "text")`: classes after the tag, attributes by
// name if there are any, `on...` functions as listeners; strings become text.
function make(tag, ...parts) {
  const attributes = parts[0]?.constructor === Object ? parts.shift() : {};
  const [name, ...classes] = tag.replace("svg:", "").split(".");
  const element = tag.startsWith("svg:") ? document.createElementNS(SVG, name) : document.createElement(name);
  if (name === "button") element.type = "button";
  if (classes.length) element.classList.add(...classes);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...parts.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

const shape = (name, ...parts) => make(`svg:${name}`, ...parts);

function fill(element, ...children) {
  element.replaceChildren(...children.flat(Infinity).filter((child) => child));
  return element;
}

// Read what Python has packed: a typed array, or a value from JSON.
const unpacked = new Map();
function unpack(packed) {
  if (!unpacked.has(packed)) unpacked.set(packed, inflate(packed));
  return unpacked.get(packed);
}

async function inflate({ type, deflate }) {
  const bytes = Uint8Array.from(atob(deflate), (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  const buffer = await new Response(stream).arrayBuffer();
  if (type === "json") return JSON.parse(new TextDecoder().decode(buffer));
  return new { uint8: Uint8Array, uint16: Uint16Array, uint32: Uint32Array }[type](buffer);
}

const whole = (value) => Math.round(value).toLocaleString("en");
const percent = (fraction, digits = 1) => `${(100 * fraction).toFixed(digits)} %`;
const plural = (count, name) => `${whole(count)} ${name}${count === 1 ? "" : "s"}`;

// Three significant digits, and no exponent where a person would write none.
function number(value) {
  if (value === null || value === undefined) return "–";
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1000) return whole(value).replace("-", "\u2212");
  if (size < 1e-4) return value.toExponential(1).replace("-", "\u2212");
  return value.toFixed(Math.max(0, 2 - Math.floor(Math.log10(size)))).replace("-", "\u2212");
}

// A writer of values of one matrix, with equal decimals and three digits of the largest.
function evenly(values) {
  const largest = Math.max(...values.flat().map(Math.abs)) || 1;
  const decimals = clamp(2 - Math.floor(Math.log10(largest)), 0, 5);
  return (value) => (value === 0 ? "0" : value.toFixed(decimals).replace("-", "\u2212"));
}

function bytes(count) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let size = count;
  while (size >= 1024 && units.length > 1) [size] = [size / 1024, units.shift()];
  return `${size >= 100 ? size.toFixed(0) : Number(size.toPrecision(3))} ${units[0]}`;
}

const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
const modelKey = (model) => `${model.layers}x${model.heads}x${model.kv_heads}`;
// Of the path of a model's directory the last part.
const modelName = (model) =>
  /^([~.]|[A-Za-z]:)?[\\/]/.test(model.id) ? model.id.split(/[\\/]/).filter(Boolean).at(-1) : model.id;
const headName = (layer, head) => `${layer}-${head}`;

// Tell people who do not see the page what has changed.
function say(text) {
  $("said").textContent = text;
}

function showHint(event, lines) {
  const hint = $("hint");
  fill(
    hint,
    lines.map((line, i) => make(i ? "span" : "b", {}, line)),
  );
  hint.hidden = false;
  const { width, height } = hint.getBoundingClientRect();
  const left = event.clientX + 16 + width > innerWidth ? event.clientX - width - 12 : event.clientX + 16;
  const top = event.clientY + 16 + height > innerHeight ? event.clientY - height - 12 : event.clientY + 16;
  hint.style.left = `${Math.max(4, left)}px`;
  hint.style.top = `${Math.max(4, top)}px`;
}

function hideHint() {
  $("hint").hidden = true;
}

// A group of buttons of which one is pressed.
function choice(label, options, chosen, pick) {
  return make(
    "div.choice",
    { role: "group", "aria-label": label },
    options.map(([value, text, title]) =>
      make("button", { "aria-pressed": String(value === chosen), title, onclick: () => pick(value) }, text),
    ),
  );
}

function select(label, options, chosen, pick) {
  const list = make(
    "select",
    { "aria-label": label, onchange: () => pick(list.value) },
    options.map(([value, text]) => make("option", { value, selected: String(value) === String(chosen) }, text)),
  );
  return make("label.field", make("span", label), list);
}

const nameOf = (control) => control.id || control.title || control.ariaLabel || control.textContent;

// Fill a part of the page anew without taking the focus away from the control that was used.
function refill(element, ...children) {
  const name = element.contains(document.activeElement) && nameOf(document.activeElement);
  fill(element, ...children);
  if (name)
    [...element.querySelectorAll("button, select, input")]
      .find((one) => nameOf(one) === name)
      ?.focus({ preventScroll: true });
}

function row(cells, tag = "td") {
  return make(
    "tr",
    cells.map((cell) =>
      cell instanceof Node && cell.tagName === "TD" ? cell : make(tag, tag === "th" ? { scope: "col" } : {}, cell),
    ),
  );
}

function table(caption, columns, rows, attributes = {}) {
  return make(
    "div.scroll",
    make("table", attributes, make("caption.unseen", caption), make("thead", row(columns, "th")), make("tbody", rows)),
  );
}
