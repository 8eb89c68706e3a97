// Elements, numbers and packed data. Texts of the record reach the page as text nodes only.

const record = JSON.parse(document.getElementById("record").textContent);
const $ = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";

// Make an element: attributes by name, `on...` functions as listeners; strings become text.
function make(tag, attributes = {}, ...children) {
  const [name, isShape] = tag.startsWith("svg:") ? [tag.slice(4), true] : [tag, false];
  const element = isShape ? document.createElementNS(SVG, name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

const shape = (name, attributes, ...children) => make(`svg:${name}`, attributes, ...children);

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
const modelName = (model) => (/^([~.]|[A-Za-z]:)?[\\/]/.test(model.id) ? model.id.split(/[\\/]/).filter(Boolean).at(-1) : model.id);
const headName = (layer, head) => `${layer}-${head}`;

// Tell people who do not see the page what has changed.
function say(text) {
  $("said").textContent = text;
}

function showHint(event, lines) {
  const hint = $("hint");
  fill(hint, lines.map((line, i) => make(i ? "span" : "b", {}, line)));
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
  return make("div", { class: "choice", role: "group", "aria-label": label },
    options.map(([value, text, title]) => make("button",
      { type: "button", "aria-pressed": String(value === chosen), title, onclick: () => pick(value), "data-key": `${label} ${value}` }, text)));
}

function select(label, options, chosen, pick) {
  const list = make("select", { "aria-label": label, "data-key": label, onchange: () => pick(list.value) },
    options.map(([value, text]) => make("option", { value, selected: String(value) === String(chosen) }, text)));
  return make("label", { class: "field" }, make("span", {}, label), list);
}

// Fill a part of the page anew without taking the focus away from the control that was used.
function refill(element, ...children) {
  const key = element.contains(document.activeElement) && document.activeElement.dataset.key;
  fill(element, ...children);
  if (key) [...element.querySelectorAll("[data-key]")].find((one) => one.dataset.key === key)?.focus({ preventScroll: true });
}

function row(cells, tag = "td") {
  return make("tr", {}, cells.map((cell) => (cell instanceof Node && cell.tagName === "TD" ? cell : make(tag, tag === "th" ? { scope: "col" } : {}, cell))));
}

function table(caption, columns, rows, attributes = {}) {
  return make("div", { class: "scroll" }, make("table", attributes,
    make("caption", { class: "unseen" }, caption),
    make("thead", {}, row(columns, "th")), make("tbody", {}, rows)));
}
