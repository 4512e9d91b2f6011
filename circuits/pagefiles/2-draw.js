// Drawing. The world is in slots, y upwards; `view` takes it to the screen.

const stage = document.getElementById("stage"), base = document.getElementById("base"), over = document.getElementById("over");
const ACROSS = 46, UP = 40, GLYPH = 9; // pixels at scale 1
const view = { across: 1, up: 1, x: 0, y: 0 };
const MARGIN = { left: 20, bottom: 26 };
let colours = {}, width = 0, height = 0, moving = false, queued = false, settle = 0;

const sx = (n) => view.x + n * ACROSS * view.across;
const sy = (n) => view.y - n * UP * view.up;
const least = () => Math.min(view.across, view.up);
const glyphSize = () => Math.max(2.2, Math.min(14, GLYPH * least()));

function readColours() {
  const style = getComputedStyle(document.documentElement);
  for (const name of ["paper", "ink", "soft", "line", "band", "accent", "positive", "negative", "middle", "rim"]) {
    colours[name] = style.getPropertyValue("--" + name).trim();
  }
}
function parts(hex) { return [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16)); }
function blend(share) {
  const end = parts(share >= 0 ? colours.positive : colours.negative), from = parts(colours.middle);
  const t = Math.min(1, Math.abs(share));
  return "#" + end.map((e, i) => Math.round(from[i] + (e - from[i]) * t).toString(16).padStart(2, "0")).join("");
}

const SHAPES = {
  embedding: [[-.84, -.84], [.84, -.84], [.84, .84], [-.84, .84]], feature: null,
  transcoder: polygon(6, Math.PI / 2), error: [[0, -1.05], [1.05, 0], [0, 1.05], [-1.05, 0]], head: polygon(3, -Math.PI / 2, 1.15),
  mlp: [[-1.1, .7], [1.1, .7], [.65, -.7], [-.65, -.7]],
  neuron: [[-.35, -1], [.35, -1], [.35, -.35], [1, -.35], [1, .35], [.35, .35], [.35, 1], [-.35, 1], [-.35, .35], [-1, .35], [-1, -.35], [-.35, -.35]],
  logit: polygon(5, -Math.PI / 2, 1.08),
};
function polygon(n, turn, r = 1) {
  return Array.from({ length: n }, (_, i) => [r * Math.cos(turn + 2 * Math.PI * i / n), r * Math.sin(turn + 2 * Math.PI * i / n)]);
}

// [x0, y0, c0x, c0y, c1x, c1y, x1, y1] of an edge on the screen.
function curve(e) {
  const x0 = sx(e.a.x), y0 = sy(e.a.y), x1 = sx(e.b.x), y1 = sy(e.b.y);
  if (Math.abs(y1 - y0) < 1e-6) {
    const rise = Math.min(1.6 * UP * view.up, .22 * Math.abs(x1 - x0) + .3 * UP * view.up);
    return [x0, y0, x0, y0 - rise, x1, y1 - rise, x1, y1];
  }
  const rise = (y1 - y0) * .42;
  return [x0, y0, x0, y0 + rise, x1, y1 - rise, x1, y1];
}
function edgeWidth(e) { return .5 + 3.5 * (e.size / mostWeight) * Math.min(1, Math.max(.35, least())) * density(); }
function density() { return shownEdges.length <= 200 ? 1 : Math.max(.35, Math.sqrt(200 / shownEdges.length)); }
const STEPS = 6, SHADES = 24;

function drawEdges(g, list, strong) {
  const buckets = new Map();
  for (const e of list) {
    const step = Math.min(STEPS - 1, Math.floor(STEPS * e.size / mostWeight)), key = (e.weight < 0 ? "-" : "+") + step;
    if (!buckets.has(key)) buckets.set(key, { step, sign: e.weight < 0 ? -1 : 1, path: new Path2D(), e });
    const c = curve(e);
    if (Math.max(c[0], c[6]) < 0 || Math.min(c[0], c[6]) > width || Math.max(c[1], c[7]) < 0 || Math.min(c[1], c[7]) > height) continue;
    const p = buckets.get(key).path;
    p.moveTo(c[0], c[1]);
    p.bezierCurveTo(c[2], c[3], c[4], c[5], c[6], c[7]);
  }
  g.lineCap = "butt";
  for (const b of [...buckets.values()].sort((p, q) => p.step - q.step)) {
    g.strokeStyle = blend(b.sign * (.3 + .7 * (b.step + .5) / STEPS));
    g.lineWidth = edgeWidth(b.e) * (strong ? 1.4 : 1);
    g.setLineDash(b.sign < 0 && !moving ? [6, 3] : []);
    g.stroke(b.path);
  }
  g.setLineDash([]);
}

function outline(g, kind, x, y, r) {
  const shape = SHAPES[kind];
  if (!shape) { g.moveTo(x + r, y); g.arc(x, y, r, 0, 2 * Math.PI); return; }
  shape.forEach(([dx, dy], i) => { if (i) g.lineTo(x + r * dx, y + r * dy); else g.moveTo(x + r * dx, y + r * dy); });
  g.closePath();
}

function drawNodes(g, list) {
  const r = glyphSize();
  g.lineWidth = Math.max(.5, Math.min(1.2, r / 8));
  g.strokeStyle = colours.rim;
  const buckets = new Map(), signs = new Path2D(); // one fill for every shade: thousands of nodes stay fluid
  for (const n of list) {
    const x = sx(n.x), y = sy(n.y);
    if (x < -r || x > width + r || y < -r || y > height + r) continue;
    const shade = Math.round(n.score / mostScore * SHADES);
    if (!buckets.has(shade)) buckets.set(shade, new Path2D());
    outline(buckets.get(shade), n.kind, x, y, r);
    if (n.score < 0 && r > 4) { signs.moveTo(x - .4 * r, y); signs.lineTo(x + .4 * r, y); }
  }
  for (const [shade, path] of buckets) {
    g.fillStyle = blend(shade / SHADES);
    g.fill(path);
    g.stroke(path);
  }
  g.stroke(signs);
}

// Boxes [x0, y0, x1, y1] of a supernode's members that are shown, one a cell, from the top.
function groupBoxes(group) {
  const cells = new Map(), pad = glyphSize() + 4;
  for (const id of group.members) {
    const n = byId.get(id);
    if (!n || !shownNodes.has(n)) continue;
    const key = n.site + "@" + n.position, x = sx(n.x), y = sy(n.y), b = cells.get(key) || [Infinity, Infinity, -Infinity, -Infinity];
    cells.set(key, [Math.min(b[0], x - pad), Math.min(b[1], y - pad), Math.max(b[2], x + pad), Math.max(b[3], y + pad)]);
  }
  return [...cells.values()].sort((p, q) => p[1] - q[1] || p[0] - q[0]);
}

const widths = new Map();
function textWidth(g, text) {
  const key = g.font + text;
  if (!widths.has(key)) widths.set(key, g.measureText(text).width);
  return widths.get(key);
}
function short(g, text, most) {
  if (textWidth(g, text) <= most) return text;
  let low = 0, high = text.length;
  while (low < high) { const mid = (low + high + 1) >> 1; if (textWidth(g, text.slice(0, mid) + "…") <= most) low = mid; else high = mid - 1; }
  return text.slice(0, low) + "…";
}

class Taken {
  constructor() { this.cells = new Map(); }
  keys(b) { const k = []; for (let i = b[0] >> 5; i <= b[2] >> 5; i++) for (let j = b[1] >> 5; j <= b[3] >> 5; j++) k.push(i + "," + j); return k; }
  add(b) { for (const k of this.keys(b)) { if (!this.cells.has(k)) this.cells.set(k, []); this.cells.get(k).push(b); } }
  free(b) { return this.keys(b).every((k) => (this.cells.get(k) || []).every((o) => b[2] <= o[0] || o[2] <= b[0] || b[3] <= o[1] || o[3] <= b[1])); }
}

// [{text, x, y, bold}] that cover nothing; the most important first.
function labels(g) {
  const found = [], taken = new Taken(), r = glyphSize(), bottom = height - MARGIN.bottom;
  const list = ranked.filter((n) => shownNodes.has(n) && sx(n.x) > MARGIN.left && sx(n.x) < width && sy(n.y) > 0 && sy(n.y) < bottom);
  list.forEach((n) => taken.add([sx(n.x) - r, sy(n.y) - r, sx(n.x) + r, sy(n.y) + r]));
  const boxes = state.groups.map((group) => [group, groupBoxes(group)]);
  boxes.forEach(([, all]) => all.forEach((b) => taken.add(b)));
  const put = (text, at, bold, above) => {
    g.font = (bold ? "600 " : "") + "11.5px system-ui, 'DejaVu Sans', sans-serif";
    for (const most of [150, 90]) {
      const t = short(g, text, most), w = textWidth(g, t), x = (at[0] + at[2]) / 2, y = (at[1] + at[3]) / 2;
      const tops = [at[3] + 1, at[1] - 15];
      if (above) tops.reverse();
      const places = [[x - w / 2, tops[0]], [at[2] + 3, y - 7], [at[0] - 3 - w, y - 7], [x - w / 2, tops[1]]];
      for (const [left, top] of places) {
        const box = [left - 2, top, left + w + 2, top + 14];
        if (left >= MARGIN.left && left + w <= width && top >= 0 && top + 14 <= bottom && taken.free(box)) {
          taken.add(box);
          found.push({ text: t, x: left, y: top + 10.5, bold });
          return;
        }
      }
    }
  };
  boxes.forEach(([group, all]) => { if (all.length) put(oneLine(group.label), all[0], true, true); });
  if (r >= 4.5 || list.length <= 300) {
    for (const n of list.slice(0, 400)) {
      if (n.kind === "embedding" && (n.label === null || (meta.tokens && n.label === meta.tokens[n.position]))) continue;
      put(nameOf(n), [sx(n.x) - r, sy(n.y) - r, sx(n.x) + r, sy(n.y) + r], false, n.kind === "logit");
    }
  }
  return found;
}

function drawFrame(g) {
  const bottom = height - MARGIN.bottom;
  g.fillStyle = colours.paper;
  g.fillRect(0, 0, width, height);
  g.fillStyle = colours.band;
  bands().forEach(([low, high], i) => { if (i % 2 === 0) g.fillRect(MARGIN.left, sy(high), width, sy(low) - sy(high)); });
}
// [bottom, top] of each layer.
function bands() {
  const found = new Map();
  for (const r of rows) {
    const key = r.layer === null ? r.text : r.layer, b = found.get(key) || [Infinity, -Infinity];
    found.set(key, [Math.min(b[0], r.bottom - .3), Math.max(b[1], r.top + .3)]);
  }
  return [...found.values()];
}

// Names of rows and tokens at the edges of the window: [{text, x, y, turn, align}].
function marginTexts(g) {
  const found = [];
  g.font = "12px system-ui, 'DejaVu Sans', sans-serif";
  let free = Infinity;
  for (const r of rows) {
    const y = sy((r.bottom + r.top) / 2);
    if (y > 8 && y < height - MARGIN.bottom - 4 && free - y >= 13) { found.push({ text: r.text, x: MARGIN.left - 8, y: y + 4, align: "right" }); free = y; }
  }
  let after = MARGIN.left - 4;
  for (const c of columns) {
    const x = sx((c.left + c.right) / 2), room = (c.right - c.left + .5) * ACROSS * view.across;
    const text = short(g, oneLine(c.text.trim() || "␣".repeat(c.text.length)), Math.max(26, room)), w = textWidth(g, text);
    if (x - w / 2 >= after && x + w / 2 <= width) { found.push({ text, x, y: height - 9, align: "center" }); after = x + w / 2 + 4; }
  }
  return found;
}

function drawMargins(g) {
  g.fillStyle = colours.paper;
  g.fillRect(0, 0, MARGIN.left, height);
  g.fillRect(0, height - MARGIN.bottom, width, MARGIN.bottom);
  g.strokeStyle = colours.line;
  g.lineWidth = 1;
  g.beginPath();
  g.moveTo(MARGIN.left - .5, 0); g.lineTo(MARGIN.left - .5, height - MARGIN.bottom + .5); g.lineTo(width, height - MARGIN.bottom + .5);
  g.stroke();
  const texts = marginTexts(g);
  g.fillStyle = colours.soft;
  for (const t of texts) { g.textAlign = t.align; g.fillText(t.text, t.x, t.y); }
  g.textAlign = "left";
}

function drawGroups(g) {
  g.strokeStyle = colours.soft;
  g.lineWidth = 1;
  for (const group of state.groups) {
    const boxes = groupBoxes(group);
    g.setLineDash([1, 3]);
    g.beginPath();
    boxes.slice(1).forEach((b, i) => { const a = boxes[i]; g.moveTo((a[0] + a[2]) / 2, (a[1] + a[3]) / 2); g.lineTo((b[0] + b[2]) / 2, (b[1] + b[3]) / 2); });
    g.stroke();
    g.setLineDash([]);
    for (const b of boxes) {
      g.beginPath();
      g.roundRect(b[0], b[1], b[2] - b[0], b[3] - b[1], 5);
      g.globalAlpha = .75; g.fillStyle = colours.paper; g.fill();
      g.globalAlpha = 1; g.stroke();
    }
  }
}

function drawLabels(g, list) {
  g.lineJoin = "round";
  g.lineWidth = 3;
  for (const t of list) {
    g.font = (t.bold ? "600 " : "") + "11.5px system-ui, 'DejaVu Sans', sans-serif";
    g.strokeStyle = colours.paper;
    g.strokeText(t.text, t.x, t.y);
    g.fillStyle = colours.ink;
    g.fillText(t.text, t.x, t.y);
  }
}

function drawBase() {
  const g = base.getContext("2d");
  g.setTransform(devicePixelRatio, 0, 0, devicePixelRatio, 0, 0);
  drawFrame(g);
  drawEdges(g, moving ? shownEdges.slice(0, 300) : shownEdges, false);
  drawGroups(g);
  drawNodes(g, shownNodes);
  if (!moving) drawLabels(g, labels(g));
  drawMargins(g);
  drawOver();
}

function drawOver() {
  const g = over.getContext("2d");
  g.setTransform(devicePixelRatio, 0, 0, devicePixelRatio, 0, 0);
  g.clearRect(0, 0, width, height);
  const focus = new Set([...state.pinned, ...(state.hovered ? [state.hovered] : [])]);
  if (focus.size) {
    const near = edges.filter((e) => (focus.has(e.a) || focus.has(e.b)) && shownNodes.has(e.a) && shownNodes.has(e.b));
    g.globalAlpha = .72; g.fillStyle = colours.paper;
    g.fillRect(MARGIN.left, 0, width, height - MARGIN.bottom);
    g.globalAlpha = 1;
    g.save();
    g.beginPath(); g.rect(MARGIN.left, 0, width, height - MARGIN.bottom); g.clip();
    drawEdges(g, near, true);
    const around = new Set([...focus, ...near.flatMap((e) => [e.a, e.b])]);
    drawNodes(g, around);
    const r = glyphSize();
    g.strokeStyle = colours.accent; g.lineWidth = 2;
    for (const n of focus) { g.beginPath(); g.arc(sx(n.x), sy(n.y), r + 4, 0, 2 * Math.PI); g.stroke(); }
    const taken = new Taken();
    g.font = "11.5px system-ui, 'DejaVu Sans', sans-serif";
    const texts = [];
    for (const n of [...around].sort((p, q) => rank(p) - rank(q))) {
      const text = short(g, nameOf(n), 150), w = textWidth(g, text), x = sx(n.x) - w / 2, y = sy(n.y) + r + 2, box = [x - 2, y, x + w + 2, y + 14];
      if (taken.free(box)) { taken.add(box); texts.push({ text, x, y: y + 10.5 }); }
    }
    drawLabels(g, texts);
    g.restore();
  }
  g.strokeStyle = colours.accent; g.lineWidth = 2;
  for (const n of state.selected) { g.beginPath(); g.arc(sx(n.x), sy(n.y), glyphSize() + 2.5, 0, 2 * Math.PI); g.stroke(); }
  if (lasso) { g.setLineDash([4, 3]); g.strokeRect(lasso[0], lasso[1], lasso[2] - lasso[0], lasso[3] - lasso[1]); g.setLineDash([]); }
}
let lasso = null;

function redraw() {
  if (queued) return;
  queued = true;
  requestAnimationFrame(() => { queued = false; drawBase(); });
}
function move() {
  moving = true;
  clearTimeout(settle);
  settle = setTimeout(() => { moving = false; redraw(); }, 140);
  redraw();
}
