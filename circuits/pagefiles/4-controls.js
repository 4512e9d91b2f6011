// Mouse, touch, keys, sliders and the panel.

const $ = (id) => document.getElementById(id);
function element(tag, text, more = {}) {
  const e = document.createElement(tag);
  if (text !== undefined) e.textContent = text;
  return Object.assign(e, more);
}

function resize() {
  const box = stage.getBoundingClientRect();
  width = Math.round(box.width); height = Math.round(box.height);
  for (const c of [base, over]) { c.width = width * devicePixelRatio; c.height = height * devicePixelRatio; }
  redraw();
}
function fit() {
  const g = base.getContext("2d");
  g.font = "12px system-ui, 'DejaVu Sans', sans-serif";
  MARGIN.left = Math.ceil(Math.max(20, ...rows.map((r) => textWidth(g, r.text) + 18)));
  const w = width - MARGIN.left - 12, h = height - MARGIN.bottom - 24;
  const across = Math.min(1.6, w / (data.width * ACROSS)), up = Math.min(1.6, h / (data.height * UP));
  view.across = Math.max(.01, Math.min(across, 3 * up));
  view.up = Math.max(.01, Math.min(up, 8 * across));
  view.x = MARGIN.left + (w - data.width * ACROSS * view.across) / 2 + 6;
  view.y = height - MARGIN.bottom - (h - data.height * UP * view.up) / 2;
  redraw();
}
function zoom(by, x = width / 2, y = height / 2) {
  const ratio = Math.max(.02, Math.min(12, least() * by)) / least();
  view.x = x - (x - view.x) * ratio;
  view.y = y - (y - view.y) * ratio;
  view.across *= ratio;
  view.up *= ratio;
  move();
}

function nodeAt(x, y) {
  let best = null, least = Math.max(8, glyphSize() + 3) ** 2;
  for (const n of shownNodes) {
    const d = (sx(n.x) - x) ** 2 + (sy(n.y) - y) ** 2;
    if (d < least) { least = d; best = n; }
  }
  return best;
}
function details(n) {
  const found = [["node", n.id]];
  if (n.label !== null) found.push([n.kind === "logit" || n.kind === "embedding" ? "token" : "meaning", oneLine(n.label)]);
  if (n.position !== null && meta.tokens) found.push(["at", oneLine(meta.tokens[n.position]) + ` (${n.position})`]);
  found.push(["effect", signed(n.score)]);
  for (const [name, key] of [["activation", "activation"], ["influence", "influence"], ["probability", "token_prob"]]) {
    if (n[key] !== null) found.push([name, round(n[key])]);
  }
  const known = new Set(["id", "i", "x", "y", "short", "edges", "kind", "layer", "site", "index", "position", "dictionary", "score", "activation", "label", "influence", "token_prob"]);
  for (const key of Object.keys(n)) if (!known.has(key)) found.push([key, oneLine(String(n[key]))]);
  return found;
}

function hover(n, x, y) {
  if (n !== state.hovered) {
    state.hovered = n;
    over.classList.toggle("near", !!n);
    $("tip").hidden = !n;
    if (n) $("tip").textContent = details(n).map(([k, v]) => (k === "node" ? v : `${k} ${v}`)).join("\n");
    requestAnimationFrame(drawOver);
  }
  if (n) {
    const tip = $("tip");
    tip.style.left = Math.max(4, Math.min(x + 14, width - tip.offsetWidth - 6)) + "px";
    tip.style.top = Math.max(4, y + 16 + tip.offsetHeight > height ? y - tip.offsetHeight - 10 : y + 16) + "px";
  }
}

function showPinned() {
  const panel = $("pinned");
  panel.replaceChildren();
  for (const n of state.pinned.slice(0, 12)) {
    const article = element("article"), head = element("h2", nameOf(n)), table = element("table");
    head.dir = "auto";
    const cell = (text, cls = "") => element("td", text, { className: cls, dir: "auto" });
    for (const [k, v] of details(n)) { const row = element("tr"); row.append(cell(k), cell(v)); table.append(row); }
    article.append(head, table);
    for (const [title, end, side] of [["from", "a", "b"], ["to", "b", "a"]]) {
      const list = n.edges.filter((e) => e[side] === n).sort((p, q) => q.size - p.size);
      if (!list.length) continue;
      const links = element("table");
      for (const e of list.slice(0, 10)) {
        const row = element("tr"), name = element("td", undefined, { dir: "auto" }), b = element("button", nameOf(e[end]) + (e[end].label !== null ? ` (${e[end].id})` : ""));
        b.onclick = () => pin(e[end]);
        b.className = "link";
        name.append(b);
        row.append(cell(title), name, cell(signed(e.weight), "number " + (e.weight < 0 ? "down" : "up")));
        links.append(row);
      }
      article.append(links);
      if (list.length > 10) article.append(element("p", `and ${list.length - 10} more ${title}`, { className: "hint" }));
    }
    const off = element("button", "unpin");
    off.onclick = () => pin(n);
    article.append(off);
    panel.append(article);
  }
}
function pin(n) { togglePin(n); showPinned(); showCounts(); redraw(); }

function showCounts() {
  $("nodes-shown").textContent = `${shownNodes.size.toLocaleString("en")} of ${nodes.length.toLocaleString("en")}`;
  $("edges-shown").textContent = `${shownEdges.length.toLocaleString("en")} of ${edges.length.toLocaleString("en")}`;
}
function showGroups() {
  $("groups").replaceChildren(...state.groups.map((group, i) => {
    const item = element("li"), name = element("span", oneLine(group.label) || "(no name)", { dir: "auto" });
    const off = element("button", "×", { title: "Take apart" });
    off.setAttribute("aria-label", "Take apart " + oneLine(group.label));
    off.onclick = () => { state.groups.splice(i, 1); showGroups(); redraw(); };
    item.append(name, element("span", String(group.members.length), { className: "hint" }), off);
    return item;
  }));
  const any = state.selected.size > 0;
  $("group-name").disabled = $("group-make").disabled = !any;
  $("group-name").placeholder = any ? `name of the ${state.selected.size} selected` : "name of the selected";
}
function showFound() {
  const wanted = $("find").value.trim().toLowerCase();
  const hits = wanted ? nodes.filter((n) => n.id.toLowerCase().includes(wanted) || (n.label || "").toLowerCase().includes(wanted)) : [];
  $("found").replaceChildren(...hits.slice(0, 12).map((n) => {
    const item = element("li"), b = element("button", n.label === null ? n.id : `${oneLine(n.label)} (${n.id})`, { dir: "auto" });
    b.onclick = () => pin(n);
    item.append(b);
    return item;
  }));
  if (hits.length > 12) $("found").append(element("li", `and ${hits.length - 12} more`, { className: "hint" }));
}
function showLegend() {
  const names = data.names, icon = (inner, w = 18) => `<svg width="${w}" height="18" viewBox="-9 -9 ${w} 18">${inner}</svg>`;
  const parts = [];
  for (const kind of Object.keys(names)) {
    if (!nodes.some((n) => n.kind === kind)) continue;
    const shape = SHAPES[kind], how = 'fill="none" stroke="currentColor"';
    const inner = shape ? `<polygon points="${shape.map((p) => p.map((v) => (6 * v).toFixed(1)).join(",")).join(" ")}" ${how}/>` : `<circle r="6" ${how}/>`;
    parts.push([icon(inner), names[kind]]);
  }
  const line = (colour, dash) => icon(`<path d="M-8 0H26" stroke="${colour}" stroke-width="3" stroke-dasharray="${dash}"/>`, 36);
  if (edges.some((e) => e.weight > 0)) parts.push([line(colours.positive, "none"), `weight up to ${signed(Math.max(...rankedEdges.filter((e) => e.weight > 0).slice(0, 1).map((e) => e.weight)))}`]);
  if (edges.some((e) => e.weight < 0)) parts.push([line(colours.negative, "6 3"), `weight down to ${signed(Math.min(...rankedEdges.filter((e) => e.weight < 0).slice(0, 1).map((e) => e.weight)))}`]);
  if (nodes.some((n) => n.score)) parts.push([icon(`<circle r="6" fill="${colours.positive}"/><circle cx="16" r="6" fill="${colours.negative}"/>`, 36), `effect up to ±${round(mostScore)}`]);
  $("legend").replaceChildren(...parts.map(([svg, text]) => { const row = element("div"); row.innerHTML = svg; row.append(text); return row; }));
}

function setTheme(name) {
  document.documentElement.dataset.theme = name;
  readColours();
  showLegend();
  redraw();
}

const pointers = new Map();
let start = null;
const local = (event) => { const box = over.getBoundingClientRect(); return [event.clientX - box.left, event.clientY - box.top]; };
over.addEventListener("pointerdown", (event) => {
  over.setPointerCapture(event.pointerId);
  const [x, y] = local(event);
  pointers.set(event.pointerId, [x, y]);
  start = { x, y, shift: event.shiftKey, moved: false };
});
over.addEventListener("pointermove", (event) => {
  const [x, y] = local(event), before = pointers.get(event.pointerId);
  if (!before) { hover(nodeAt(x, y), x, y); return; }
  if (pointers.size === 2) {
    const other = [...pointers].find(([id]) => id !== event.pointerId)[1];
    const was = Math.hypot(before[0] - other[0], before[1] - other[1]), is = Math.hypot(x - other[0], y - other[1]);
    start.moved = true;
    if (was > 0) zoom(is / was, (x + other[0]) / 2, (y + other[1]) / 2);
  } else if (start.moved || Math.hypot(x - start.x, y - start.y) > 4) {
    start.moved = true;
    if (start.shift) { lasso = [start.x, start.y, x, y]; requestAnimationFrame(drawOver); }
    else { view.x += x - before[0]; view.y += y - before[1]; over.classList.add("moving"); hover(null); move(); }
  }
  pointers.set(event.pointerId, [x, y]);
});
function up(event) {
  if (!pointers.delete(event.pointerId) || !start) return;
  over.classList.remove("moving");
  const [x, y] = local(event);
  if (lasso) {
    const [l, r] = [Math.min(lasso[0], x), Math.max(lasso[0], x)], [t, b] = [Math.min(lasso[1], y), Math.max(lasso[1], y)];
    for (const n of shownNodes) if (sx(n.x) >= l && sx(n.x) <= r && sy(n.y) >= t && sy(n.y) <= b) state.selected.add(n);
    lasso = null;
    showGroups();
  } else if (!start.moved && event.type === "pointerup") {
    const n = nodeAt(x, y);
    if (n && start.shift) { if (!state.selected.delete(n)) state.selected.add(n); showGroups(); }
    else if (n) pin(n);
  }
  redraw();
}
over.addEventListener("pointerup", up);
over.addEventListener("pointercancel", up);
over.addEventListener("pointerleave", () => { if (!pointers.size) hover(null); });
over.addEventListener("wheel", (event) => {
  event.preventDefault();
  const [x, y] = local(event);
  hover(null);
  zoom(Math.exp(-Math.max(-120, Math.min(120, event.deltaY)) / 400), x, y);
}, { passive: false });
addEventListener("keydown", (event) => {
  if (event.target.tagName === "INPUT" && event.key !== "Escape") return;
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const by = { ArrowLeft: [60, 0], ArrowRight: [-60, 0], ArrowUp: [0, 60], ArrowDown: [0, -60] }[event.key];
  if (by) { view.x += by[0]; view.y += by[1]; move(); event.preventDefault(); }
  else if (event.key === "+" || event.key === "=") zoom(1.25);
  else if (event.key === "-") zoom(.8);
  else if (event.key === "0") fit();
  else if (event.key === "Escape") { state.pinned = []; state.selected.clear(); hover(null); prune(); showPinned(); showGroups(); showCounts(); redraw(); }
});

// A slider's 0..1000 as a count: even steps below 200, else finer where little is kept.
function count(value, of) { return of <= 200 ? Math.round(of * value / 1000) : Math.round(of * (value / 1000) ** 2); }
function place(kept, of) { return of === 0 ? 1000 : of <= 200 ? 1000 * kept / of : 1000 * Math.sqrt(kept / of); }
for (const [id, key, all] of [["nodes", "nodesKept", nodes], ["edges", "edgesKept", edges]]) {
  $(id).value = Math.round(place(state[key], all.length));
  $(id).addEventListener("input", () => { state[key] = count(Number($(id).value), all.length); prune(); showCounts(); redraw(); });
}
$("zoom-in").onclick = () => zoom(1.25);
$("zoom-out").onclick = () => zoom(.8);
$("fit").onclick = fit;
$("theme").onclick = () => setTheme(document.documentElement.dataset.theme === "dark" ? "light" : "dark");
$("find").addEventListener("input", showFound);
$("group").addEventListener("submit", (event) => {
  event.preventDefault();
  makeGroup($("group-name").value.trim() || `group ${state.groups.length + 1}`);
  $("group-name").value = "";
  showGroups();
  redraw();
});
$("save-svg").onclick = () => download(data.name + ".svg", toSvg(), "image/svg+xml");
$("save-dsl").onclick = () => download(data.name + ".saedsl", toDsl(), "text/plain");
$("save-json").onclick = () => download(data.name + ".json", toJson(), "application/json");

$("title").textContent = data.title;
$("caption").textContent = data.caption;
const dark = matchMedia("(prefers-color-scheme: dark)");
dark.addEventListener("change", () => setTheme(dark.matches ? "dark" : "light"));
prune();
showGroups();
showCounts();
setTheme(dark.matches ? "dark" : "light");
resize();
fit();
new ResizeObserver(resize).observe(stage);
