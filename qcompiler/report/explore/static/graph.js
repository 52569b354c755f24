// A graph after one pass: drawn from the places that the compiler computed, to be zoomed, walked through and marked.

const HEIGHT = 54;
const SIGNS = { added: "+", changed: "~", removed: "\u2212" };
const cut = (text, length = 30) => (text.length <= length ? text : "\u2026" + text.slice(text.length - length + 1));

class Pane {
  constructor(element, data, choose) {
    this.data = data;
    this.choose = choose;
    this.root = d3.select(element).append("div").attr("class", "pane");
    this.title = this.root.append("h2");
    this.svg = this.root.append("svg").attr("tabindex", 0).attr("role", "application");
    this.svg.on("keydown", (event) => this.key(event));
    this.scene = this.svg.append("g");
    this.edges = this.scene.append("g");
    this.nodes = this.scene.append("g");
    this.zoom = d3.zoom().scaleExtent([0.02, 3]).on("zoom", ({ transform }) => this.scene.attr("transform", transform));
    this.svg.call(this.zoom).on("dblclick.zoom", null);
  }

  /** Draws a pass; `marks` maps ids of nodes to added, changed or removed, or is null. */
  show(number, marks) {
    const pass = this.data.passes[number];
    const layout = this.data.layouts[pass.layout];
    this.pass = pass;
    this.items = pass.drawn.map((entry, i) => ({ ...entry, place: layout.places[i], width: layout.widths[i], number: i }));
    this.lines = layout.lines;
    this.byId = new Map(this.items.map((item) => [item.id, item]));
    this.title.text(`${pass.label}: ${this.items.length} nodes, stage ${pass.stage}`);
    this.svg.attr("aria-label", `Graph after ${pass.label}; arrow keys walk along it`).classed("marked", marks !== null);
    this.edges
      .selectAll("path")
      .data(this.lines)
      .join("path")
      .attr("class", "edge")
      .attr("d", (line) => this.path(line));
    const nodes = this.nodes
      .selectAll("g.node")
      .data(this.items, (item) => item.id)
      .join("g")
      .attr("id", (item) => `${number}-${item.id}`)
      .attr("class", (item) => `node part-${item.content.part} ${marks?.get(item.id) ?? ""}`)
      .attr("role", "img")
      .attr("aria-label", (item) => [item.content.op, item.name, item.type, marks?.get(item.id)].filter(Boolean).join(", "))
      .attr("transform", ({ place: [x, y] }) => `translate(${x},${y})`)
      .on("click", (event, item) => this.choose(item.id));
    nodes.html((item) => this.box(item, marks?.get(item.id)));
  }

  box({ content, name, type, width }, mark) {
    const round = content.part === "border" || content.part === "end" ? HEIGHT / 2 : 4;
    const lines = content.part === "end" ? [[content.op, "op"], [cut(name), ""], [type, "type"]] : [[content.op.replace(/^(q|onnx)\./, ""), "op"], [cut(name), ""], [type, "type"]];
    const texts = lines.map(([text, kind], i) => `<text class="${kind}" y="${-13 + 16 * i}">${escape(text)}</text>`).join("");
    const badge = mark ? `<g class="mark" transform="translate(${width / 2 - 4},${-HEIGHT / 2 + 2})"><circle r="10"/><text y="5">${SIGNS[mark]}</text></g>` : "";
    return `<rect x="${-width / 2}" y="${-HEIGHT / 2}" width="${width}" height="${HEIGHT}" rx="${round}"/>${texts}${badge}`;
  }

  path([from, to, ...flat]) {
    const points = d3.range(0, flat.length, 2).map((i) => [flat[i], flat[i + 1]]);
    points[0] = [points[0][0], points[0][1] + HEIGHT / 2];
    points[points.length - 1] = [points.at(-1)[0], points.at(-1)[1] - HEIGHT / 2];
    return d3.line().curve(d3.curveMonotoneY)(points);
  }

  /** Marks a node as the selected one and brings it into view. */
  select(id, instantly) {
    const item = this.byId.get(id);
    this.selected = item;
    this.nodes.selectAll("g.node").classed("selected", (other) => other === item);
    this.edges.selectAll("path").classed("near", ([from, to]) => item && (from === item.number || to === item.number));
    this.svg.attr("aria-activedescendant", item ? `${this.data.passes.indexOf(this.pass)}-${id}` : null);
    if (item) this.center(item, instantly);
  }

  center({ place: [x, y] }, instantly) {
    const scale = Math.max(d3.zoomTransform(this.svg.node()).k, 0.6);
    const { width, height } = this.svg.node().getBoundingClientRect();
    const still = instantly || matchMedia("(prefers-reduced-motion: reduce)").matches;
    const target = still ? this.svg : this.svg.transition().duration(250);
    target.call(this.zoom.transform, d3.zoomIdentity.translate(width / 2, height / 2).scale(scale).translate(-x, -y));
  }

  /** Shows the inputs and what follows. */
  start() {
    this.center({ place: [this.items[0].place[0], this.items[Math.min(3, this.items.length - 1)].place[1]] }, true);
  }

  scaleBy(factor) {
    this.svg.call(this.zoom.scaleBy, factor);
  }

  fit() {
    const { width, height } = this.svg.node().getBoundingClientRect();
    const [left, right] = d3.extent(this.items.flatMap(({ place: [x], width: w }) => [x - w / 2, x + w / 2]));
    const [top, bottom] = d3.extent(this.items.flatMap(({ place: [, y] }) => [y - HEIGHT, y + HEIGHT]));
    const scale = Math.min(width / (right - left), height / (bottom - top), 1);
    const middle = d3.zoomIdentity.translate(width / 2, height / 2).scale(scale);
    this.svg.call(this.zoom.transform, middle.translate(-(left + right) / 2, -(top + bottom) / 2));
  }

  key(event) {
    const at = this.selected;
    const near = (end, other) => this.lines.find((line) => at && line[end] === at.number)?.[other];
    const moves = {
      ArrowUp: () => near(1, 0),
      ArrowDown: () => near(0, 1) ?? (at ? undefined : 0),
      ArrowLeft: () => (at ? at.number - 1 : undefined),
      ArrowRight: () => (at ? at.number + 1 : 0),
    };
    const acts = { "+": () => this.scaleBy(1.3), "-": () => this.scaleBy(1 / 1.3), 0: () => this.fit() };
    if (event.key in moves) {
      const item = this.items[moves[event.key]()];
      if (item) this.choose(item.id);
    } else if (event.key in acts) acts[event.key]();
    else return;
    event.preventDefault();
  }
}

function escape(text) {
  return text.replace(/[&<>"]/g, (sign) => `&#${sign.charCodeAt(0)};`);
}
