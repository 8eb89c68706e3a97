// Elements, numbers and packed data. Values reach the page as texts, attributes and listeners only.

const record = JSON.parse(document.getElementById("record").textContent);
const $ = (id) => document.getElementById(id);

// Markup of this script with values in it: html`<b title=${title} @click=${act}>${text}</b>`.
const NAME = /([@\w-]+)=$/;
const templates = new Map();
function html(strings, ...values) {
  if (!templates.has(strings)) templates.set(strings, parse(strings));
  const root = document.importNode(templates.get(strings), true);
  const walker = document.createTreeWalker(root);
  const nodes = [];
  while (walker.nextNode()) nodes.push(walker.currentNode);
  for (const node of nodes) {
    if (node.nodeType === Node.COMMENT_NODE) node.replaceWith(...flat(values[node.data.slice(1)]));
    for (const { name } of [...(node.attributes ?? [])]) {
      if (name[0] !== ":") continue;
      node.removeAttribute(name);
      set(node, NAME.exec(strings[name.slice(1)])[1], values[name.slice(1)]);
    }
  }
  return root;
}

// Parse markup with places: comments "?1" between elements, ":1" for the name of an attribute.
function parse(strings) {
  const parts = strings.map((text, i) => (NAME.test(text) ? text.replace(NAME, `:${i}`) : `${text}<?${i}>`));
  const template = document.createElement("template");
  const isShape = /^\s*<(circle|line|polyline|text) /.test(parts[0]);
  template.innerHTML = isShape ? `<svg>${parts.join("")}</svg>` : parts.join("");
  if (isShape) template.content.firstChild.replaceWith(...template.content.firstChild.childNodes);
  return template.content;
}

function set(node, name, value) {
  if (name[0] === "@") node.addEventListener(name.slice(1), value);
  else if (name === "style") node.style.cssText = value; // The page's policy takes no attribute.
  else if (value || value === 0 || value === "" || name.startsWith("aria")) node.setAttribute(name, value);
}

const flat = (value) => [value].flat(Infinity).filter((one) => one || one === 0);
const nameOf = (control) => control.id || control.title || control.ariaLabel || control.textContent;

// Fill a part of the page anew, and keep the focus on the control that was used.
function fill(element, ...parts) {
  const name = element.contains(document.activeElement) && nameOf(document.activeElement);
  element.replaceChildren(...flat(parts));
  const controls = name ? [...element.querySelectorAll("button")] : [];
  controls.find((one) => nameOf(one) === name)?.focus({ preventScroll: true });
}

// Give a list its options, pairs of value and text.
function offer(list, options, chosen) {
  list.replaceChildren(...options.map(([value, text]) => new Option(text, value)));
  list.value = chosen;
}

const table = (caption, columns, rows) => html`
  <div class="scroll"><table><caption class="unseen">${caption}</caption>
    <thead><tr>${columns.map((name) => html`<th scope="col">${name}</th>`)}</tr></thead>
    <tbody>${rows.map((cells) => html`<tr>${cells.map((cell) => html`<td>${cell}</td>`)}</tr>`)}</tbody>
  </table></div>`;
const facts = (fields) => html`<dl class="facts">
  ${Object.entries(fields).map(([name, value]) => html`<dt>${name}</dt><dd>${String(value)}</dd>`)}</dl>`;
const link = (text, changes) => html`<button class="link" @click=${() => update(changes)}>${text}</button>`;

// Read what Python has packed: a typed array, or a value from JSON.
const unpacked = new Map();
function unpack(packed) {
  if (!unpacked.has(packed)) unpacked.set(packed, inflate(packed));
  return unpacked.get(packed);
}

async function inflate({ type, deflate }) {
  const bytes = Uint8Array.from(atob(deflate), (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  const response = new Response(stream);
  if (type === "json") return response.json();
  return new { uint8: Uint8Array, uint16: Uint16Array, uint32: Uint32Array }[type](await response.arrayBuffer());
}

const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
const sum = (values) => values.reduce((total, value) => total + value, 0);
const whole = (value) => Math.round(value).toLocaleString("en").replace("-", "\u2212");
const plural = (count, name) => `${whole(count)} ${name}${count === 1 ? "" : "s"}`;

// Three significant digits, of the value or of the largest of its kind.
function number(value, largest = value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(largest);
  const text =
    value === 0 ? "0"
    : size >= 1000 ? whole(value)
    : size < 1e-4 ? value.toExponential(1)
    : value.toFixed(Math.max(0, 2 - Math.floor(Math.log10(size))));
  return text.replace(/^-(?=[0.]*$)/, "").replace("-", "\u2212");
}

// The step that an arrow key goes, right or left.
function arrow(event) {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (step) event.preventDefault();
  return step;
}

// Tell people who do not see the page what has changed.
const say = (text) => ($("said").textContent = text);

function showHint({ clientX: x, clientY: y }, [title, ...lines]) {
  const hint = $("hint");
  fill(hint, html`<b>${title}</b>${lines.map((line) => html`<span>${line}</span>`)}`);
  hint.hidden = false;
  const { width, height } = hint.getBoundingClientRect();
  hint.style.left = `${Math.min(x + 16, innerWidth - width - 4)}px`;
  hint.style.top = `${y + 16 + height > innerHeight ? y - height - 12 : y + 16}px`;
}
const hideHint = () => ($("hint").hidden = true);
