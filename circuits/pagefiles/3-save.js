// What is seen, as files: SVG, a program, and the circuit with its supernodes.

function download(name, text, type) {
  const a = document.createElement("a");
  a.href = URL.createObjectURL(new Blob([text], { type }));
  a.download = name;
  a.click();
  setTimeout(() => URL.revokeObjectURL(a.href), 1000);
}

function xml(text) {
  return String(text).replace(/[\u0000-\u0008\u000b\u000c\u000e-\u001f\ufffe\uffff]|[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g, "\ufffd")
    .replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;").replace(/"/g, "&quot;");
}

function toSvg() {
  const g = base.getContext("2d"), r = glyphSize(), out = [], n2 = (v) => Number(v.toFixed(2));
  const clip = `<clipPath id="inside"><rect x="${MARGIN.left}" y="0" width="${n2(width - MARGIN.left)}" height="${n2(height - MARGIN.bottom)}"/></clipPath>`;
  out.push(`<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}" font-family="system-ui, 'DejaVu Sans', sans-serif">`);
  out.push(`<title>${xml(oneLine(document.title))}</title><desc>${xml(oneLine(data.caption))}</desc>${clip}`);
  out.push(`<rect width="${width}" height="${height}" fill="${colours.paper}"/><g clip-path="url(#inside)">`);
  bands().forEach(([low, high], i) => { if (i % 2 === 0) out.push(`<rect x="${MARGIN.left}" y="${n2(sy(high))}" width="${width}" height="${n2(sy(low) - sy(high))}" fill="${colours.band}"/>`); });
  for (const e of [...shownEdges].reverse()) {
    const c = curve(e).map(n2), share = e.weight / mostWeight;
    const dash = share < 0 ? ' stroke-dasharray="6 3"' : "";
    out.push(`<path d="M${c[0]} ${c[1]}C${c[2]} ${c[3]} ${c[4]} ${c[5]} ${c[6]} ${c[7]}" fill="none" stroke="${blend(Math.sign(share) * .3 + .7 * share)}" stroke-width="${n2(edgeWidth(e))}"${dash}/>`);
  }
  for (const group of state.groups) for (const b of groupBoxes(group)) {
    out.push(`<rect x="${n2(b[0])}" y="${n2(b[1])}" width="${n2(b[2] - b[0])}" height="${n2(b[3] - b[1])}" rx="5" fill="${colours.paper}" fill-opacity=".75" stroke="${colours.soft}"/>`);
  }
  for (const n of shownNodes) {
    const x = sx(n.x), y = sy(n.y), fill = blend(n.score / mostScore), shape = SHAPES[n.kind], title = `<title>${xml(oneLine(n.id + (n.label === null ? "" : ": " + n.label)))}</title>`;
    const how = `fill="${fill}" stroke="${colours.rim}" stroke-width="${n2(Math.max(.5, Math.min(1.2, r / 8)))}"`;
    out.push(shape
      ? `<polygon points="${shape.map(([dx, dy]) => n2(x + r * dx) + "," + n2(y + r * dy)).join(" ")}" ${how}>${title}</polygon>`
      : `<circle cx="${n2(x)}" cy="${n2(y)}" r="${n2(r)}" ${how}>${title}</circle>`);
  }
  for (const t of labels(g)) out.push(`<text x="${n2(t.x)}" y="${n2(t.y)}" font-size="11.5" fill="${colours.ink}"${t.bold ? ' font-weight="600"' : ""} stroke="${colours.paper}" stroke-width="3" stroke-linejoin="round" paint-order="stroke">${xml(t.text)}</text>`);
  out.push("</g>");
  for (const t of marginTexts(g)) out.push(`<text x="${n2(t.x)}" y="${n2(t.y)}" font-size="12" fill="${colours.soft}" text-anchor="${t.align === "right" ? "end" : "middle"}">${xml(t.text)}</text>`);
  out.push("</svg>");
  return out.join("\n") + "\n";
}

// The circuit with its supernodes: everything else is byte for byte what Python wrote.
function toJson() {
  const groups = state.groups.map((g) => [g.label, g.members]);
  return data.before + JSON.stringify(groups) + data.after;
}

// `keep only` what is shown, at every site of the circuit.
function toDsl() {
  const lines = [`# ${shownNodes.size} of ${nodes.length} nodes, as shown`], quoted = (text) => {
    const named = { "\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t" };
    return '"' + text.replace(/[\\"]|[^\P{C}]/gu, (c) => named[c] || (c.length > 1 ? c : "\\u" + c.charCodeAt(0).toString(16).padStart(4, "0"))) + '"';
  };
  if (meta.prompts.length) lines.push(`prompt circuit = ${quoted(meta.prompts[0])}`);
  if (meta.metric) lines.push(`metric m = ${meta.metric}`);
  const reference = /^(mean|resample)\b/.test(meta.ablation) ? meta.ablation : "";
  const places = new Map();
  for (const n of nodes) {
    const part = { feature: "f", transcoder: "f", head: "h", neuron: "n" }[n.kind];
    if (!part && n.kind !== "error") continue;
    const site = n.kind === "head" && /\.attn$/.test(n.site) ? n.site + ".z" : n.kind === "neuron" && /\.mlp$/.test(n.site) ? n.site + ".act" : n.site;
    const key = site + "|" + (n.dictionary || "") + "|" + (part === "f" || !part ? "f" : part);
    if (!places.has(key)) places.set(key, { site, dictionary: n.dictionary, kept: new Set(), error: false });
    const place = places.get(key);
    if (!shownNodes.has(n)) continue;
    if (part) place.kept.add(part + n.index); else place.error = true;
  }
  for (const [key, place] of places) {
    const own = place.dictionary ? place.dictionary + "." : "", dictionary = key.endsWith("|f"), edits = [];
    const kept = [...place.kept].sort((p, q) => Number(p.slice(1)) - Number(q.slice(1))).map((k) => own + k);
    if (kept.length) edits.push(`keep only {${kept.join(", ")}}${reference ? " else " + reference : ""}`);
    else if (!own) edits.push(`ablate${dictionary ? " all" : ""}${reference ? " to " + reference : ""}`);
    else lines.push(`# ${place.site}: nothing of ${place.dictionary} is shown`);
    if (dictionary && meta.errors === "remove" && !place.error) edits.push(own ? `ablate ${own}error` : "drop error");
    if (edits.length === 1) lines.push(`at ${place.site} ${edits[0]}`);
    else if (edits.length) lines.push(`at ${place.site} {`, ...edits.map((e) => "  " + e), "}");
  }
  if (meta.prompts.length) lines.push("run circuit");
  return lines.join("\n") + "\n";
}
