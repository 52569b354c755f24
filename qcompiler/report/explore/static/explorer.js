// The page: what is shown stands in the part of the address behind #, so that a view can be kept and sent.

const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const last = data.passes.length - 1;

/** An element with attributes and children; strings become text, null is left out. */
function h(name, attributes, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes ?? {}))
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (value !== null && value !== undefined) element.setAttribute(key, value);
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

/** What may be wider than the page; the keyboard scrolls it. */
const wide = (label, content) => h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": label }, content);
const number = (value, digits = 4) => (Number.isInteger(value) ? value.toLocaleString("en") : Number(value.toPrecision(digits)).toString());
const plural = (count, word) => `${number(count)} ${word}${count === 1 ? "" : "s"}`;

data.passes.forEach((pass, index) => {
  pass.label = `${index} ${pass.name}`;
  pass.entries = pass.nodes.map(([id, content, name]) => {
    const item = { id, index: content, content: data.contents[content], name: data.names[name] };
    const kind = data.types[item.content.types?.[0]];
    item.type = kind ? kind.text.split(",")[0] : "";
    return item;
  });
  pass.drawn = pass.entries.filter((item) => item.content.part !== "constant");
  pass.byId = new Map(pass.entries.map((item) => [item.id, item]));
});

const costs = new Map();
for (const { id, rule, ...figures } of data.costs) {
  const own = costs.get(id) ?? { rules: new Set(), macs: 0, ms: 0, instructions: 0 };
  own.rules.add(rule);
  for (const key of ["macs", "ms", "instructions"]) own[key] += figures[key] ?? 0;
  costs.set(id, own);
}
for (const [id, macs] of Object.entries(data.float_macs)) {
  const own = costs.get(Number(id)) ?? { rules: new Set(["float"]), ms: 0, instructions: 0 };
  costs.set(Number(id), { ...own, macs });
}
const unit = data.costs.some((c) => "ms" in c) ? "ms" : data.costs.some((c) => "instructions" in c) ? "instructions" : "macs";
const UNITS = { ms: "milliseconds", instructions: "instructions", macs: "multiply-adds" };

// ------------------------------------------------------------------------------------------------------------ state

const state = { view: "graph", pass: last, beside: null, node: null };
const panes = [new Pane(document.querySelector(".panes"), data, choose), new Pane(document.querySelector(".panes"), data, choose)];
let shown = "";

function read() {
  const given = new URLSearchParams(location.hash.slice(1));
  const valid = (key) => (given.has(key) && data.passes[Number(given.get(key))] ? Number(given.get(key)) : null);
  state.view = ["graph", "layers", "partition", "help"].includes(given.get("view")) ? given.get("view") : "graph";
  state.pass = valid("pass") ?? last;
  state.beside = valid("beside") === state.pass ? null : valid("beside");
  const name = given.get("node");
  const item = data.passes[state.pass].entries.find((entry) => entry.name === name) ?? data.passes.flatMap((p) => p.entries).find((entry) => entry.name === name);
  state.node = item?.id ?? null;
  render(true);
}

function go(changes) {
  Object.assign(state, changes);
  if (state.beside === state.pass) state.beside = null;
  const parts = { view: state.view, pass: state.pass };
  if (state.beside !== null) parts.beside = state.beside;
  if (state.node !== null) parts.node = nameOf(state.node);
  history.replaceState(null, "", `#${new URLSearchParams(parts)}`);
  render(false);
}

function choose(id) {
  go({ view: "graph", node: id });
  $("status").textContent = `${data.passes[state.pass].byId.get(id)?.content.op ?? ""} ${nameOf(id)}`;
}

function nameOf(id) {
  const places = [data.passes[state.pass], ...data.passes.toReversed()];
  return places.map((pass) => pass.byId.get(id)).find(Boolean)?.name ?? "";
}

function render(instantly) {
  for (const section of document.querySelectorAll("main > section")) section.hidden = section.id !== state.view;
  for (const link of document.querySelectorAll("nav a")) {
    const own = new URLSearchParams({ view: link.dataset.view, pass: state.pass });
    if (state.beside !== null) own.set("beside", state.beside);
    if (state.node !== null) own.set("node", nameOf(state.node));
    link.href = `#${own}`;
    if (link.dataset.view === state.view) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  if (state.view === "layers") $("layers").replaceChildren(...layers());
  if (state.view === "partition") $("partition").replaceChildren(...partition());
  if (state.view !== "graph") return;
  $("pass").value = state.pass;
  $("beside").value = state.beside ?? "";
  const drawing = `${state.pass} ${state.beside}`;
  const fresh = drawing !== shown;
  if (fresh) draw();
  shown = drawing;
  for (const pane of active()) {
    pane.select(state.node, instantly || fresh);
    if (fresh && !pane.selected) pane.start();
  }
  $("inspector").replaceChildren(...inspector());
}

const active = () => (state.beside === null ? panes.slice(1) : panes);

function draw() {
  const twice = state.beside !== null;
  panes[0].root.style("display", twice ? null : "none");
  if (!twice) return panes[1].show(state.pass, null);
  const [before, after] = d3.sort([state.beside, state.pass], Number);
  const marks = changes(before, after);
  panes[0].show(before, marks);
  panes[1].show(after, marks);
}

/** Ids of nodes that were added, changed or removed from one pass to another. */
function changes(before, after) {
  const [old, now] = [data.passes[before].byId, data.passes[after].byId];
  const marks = new Map();
  for (const [id, item] of now)
    if (!old.has(id)) marks.set(id, "added");
    else if (old.get(id).index !== item.index) marks.set(id, "changed");
  for (const id of old.keys()) if (!now.has(id)) marks.set(id, "removed");
  return marks;
}

// -------------------------------------------------------------------------------------------------------- inspector

const FIGURES = {
  lo: "lower end of the range",
  hi: "upper end of the range",
  db: "expected of the chosen type, dB",
  affine_db: "expected if affine, dB",
  symmetric_db: "expected if symmetric, dB",
  per_channel_gain_db: "gain of a scale per channel, dB",
  sensitivity: "outputs with this alone quantized, dB",
  weight_db: "expected of the weight, dB",
  weight_affine_db: "expected of an affine weight, dB",
};

/** The figures behind a choice, the known ones first and in words. */
function figures(numbers) {
  const keys = [...Object.keys(FIGURES).filter((key) => key in numbers), ...Object.keys(numbers).filter((key) => !(key in FIGURES))];
  return keys.map((key) => [FIGURES[key] ?? key.replaceAll("_", " "), number(numbers[key])]);
}

function list(pairs) {
  const rows = pairs.filter(([, value]) => value !== null && value !== undefined && value !== "");
  return rows.length ? h("dl", {}, ...rows.flatMap(([key, value]) => [h("dt", {}, key), h("dd", {}, ...[value].flat())])) : null;
}

const link = (id, text) => h("button", { type: "button", class: "link", onclick: () => choose(id) }, text ?? nameOf(id));

const names = (ids) => h("ul", { class: "names" }, ...ids.map((id) => h("li", {}, link(id))));

function inspector() {
  const pass = data.passes[state.pass];
  if (state.node === null) return [h("h2", {}, "Nothing selected"), ...overview(pass)];
  const item = pass.byId.get(state.node) ?? data.passes[state.beside]?.byId.get(state.node);
  if (!item) return [h("h2", {}, nameOf(state.node)), h("p", {}, `not in the module after ${pass.label}`), ...changelog(state.node)];
  const { content } = item;
  const kinds = (content.types ?? []).map((index) => data.types[index]);
  const cost = state.pass === last ? costs.get(item.id) : null;
  const [db, largest, clipped] = data.errors[source(item).id] ?? [];
  return [
    h("h2", {}, item.name),
    h("p", {}, content.op, content.origin ? ` made from ${content.origin.join(", ")}` : ""),
    content.attributes?.["q.float"] ? h("p", { class: "why float" }, `Float: ${content.attributes["q.float"].replace(/^"|"$/g, "")}`) : null,
    content.why ? h("p", { class: "why" }, content.why) : null,
    content.attributes?.["q.why_weight"] ? h("p", { class: "why" }, `weight: ${content.attributes["q.why_weight"].replace(/^"|"$/g, "")}`) : null,
    ...kinds.map(typeList),
    histogram(item, kinds[0]),
    list([
      ["measured", db === undefined ? null : db === null ? "exact" : `${number(db)} dB`],
      ["largest error", largest === undefined ? null : number(largest)],
      ["clipped", clipped ? `${number(100 * clipped, 2)} %` : null],
      ...figures(content.numbers ?? {}),
    ]),
    cost ? h("h3", {}, "Kernel") : null,
    cost ? list([["rule", [...cost.rules].join(", ")], ...Object.entries(UNITS).map(([key, name]) => [name, cost[key] ? number(cost[key]) : null])]) : null,
    ...operands(item, pass),
    attributes(content),
    ...changelog(item.id),
  ].filter(Boolean);
}

/** What holds the values of a node before they are stored: for quantize and dequantize their operand. */
function source(item) {
  const from = item.content.part === "border" ? item.content.operands?.[0] : undefined;
  return from !== undefined && !data.histograms[item.id] ? { id: from } : item;
}

function typeList(kind) {
  const range = ([a, b], digits) => (a === b ? number(a, digits) : `${number(a, digits)} to ${number(b, digits)}`);
  return list([
    ["shape", kind.shape.join(" \u00d7 ") || "scalar"],
    ["type", kind.storage ?? kind.text.replace(/^\S+ /, "")],
    ["scale", kind.scale ? range(kind.scale, 6) : null],
    ["zero point", kind.zero ? range(kind.zero, 6) : null],
    ["channels", kind.channels > 1 ? `${kind.channels}${kind.axis === null ? "" : ` along axis ${kind.axis}`}` : null],
    ["can hold", kind.storage ? `${number(kind.lo)} to ${number(kind.hi)}` : null],
  ]);
}

function operands(item, pass) {
  const rows = (item.content.operands ?? []).map((id, index) => {
    const other = pass.byId.get(id);
    return h("tr", {}, h("td", {}, String(index)), h("td", {}, other ? link(id) : "none"), h("td", {}, other ? data.types[other.content.types?.[0]]?.text ?? "" : ""));
  });
  const readers = pass.drawn.filter((other) => other.content.operands?.includes(item.id));
  return [
    rows.length ? h("h3", {}, "Operands") : null,
    rows.length ? h("table", {}, h("thead", {}, h("tr", {}, ...["", "from", "type"].map((t) => (t ? h("th", { scope: "col" }, t) : h("td", {}))))), h("tbody", {}, rows)) : null,
    readers.length ? h("h3", {}, "Read by") : null,
    readers.length ? names(readers.map(({ id }) => id)) : null,
  ];
}

function attributes(content) {
  const rows = Object.entries(content.attributes ?? {}).filter(([key]) => !["q.float", "q.why_weight"].includes(key));
  return rows.length ? h("details", {}, h("summary", {}, "Attributes"), list(rows)) : null;
}

/** The passes that changed a node, with what they changed. */
function changelog(id) {
  const steps = [];
  for (const [index, pass] of data.passes.entries()) {
    const [old, now] = [data.passes[index - 1]?.byId.get(id), pass.byId.get(id)];
    const what = !old && now ? (index ? "new" : null) : old && !now ? "gone" : old && old.index !== now.index ? differences(old, now) : null;
    if (what) steps.push([index, what]);
  }
  if (!steps.length) return [];
  const rows = steps.map(([index, what]) =>
    h("tr", {}, h("td", {}, h("button", { type: "button", class: "link", onclick: () => go({ pass: index, beside: index ? index - 1 : null }) }, data.passes[index].name)), h("td", {}, what)),
  );
  const head = h("tr", {}, h("th", { scope: "col" }, "pass"), h("th", { scope: "col" }, "what it changed"));
  return [h("h3", {}, "Changes"), h("table", {}, h("thead", {}, head), h("tbody", {}, rows))];
}

const short = (text = "none") => (text.length <= 60 ? text : `${text.slice(0, 59)}\u2026`);

function differences({ content: a }, { content: b }) {
  const types = (content) => (content.types ?? []).map((t) => data.types[t].text).join("; ");
  const reads = (content) => (content.operands ?? []).map((id) => (id === null ? "none" : nameOf(id))).join(", ");
  const found = [];
  if (a.op !== b.op) found.push(`${a.op} \u2192 ${b.op}`);
  if (types(a) !== types(b)) found.push(`type ${types(a)} \u2192 ${types(b)}`);
  else if (String(a.types) !== String(b.types)) found.push("scales or zero points");
  if (reads(a) !== reads(b)) found.push(`operands ${reads(a) || "none"} \u2192 ${reads(b) || "none"}`);
  if (a.op === b.op)
    for (const key of new Set([...Object.keys(a.attributes ?? {}), ...Object.keys(b.attributes ?? {})]))
      if (a.attributes?.[key] !== b.attributes?.[key]) found.push(`${key} ${short(a.attributes?.[key])} \u2192 ${short(b.attributes?.[key])}`);
  if (a.why !== b.why) found.push("the reason");
  return found.join("; ") || "figures";
}

/** What stands in the inspector if nothing is selected: the model, or what changed between two passes. */
function overview(pass) {
  if (state.beside === null)
    return [
      h("p", {}, "Click a node, or find one by its name."),
      list([
        ["passes", number(last)],
        ["operations", number(pass.drawn.length)],
        ["time of this pass", pass.ms === null ? null : `${number(pass.ms)} ms`],
        ["calibrated on", data.calibration ? `${plural(data.calibration.samples, "sample")}, method ${data.calibration.method}` : null],
      ]),
      ...data.notes.map((note) => h("p", { class: "why" }, note)),
    ];
  const [before, after] = d3.sort([state.beside, state.pass], Number);
  const marks = changes(before, after);
  const groups = d3.group([...marks].filter(([id]) => (data.passes[after].byId.get(id) ?? data.passes[before].byId.get(id)).content.part !== "constant"), ([, mark]) => mark);
  return [
    h("p", {}, `From ${data.passes[before].label} to ${data.passes[after].label}:`),
    ...["changed", "added", "removed"].map((mark) => {
      const ids = groups.get(mark) ?? [];
      if (!ids.length) return null;
      return h("details", ids.length < 40 ? { open: "" } : {}, h("summary", {}, h("b", { class: `mark ${mark}`, "aria-hidden": "true" }, SIGNS[mark]), ` ${mark}: ${ids.length}`), names(ids.map(([id]) => id)));
    }),
  ];
}

/** The values seen in calibration, or those of a constant, with the range of the type drawn in. */
function histogram(item, kind) {
  const seen = data.histograms[source(item).id];
  if (!seen) return null;
  const [width, height, pad] = [360, 110, 18];
  const range = kind?.storage && !seen.stored ? [kind.lo, kind.hi] : null;
  const [lo, hi] = d3.extent([seen.lo, seen.hi, ...(range ?? [])]);
  const x = d3.scaleLinear([lo, hi === lo ? lo + 1 : hi], [4, width - 4]);
  const y = d3.scaleSqrt([0, d3.max(seen.counts)], [height - pad, 4]);
  const step = (seen.hi - seen.lo) / seen.counts.length;
  const total = d3.sum(seen.counts);
  const held = range ? d3.sum(seen.counts, (count, i) => (seen.lo + (i + 0.5) * step >= range[0] && seen.lo + (i + 0.5) * step <= range[1] ? count : 0)) / total : 1;
  const text = `Values from ${number(seen.lo)} to ${number(seen.hi)}` + (range ? `; the type holds ${number(range[0])} to ${number(range[1])}, ${number(100 * held, 4)} % of them` : "");
  const svg = d3.create("svg").attr("class", "chart").attr("viewBox", `0 0 ${width} ${height}`).attr("role", "img").attr("aria-label", text);
  svg.html('<defs><pattern id="hatch" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)"><rect width="6" height="6" fill="#fff"/><path d="M0 0V6" stroke="#8a4b00" stroke-width="2"/></pattern></defs>');
  if (range)
    for (const [from, to] of [[lo, range[0]], [range[1], hi]])
      if (x(to) - x(from) > 1) svg.append("rect").attr("class", "outside").attr("x", x(from)).attr("width", x(to) - x(from)).attr("y", 4).attr("height", height - pad - 4);
  svg.selectAll(".bar").data(seen.counts).join("rect").attr("class", "bar").attr("stroke", "none")
    .attr("x", (_, i) => x(seen.lo + i * step)).attr("width", Math.max(1, x(seen.lo + step) - x(seen.lo))).attr("y", (count) => y(count)).attr("height", (count) => height - pad - y(count));
  if (range) for (const end of range) svg.append("line").attr("class", "range").attr("x1", x(end)).attr("x2", x(end)).attr("y1", 2).attr("y2", height - pad);
  svg.append("g").attr("transform", `translate(0,${height - pad})`).call(d3.axisBottom(x).ticks(6).tickSize(3));
  return h("figure", { style: "margin:8px 0" }, svg.node(), h("figcaption", {}, text));
}

// ------------------------------------------------------------------------------------------------ layers and charts

const COLUMNS = [
  { key: "order", title: "#", show: (row) => String(row.order) },
  { key: "name", title: "layer", show: (row) => link(row.id, row.name) },
  { key: "op", title: "operation", show: (row) => row.op },
  { key: "type", title: "type", show: (row) => row.type },
  { key: "measured", title: "measured, dB", mark: "measured" },
  { key: "expected", title: "expected, dB", mark: "expected" },
  { key: "alone", title: "alone, dB", mark: "alone" },
  { key: "macs", title: "multiply-adds" },
  { key: "ms", title: "ms" },
  { key: "instructions", title: "instructions" },
];
let sorted = { key: "order", down: false };

function rows() {
  return data.passes[last].drawn
    .filter(({ content }) => content.part !== "end")
    .map((item, order) => {
      const [db] = data.errors[source(item).id] ?? [];
      const cost = costs.get(item.id) ?? {};
      const { db: expected, sensitivity: alone } = item.content.numbers ?? {};
      return { id: item.id, order, name: item.name, op: item.content.op, type: item.content.types ? data.types[item.content.types[0]].text : "", measured: db ?? undefined, expected, alone, macs: cost.macs || undefined, ms: cost.ms || undefined, instructions: cost.instructions || undefined };
    });
}

function layers() {
  const all = rows();
  const columns = COLUMNS.filter(({ key }) => all.some((row) => row[key] !== undefined));
  const marks = columns.filter(({ mark }) => mark);
  const compare = sorted.down ? d3.descending : d3.ascending;
  const head = columns.map(({ key, title, show }) => {
    const own = sorted.key === key;
    const again = () => ((sorted = { key, down: own && !sorted.down }), render(true), document.querySelector(`[data-column=${key}]`).focus());
    return h("th", { scope: "col", class: show ? null : "number", "aria-sort": own ? (sorted.down ? "descending" : "ascending") : null }, h("button", { type: "button", onclick: again, "data-column": key }, `${title}${own ? (sorted.down ? " \u2193" : " \u2191") : ""}`));
  });
  const body = d3.sort(all, (a, b) => compare(a[sorted.key], b[sorted.key])).map((row) =>
    h("tr", {}, ...columns.map(({ key, show }) => (show ? h("td", {}, show(row)) : h("td", { class: "number" }, row[key] === undefined ? "" : number(row[key]))))),
  );
  return [
    marks.length ? h("h2", {}, "Error of each layer") : null,
    marks.length ? h("p", {}, `Signal to noise in dB, higher is better: ${marks.map(({ key }) => ({ measured: "\u25cb measured", expected: "\u25cf expected", alone: "\u25c7 outputs with this alone quantized" })[key]).join(", ")}.`) : null,
    marks.length ? errorChart(all, marks) : null,
    h("h2", {}, `Cost of each layer, ${UNITS[unit]}`),
    costChart(all),
    h("h2", {}, "All layers"),
    wide("All layers", h("table", {}, h("thead", {}, h("tr", {}, head)), h("tbody", {}, body))),
  ].filter(Boolean);
}

const SHAPES = { measured: d3.symbolCircle, expected: d3.symbolCircle, alone: d3.symbolDiamond };

function chart(all, label, top, format = "~s", left = 60) {
  const [width, height] = [Math.max(1000, 40 + all.length * 9), 190];
  const x = d3.scaleLinear([-0.5, all.length - 0.5], [left, width - 8]);
  const y = d3.scaleLinear(top, [height - 22, 8]).nice();
  const svg = d3.create("svg").attr("class", "chart").attr("width", width).attr("height", height).attr("role", "img").attr("aria-label", label);
  svg.append("g").attr("transform", `translate(0,${height - 22})`).call(d3.axisBottom(x).ticks(Math.min(20, all.length)));
  svg.append("g").attr("transform", `translate(${left},0)`).call(d3.axisLeft(y).ticks(5, format));
  return { svg, x, y, height, box: wide(label.split(".")[0], svg.node()) };
}

function errorChart(all, marks) {
  const values = all.flatMap((row) => marks.map(({ key }) => row[key])).filter((value) => value !== undefined);
  const worst = marks.map(({ key, title }) => [title, d3.least(all.filter((row) => row[key] !== undefined), (row) => row[key])]);
  const label = `Error of each layer. ${worst.map(([title, row]) => `Worst ${title}: ${row.name}`).join(". ")}. The table below has all figures.`;
  const { svg, x, y, box } = chart(all, label, [Math.min(0, ...values), Math.max(...values)]);
  for (const { key } of marks)
    svg.append("g").selectAll("path").data(all.filter((row) => row[key] !== undefined)).join("path").attr("class", key)
      .attr("d", d3.symbol(SHAPES[key], 44)).attr("transform", (row) => `translate(${x(row.order)},${y(row[key])})`).attr("data-id", (row) => row.id)
      .on("click", (_, row) => choose(row.id)).append("title").text((row) => `${row.name}: ${number(row[key])} dB ${key}`);
  return box;
}

function costChart(all) {
  const known = all.filter((row) => row[unit]);
  const most = d3.greatest(known, (row) => row[unit]);
  if (!most) return h("p", {}, "No layer has a known cost.");
  const { svg, x, y, height, box } = chart(all, `Cost of each layer. Most: ${most.name}, ${number(most[unit])} ${UNITS[unit]}. The table below has all figures.`, [0, most[unit]], unit === "ms" ? "~g" : "~s");
  svg.selectAll(".bar").data(known).join("rect").attr("class", "bar").attr("x", (row) => x(row.order - 0.4)).attr("width", x(0.8) - x(0))
    .attr("y", (row) => y(row[unit])).attr("height", (row) => height - 22 - y(row[unit])).attr("data-id", (row) => row.id)
    .on("click", (_, row) => choose(row.id)).append("title").text((row) => `${row.name}: ${number(row[unit])} ${UNITS[unit]}`);
  return box;
}

// -------------------------------------------------------------------------------------------------------- partition

const PARTS = { integer: ["integer", "\u25a0"], float: ["float", "\u25b2"], border: ["border", "\u25c7"] };

function partition() {
  const all = data.passes[last].drawn.filter(({ content }) => content.part in PARTS);
  const measures = [["operations", () => 1], ...Object.entries(UNITS).map(([key, name]) => [name, (item) => costs.get(item.id)?.[key] ?? 0])];
  const rules = d3.rollups(data.costs, (some) => some, (cost) => cost.rule).map(([rule, some]) => [rule, number(some.length), ...Object.keys(UNITS).map((key) => (d3.sum(some, (c) => c[key]) ? number(d3.sum(some, (c) => c[key])) : ""))]);
  const titles = ["kernel rule", "kernels", ...Object.values(UNITS)];
  const used = titles.map((_, i) => i < 2 || rules.some((row) => row[i]));
  const floats = all.filter(({ content }) => content.part === "float");
  return [
    h("h2", {}, `What runs where, on ${data.target}`),
    ...measures.flatMap(([name, weigh]) => shares(name, all, weigh)),
    h("h2", {}, "Map, in order of execution"),
    h("p", {}, Object.values(PARTS).map(([name, sign]) => `${sign} ${name}`).join(", "), ": quantize and dequantize"),
    h("div", { class: "map" }, ...all.map((item) => h("button", { type: "button", class: `part-${item.content.part}`, title: `${item.name} (${item.content.op})`, "aria-label": `${item.name}, ${item.content.op}, ${PARTS[item.content.part][0]}`, onclick: () => choose(item.id) }, PARTS[item.content.part][1]))),
    h("h2", {}, "Kernels"),
    wide("Kernels", h("table", {}, h("thead", {}, h("tr", {}, ...titles.filter((_, i) => used[i]).map((t, i) => h("th", { scope: "col", class: i ? "number" : null }, t)))), h("tbody", {}, ...rules.map((row) => h("tr", {}, ...row.filter((_, i) => used[i]).map((cell, i) => h("td", { class: i ? "number" : null }, cell))))))),
    floats.length ? h("h2", {}, "Float, and why") : null,
    floats.length ? h("table", {}, h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "operation"), h("th", { scope: "col" }, "why"))), h("tbody", {}, ...floats.map((item) => h("tr", {}, h("td", {}, link(item.id, `${item.name} (${item.content.op})`)), h("td", {}, (item.content.attributes?.["q.float"] ?? "").replace(/^"|"$/g, "")))))) : null,
  ].filter(Boolean);
}

function shares(name, all, weigh) {
  const total = d3.sum(all, weigh);
  if (!total) return [];
  const parts = Object.entries(PARTS).map(([part, [title]]) => [part, title, d3.sum(all.filter(({ content }) => content.part === part), weigh)]).filter(([, , sum]) => sum);
  return [
    h("h3", {}, `${number(total)} ${name}`),
    h("div", { class: "shares" }, ...parts.map(([part, title, sum]) => h("span", { class: `part-${part}`, style: `flex:${(100 * sum) / total} 1 0`, title: `${title}: ${number(sum)}` }, `${title} ${((100 * sum) / total).toFixed(1)} %`))),
  ];
}

// ------------------------------------------------------------------------------------------------------------- tools

function search(text) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  if (!words.length) return [];
  const text_of = ({ name, content, type }) => `${name} ${content.op} ${type} ${(content.origin ?? []).join(" ")}`.toLowerCase();
  const found = data.passes[state.pass].entries.filter((item) => words.every((word) => text_of(item).includes(word)));
  const rank = ({ name, content }) => (content.part === "constant" ? 2 : words.every((word) => name.toLowerCase().includes(word)) ? 0 : 1);
  return d3.sort(found, rank);
}

function showFound() {
  const found = search($("find").value);
  $("found").hidden = !$("find").value;
  const take = (item) => () => (($("found").hidden = true), choose(item.id));
  const lines = found.slice(0, 12).map((item) => h("li", {}, h("button", { type: "button", onclick: take(item) }, item.name, " ", h("span", {}, item.content.op))));
  $("found").replaceChildren(...lines, ...(found.length ? [] : [h("li", {}, "nothing of this name after this pass")]));
  $("status").textContent = plural(found.length, "node") + " found";
}

$("find").addEventListener("input", showFound);
$("find").addEventListener("keydown", (event) => {
  const [first] = search($("find").value);
  if (event.key === "Enter" && first) choose(first.id);
  if (event.key === "Enter" || event.key === "Escape") $("found").hidden = true;
});
document.addEventListener("click", (event) => event.target.closest(".finder") ?? ($("found").hidden = true));
document.addEventListener("keydown", (event) => {
  if (event.target.matches("input, select") || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "/") ($("find").focus(), event.preventDefault());
  const step = { "[": -1, "]": 1 }[event.key];
  if (step && data.passes[state.pass + step]) go({ pass: state.pass + step });
});
$("pass").append(...data.passes.map((pass, index) => h("option", { value: index }, pass.label)));
$("beside").append(h("option", { value: "" }, "nothing"), ...data.passes.map((pass, index) => h("option", { value: index }, pass.label)));
$("pass").addEventListener("change", () => go({ pass: Number($("pass").value) }));
$("beside").addEventListener("change", () => go({ beside: $("beside").value === "" ? null : Number($("beside").value) }));
$("in").addEventListener("click", () => active().forEach((pane) => pane.scaleBy(1.3)));
$("out").addEventListener("click", () => active().forEach((pane) => pane.scaleBy(1 / 1.3)));
$("fit").addEventListener("click", () => active().forEach((pane) => pane.fit()));
document.querySelector("h1").textContent = data.title;
$("facts").textContent = `for ${data.target}, qcompiler ${data.version}`;
addEventListener("hashchange", read);
read();
