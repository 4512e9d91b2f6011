"use strict";
// What is shown: the circuit, and which of it. Nothing here draws.

const data = JSON.parse(document.getElementById("data").textContent);
const native = JSON.parse(data.before + "[]" + data.after);
const meta = native.graph.meta;
const nodes = native.nodes.map((n, i) => ({
  ...n, i, x: data.places[i][0], y: data.places[i][1], short: data.shorts[i], edges: [],
}));
const byId = new Map(nodes.map((n) => [n.id, n]));
const edges = native.edges.map((e) => ({ ...e, a: byId.get(e.source), b: byId.get(e.target), size: Math.abs(e.weight) }));
edges.forEach((e) => { e.a.edges.push(e); e.b.edges.push(e); });
const columns = data.columns, rows = data.rows;
const mostScore = Math.max(...nodes.map((n) => Math.abs(n.score)), 0) || 1;
const mostWeight = edges.reduce((m, e) => Math.max(m, e.size), 0) || 1;

// Logits always stay; others by cumulative influence where every node has one, else by effect.
const byInfluence = nodes.every((n) => n.kind === "logit" || n.influence !== null);
const ranked = [...nodes].sort((p, q) => rank(p) - rank(q) || p.i - q.i);
const rankedEdges = [...edges].sort((p, q) => q.size - p.size);
function rank(n) {
  if (n.kind === "logit") return -Infinity;
  return byInfluence ? n.influence : -Math.abs(n.score);
}

const state = {
  nodesKept: nodes.length,
  edgesKept: Math.min(edges.length, 800),
  groups: data.supernodes.map(([label, members]) => ({ label, members })),
  selected: new Set(),
  pinned: [],
  hovered: null,
};
let shownNodes = new Set(nodes), shownEdges = edges;

function prune() {
  shownNodes = new Set(ranked.slice(0, state.nodesKept));
  state.pinned.forEach((n) => shownNodes.add(n));
  shownEdges = rankedEdges.slice(0, state.edgesKept).filter((e) => shownNodes.has(e.a) && shownNodes.has(e.b));
}

function togglePin(n) {
  const at = state.pinned.indexOf(n);
  if (at < 0) state.pinned.unshift(n); else state.pinned.splice(at, 1);
  prune();
}

function makeGroup(label) {
  const members = [...state.selected].sort((p, q) => p.i - q.i).map((n) => n.id);
  if (!members.length) return;
  state.groups.forEach((g) => { g.members = g.members.filter((m) => !members.includes(m)); });
  state.groups = state.groups.filter((g) => g.members.length);
  state.groups.push({ label, members });
  state.selected.clear();
}

// Text without control characters, in one line.
function oneLine(text) {
  return text.replace(/\r\n|\r|\n/g, "⏎").replace(/\t/g, "→").replace(/[\u0000-\u001f\u007f-\u009f\u2028\u2029\u202a-\u202e\u2066-\u2069]/g, "\ufffd");
}

function nameOf(n) {
  if (n.kind === "logit" && n.label !== null) {
    return oneLine(n.label.trim() || n.label) + (n.token_prob === null ? "" : " " + n.token_prob.toFixed(2));
  }
  return n.label !== null && n.label.trim() !== "" ? oneLine(n.label) : n.short;
}

function round(v) { return v === null || v === undefined ? "" : String(Number(v.toPrecision(4))); }
function signed(v) { return (v < 0 ? "−" : "+") + round(Math.abs(v)); }
