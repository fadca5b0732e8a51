// The explorer of overlaps: reads window.superpositionExplorer (data.js), draws with d3.
(async () => {
  "use strict";
  const root = d3.select("#overlap-explorer");
  const data = window.superpositionExplorer;
  const say = text => root.select(".explorer-status").text(text);
  if (root.empty() || !data) return;
  if (typeof DecompressionStream === "undefined") {
    root.select(".explorer-status").classed("visually-hidden", false);
    root.select("form").attr("hidden", "");
    say("This browser cannot unpack the data: it is older than Chrome 80, Firefox 113 or Safari 16.4.");
    return;
  }

  // Data

  const m = data.facts.length;
  const half = (m * (m - 1)) / 2;
  const facts = data.facts.map(([subject, prompt, object, relation], index) =>
    ({index, subject, prompt, object, relation: data.relations[relation], group: relation,
      asks: prompt.replace("{}", subject)}));
  const searched = facts.map(f => `${f.subject}\n${f.relation}\n${f.object}`.toLowerCase());
  const packed = Uint8Array.from(atob(data.packed), c => c.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  const raw = await new Response(stream).arrayBuffer();
  let place = 0;
  for (const model of data.models) {
    const layers = model.layers.length;
    const take = (kind, count) => {
      const size = count * kind.BYTES_PER_ELEMENT;
      const part = new kind(raw.slice(place, place + size));
      place += size;
      return part;
    };
    model.codes = take(Int8Array, layers * half);
    model.lengths = take(Float32Array, layers * m);
    model.orders = take(Uint8Array, layers * m);
    model.sinks = new Set(model.first);
  }

  const cosineOf = (model, row, i, j) => {
    if (i === j) return 1;
    const [a, b] = i < j ? [i, j] : [j, i];
    const q = model.codes[row * half + a * m - (a * (a + 1)) / 2 + (b - a - 1)] / data.steps;
    return Math.sign(q) * q * q;
  };
  const lengthOf = (model, row, i) => model.lengths[row * m + i];
  const pOf = (model, row, i, j) => cosineOf(model, row, i, j) * lengthOf(model, row, j) / lengthOf(model, row, i);

  // State: what is shown, and the pair that is held; the address says it all.

  const state = {model: 0, layer: 0, order: "relation", show: "p", filter: "", edit: 0, read: 1};
  let hovered = null, values = null, rows = [], columns = [], sorted = null;
  const model = () => data.models[state.model];
  const bySubject = new Map(facts.map(f => [f.subject, f.index]));
  const named = d3.select("#explorer-order").selectAll("option").nodes().map(o => o.value);
  const clamp = (x, low, high) => Math.min(high, Math.max(low, x));

  function readAddress() {
    const asked = new URLSearchParams(location.hash.includes("=") ? location.hash.slice(1) : location.search);
    const which = data.models.findIndex(x => x.name === asked.get("model"));
    if (which >= 0) state.model = which;
    const layer = model().layers.indexOf(Number(asked.get("layer") ?? NaN));
    state.layer = layer >= 0 ? layer : clamp(state.layer, 0, model().layers.length - 1);
    if (named.includes(asked.get("order"))) state.order = asked.get("order");
    if (["p", "cosine"].includes(asked.get("show"))) state.show = asked.get("show");
    if (asked.has("filter")) state.filter = asked.get("filter");
    for (const end of ["edit", "read"]) if (bySubject.has(asked.get(end))) state[end] = bySubject.get(asked.get(end));
  }

  function writeAddress() {
    const said = new URLSearchParams({model: model().name, layer: model().layers[state.layer], order: state.order,
      show: state.show, edit: facts[state.edit].subject, read: facts[state.read].subject});
    if (state.filter) said.set("filter", state.filter);
    if (`#${said}` !== location.hash) history.replaceState(null, "", `#${said}`);
  }

  function arrange() {
    const chosen = model(), at = state.layer;
    const everyone = d3.range(m);
    if (state.order === "clusters") columns = Array.from(chosen.orders.subarray(at * m, (at + 1) * m));
    else if (state.order === "length") columns = d3.sort(everyone, i => -lengthOf(chosen, at, i));
    else if (state.order === "name") columns = d3.sort(everyone, i => facts[i].subject.toLowerCase());
    else columns = d3.sort(everyone, i => facts[i].group, i => i);
    const wanted = state.filter.trim().toLowerCase();
    rows = wanted ? columns.filter(i => searched[i].includes(wanted)) : columns;
    values = Float32Array.from({length: m * m}, (_, k) => {
      const i = Math.floor(k / m), j = k % m;
      return state.show === "p" ? pOf(chosen, at, i, j) : cosineOf(chosen, at, i, j);
    });
    const beside = [];
    for (let i = 0; i < m; i++) for (let j = 0; j < m; j++)
      if (i !== j && (state.show === "p" || i < j)) beside.push(values[i * m + j]);
    sorted = Float32Array.from(beside).sort();
  }

  // Colours: zero is the page's own ground, in both schemes.

  const LIMIT = 0.6, SHADES = 255;
  let palette = [], colour = null;
  function choosePalette() {
    const dark = document.documentElement.dataset.theme === "dark";
    const ends = dark
      ? ["#9fd0ff", "#2f80c8", "#171b21", "#d2622f", "#ffc9a3"]
      : ["#08306b", "#4393c3", "#ffffff", "#d6604d", "#67001f"];
    colour = d3.scaleLinear([-LIMIT, -LIMIT / 2, 0, LIMIT / 2, LIMIT], ends).interpolate(d3.interpolateLab).clamp(true);
    palette = d3.range(SHADES).map(k => d3.rgb(colour(((2 * k) / (SHADES - 1) - 1) * LIMIT)));
  }
  const shade = v => palette[clamp(Math.round(((v / LIMIT + 1) / 2) * (SHADES - 1)), 0, SHADES - 1)];

  // The map

  const canvas = root.select("canvas"), node = canvas.node(), pen = node.getContext("2d");
  let cell = {width: 1, height: 1};
  function draw() {
    const width = node.clientWidth || 320;
    const dense = rows.length === m;
    const tall = dense ? width : clamp((rows.length * width) / m, Math.min(rows.length * 24, 240), width);
    const scale = window.devicePixelRatio || 1;
    node.style.height = `${tall}px`;
    node.width = Math.round(width * scale);
    node.height = Math.round(tall * scale);
    cell = {width: width / m, height: rows.length ? tall / rows.length : 1};
    pen.clearRect(0, 0, node.width, node.height);
    if (!rows.length) return;
    const image = new ImageData(m, rows.length);
    rows.forEach((i, y) => columns.forEach((j, x) => {
      const {r, g, b} = shade(values[i * m + j]);
      image.data.set([r, g, b, 255], 4 * (y * m + x));
    }));
    const small = Object.assign(document.createElement("canvas"), {width: m, height: rows.length});
    small.getContext("2d").putImageData(image, 0, 0);
    pen.imageSmoothingEnabled = false;
    pen.drawImage(small, 0, 0, node.width, node.height);
    pen.scale(scale, scale);
    const ink = getComputedStyle(node).color;
    if (state.order === "relation") separate(ink, width, tall);
    frame(state.edit, state.read, ink, 2.5);
    if (hovered) frame(...hovered, ink, 1);
  }

  function separate(ink, width, tall) {
    pen.strokeStyle = ink;
    pen.globalAlpha = 0.25;
    pen.lineWidth = 0.5;
    pen.beginPath();
    columns.forEach((j, x) => {
      if (x && facts[j].group !== facts[columns[x - 1]].group) { pen.moveTo(x * cell.width, 0); pen.lineTo(x * cell.width, tall); }
    });
    rows.forEach((i, y) => {
      if (y && facts[i].group !== facts[rows[y - 1]].group) { pen.moveTo(0, y * cell.height); pen.lineTo(width, y * cell.height); }
    });
    pen.stroke();
    pen.globalAlpha = 1;
  }

  function frame(i, j, ink, line) {
    const y = rows.indexOf(i), x = columns.indexOf(j);
    if (y < 0 || x < 0) return;
    const grow = Math.max(0, 8 - cell.width) / 2, rise = Math.max(0, 8 - cell.height) / 2;
    for (const [style, wide] of [[palette[(SHADES - 1) / 2].formatHex(), line + 2.5], [ink, line]]) {
      pen.strokeStyle = style;
      pen.lineWidth = wide;
      pen.strokeRect(x * cell.width - grow, y * cell.height - rise, cell.width + 2 * grow, cell.height + 2 * rise);
    }
  }

  function legend() {
    const width = 260, svg = root.select(".explorer-legend").html("").attr("viewBox", `0 0 ${width} 46`).attr("width", width);
    const x = d3.scaleLinear([-LIMIT, LIMIT], [20, width - 20]);
    svg.selectAll("rect").data(d3.range(-LIMIT, LIMIT, LIMIT / 60)).join("rect")
      .attr("x", v => x(v)).attr("width", x(LIMIT / 60) - x(0) + 0.5).attr("height", 12).attr("fill", v => colour(v + LIMIT / 120));
    svg.append("g").attr("transform", "translate(0,12)")
      .call(d3.axisBottom(x).tickValues([-0.6, -0.3, 0, 0.3, 0.6]).tickFormat(v =>
        (v === -0.6 ? "≤ " : v === 0.6 ? "≥ " : "") + decimals(v, 1)));
    svg.append("title").text("Colours: blue below zero, red above, cut at plus and minus 0.6");
  }

  // The reading of one pair

  const decimals = (v, n = 2) => d3.format(`.${n}f`)(Math.abs(v) < 0.5 * 10 ** -n ? 0 : v);
  const ordinal = n => d3.format(",")(n) + (n % 100 > 10 && n % 100 < 14 ? "th" : ["th", "st", "nd", "rd"][n % 10] || "th");
  const whole = d3.format(",");

  function reading() {
    const [i, j] = hovered || [state.edit, state.read], chosen = model(), at = state.layer;
    const there = pOf(chosen, at, i, j), back = pOf(chosen, at, j, i), cosine = cosineOf(chosen, at, i, j);
    const shown = state.show === "p" ? there : cosine;
    const rank = sorted.length - d3.bisectLeft(sorted, Math.fround(shown) + 1e-7) + 1;
    const box = root.select(".explorer-reading");
    for (const [end, k] of [["edit", i], ["read", j]]) {
      const line = box.select(`.explorer-fact.${end}`).html("");
      line.append("span").text(end === "edit" ? "Edit " : i === j ? "and read the same" : "and read ");
      if (end === "edit" || i !== j) {
        line.append("b").text(facts[k].subject);
        line.append("span").text(` (${facts[k].relation}: ${facts[k].object}${chosen.sinks.has(k) ? "; key at position 0" : ""})`);
      }
    }
    const put = (name, value, text) => box.select(`[data-of=${name}]`).text(text).attr("data-value", value);
    put("there", there, decimals(there));
    put("back", back, decimals(back));
    put("cosine", cosine, decimals(cosine));
    put("angle", null, `${Math.round((Math.acos(clamp(cosine, -1, 1)) * 180) / Math.PI)}°`);
    put("rank", null, i === j ? "itself" : `${ordinal(Math.max(1, rank))} of ${whole(sorted.length)}`);
    put("token", null, chosen.tokens[i] === chosen.tokens[j] ? "yes" : "no");
    depth(i, j);
    if (!hovered || byKey)
      say(`Layer ${chosen.layers[at]}. Edit ${facts[i].subject}, read ${facts[j].subject}: p ${decimals(there)}, back ${decimals(back)}.`);
  }

  function depth(i, j) {
    const chosen = model(), width = 300, height = 110, svg = root.select(".explorer-depth").html("");
    svg.attr("viewBox", `0 0 ${width} ${height}`);
    const there = chosen.layers.map((_, r) => pOf(chosen, r, i, j)), back = chosen.layers.map((_, r) => pOf(chosen, r, j, i));
    const top = clamp(Math.max(d3.max(there), d3.max(back), 0.2), 0.2, 3);
    const y = d3.scaleLinear([clamp(Math.min(d3.min(there), d3.min(back), 0), -3, 0), top], [height - 24, 6]).nice(3).clamp(true);
    const x = d3.scaleLinear([0, chosen.layers.length - 1], [34, width - 8]);
    svg.append("g").attr("transform", `translate(0,${height - 24})`).call(d3.axisBottom(x).ticks(5)
      .tickFormat(r => Number.isInteger(r) ? chosen.layers[r] : ""));
    svg.append("g").attr("transform", "translate(34,0)").call(d3.axisLeft(y).ticks(3));
    const line = d3.line((_, r) => x(r), v => y(v));
    svg.append("path").attr("d", line(back)).attr("fill", "none").attr("stroke", "currentColor").attr("stroke-dasharray", "3 3");
    svg.append("path").attr("d", line(there)).attr("fill", "none").attr("stroke", "currentColor").attr("stroke-width", 2);
    svg.append("circle").attr("cx", x(state.layer)).attr("cy", y(there[state.layer])).attr("r", 4).attr("fill", "currentColor");
    svg.attr("aria-label", `p of this pair by layer: from ${decimals(there[0])} at layer ${chosen.layers[0]} to ` +
      `${decimals(there.at(-1))} at layer ${chosen.layers.at(-1)}, largest ${decimals(d3.max(there))}.`);
  }

  // Lists of names

  function list(selector, entries, caption) {
    const table = root.select(selector);
    table.select("caption").text(caption);
    const lines = table.select("tbody").selectAll("tr").data(entries).join("tr").html("");
    lines.append("td").append("button").attr("type", "button").text(d => facts[d.i].subject)
      .attr("aria-label", d => `Show ${facts[d.i].subject} and ${facts[d.j].subject}`)
      .on("click", (_, d) => hold(d.i, d.j));
    lines.append("td").text(d => facts[d.j].subject);
    lines.append("td").attr("class", "number").text(d => decimals(d.there));
    lines.append("td").attr("class", "number").text(d => decimals(d.back));
  }

  function lists() {
    const chosen = model(), at = state.layer, inside = new Set(rows), found = [];
    for (let i = 0; i < m; i++) for (let j = i + 1; j < m; j++) {
      if (!inside.has(i) && !inside.has(j)) continue;
      const there = pOf(chosen, at, i, j), back = pOf(chosen, at, j, i);
      found.push(there >= back ? {i, j, there, back} : {i: j, j: i, there: back, back: there});
    }
    const best = state.show === "p" ? d => -d.there : d => -cosineOf(chosen, at, d.i, d.j);
    list(".explorer-strongest", d3.sort(found, best).slice(0, 8),
      `The strongest pairs at layer ${chosen.layers[at]}${inside.size < m ? ", of the facts that match" : ""}, by ${state.show === "p" ? "p" : "cosine"}`);
    const i = state.edit;
    const partners = d3.range(m).filter(j => j !== i).map(j => ({i, j, there: pOf(chosen, at, i, j), back: pOf(chosen, at, j, i)}));
    list(".explorer-partners", d3.sort(partners, d => -d.there).slice(0, 8), `What an edit of ${facts[i].subject} moves most`);
  }

  // Doing

  let byKey = false;
  function controls() {
    const chosen = model();
    d3.select("#explorer-model").property("value", state.model);
    d3.select("#explorer-layer").attr("max", chosen.layers.length - 1).property("value", state.layer)
      .attr("aria-valuetext", `layer ${chosen.layers[state.layer]}`);
    d3.select("#explorer-layer-said").text(`${chosen.layers[state.layer]} of ${chosen.layers.at(-1)}`);
    d3.select("#explorer-order").property("value", state.order);
    d3.select("#explorer-show").property("value", state.show);
    if (document.activeElement?.id !== "explorer-filter") d3.select("#explorer-filter").property("value", state.filter);
    root.select(".explorer-matches").text(state.filter.trim()
      ? `${rows.length} of ${m} facts match; they are the rows.` : `${m} facts, ${whole(m * (m - 1))} pairs.`);
  }
  function update() { arrange(); controls(); draw(); reading(); lists(); writeAddress(); }
  function hold(i, j) {
    hovered = null;
    Object.assign(state, {edit: i, read: j});
    draw(); reading(); lists(); writeAddress();
  }
  function under(event) {
    const box = node.getBoundingClientRect();
    const x = Math.floor((event.clientX - box.left - node.clientLeft) / cell.width);
    const y = Math.floor((event.clientY - box.top - node.clientTop) / cell.height);
    return rows[y] === undefined || columns[x] === undefined ? null : [rows[y], columns[x]];
  }

  canvas.on("pointermove", event => {
    const found = under(event);
    if (!found || (hovered && hovered[0] === found[0] && hovered[1] === found[1])) return;
    byKey = false;
    hovered = found;
    draw(); reading();
  }).on("pointerleave", () => { if (hovered) { hovered = null; draw(); reading(); } })
    .on("click", event => { const found = under(event); if (found) hold(...found); })
    .on("keydown", event => {
      const step = {ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0], PageUp: [-10, 0],
        PageDown: [10, 0], Home: [0, -m], End: [0, m]}[event.key];
      if (!step || event.ctrlKey || event.metaKey || event.altKey || !rows.length) return;
      event.preventDefault();
      byKey = true;
      const y = clamp(Math.max(0, rows.indexOf(state.edit)) + step[0], 0, rows.length - 1);
      const x = clamp(columns.indexOf(state.read) + step[1], 0, m - 1);
      hold(rows[y], columns[x]);
    });

  d3.select("#explorer-model").selectAll("option").data(data.models).join("option").attr("value", (_, k) => k)
    .text(d => d.title);
  const bind = (id, kind, change) => d3.select(id).on(kind, event => { change(event.target.value); update(); });
  bind("#explorer-model", "change", value => {
    const depth = state.layer / Math.max(1, model().layers.length - 1);
    state.model = Number(value);
    state.layer = Math.round(depth * (model().layers.length - 1));
  });
  bind("#explorer-layer", "input", value => { state.layer = Number(value); });
  bind("#explorer-order", "change", value => { state.order = value; });
  bind("#explorer-show", "change", value => { state.show = value; });
  bind("#explorer-filter", "input", value => { state.filter = value; });
  d3.selectAll("button[data-explorer]").on("click", event => {
    location.hash = event.currentTarget.dataset.explorer;
    node.scrollIntoView({block: "nearest"});
  });
  root.select("form").on("submit", event => event.preventDefault());
  window.addEventListener("hashchange", () => { readAddress(); update(); });
  new MutationObserver(() => { choosePalette(); legend(); draw(); })
    .observe(document.documentElement, {attributes: true, attributeFilter: ["data-theme"]});
  new ResizeObserver(() => draw()).observe(node.parentElement);

  readAddress();
  choosePalette();
  legend();
  root.select(".explorer-body").attr("hidden", null);
  update();
  root.attr("data-ready", "true");
})();
