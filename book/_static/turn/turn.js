// Three pictures to turn. The formulas come first, and are on window.turn.
(() => {
"use strict";

// Linear algebra, on arrays of columns

const dot = (a, b) => {
  let s = 0, t = 0, i = 0;
  for (; i < a.length - 1; i += 2) { s += a[i] * b[i]; t += a[i + 1] * b[i + 1]; }
  return i < a.length ? s + t + a[i] * b[i] : s + t;
};

function cholesky(A) {
  const n = A.length, L = A.map(() => new Float64Array(n));
  for (let i = 0; i < n; i++) for (let j = 0; j <= i; j++) {
    let sum = A[i][j];
    for (let k = 0; k < j; k++) sum -= L[i][k] * L[j][k];
    L[i][j] = i === j ? Math.sqrt(sum) : sum / L[j][j];
  }
  return L;
}

function forward(L, b) {
  const x = new Float64Array(b.length);
  for (let i = 0; i < x.length; i++) {
    let sum = b[i];
    for (let k = 0; k < i; k++) sum -= L[i][k] * x[k];
    x[i] = sum / L[i][i];
  }
  return x;
}

function backward(L, b) {
  const x = Float64Array.from(b);
  for (let i = x.length - 1; i >= 0; i--) {
    for (let k = i + 1; k < x.length; k++) x[i] -= L[k][i] * x[k];
    x[i] /= L[i][i];
  }
  return x;
}

const gram = columns => {
  const G = columns.map(() => new Float64Array(columns.length));
  columns.forEach((a, i) => { for (let j = 0; j <= i; j++) G[i][j] = G[j][i] = dot(a, columns[j]); });
  return G;
};
const rows = columns => Array.from(columns[0], (_, a) => Float64Array.from(columns, c => c[a]));

// Two keys: def-single-p, eq-superposition-angle

function overlap(k_i, k_j, C) {
  if (C) { const L = cholesky(C); k_i = forward(L, k_i); k_j = forward(L, k_j); }
  return dot(k_i, k_j) / dot(k_i, k_i);
}
const cosine = degrees => degrees === 90 ? 0 : Math.cos(degrees * Math.PI / 180);
const shares = (degrees, ratio) => [ratio * cosine(degrees), cosine(degrees) / ratio];

// The law: eq-toymemory-loop over the squared answer, eq-law-curve, and both turned round

const RATE = {anchored: () => 0, beforehand: (c, q) => -q, moving: (c, q) => c * c * q};
function drift(arm, n, c, q) {
  const rate = RATE[arm](c, q);
  return Math.sqrt(c * c * q * (rate ? Math.expm1(n * Math.log1p(rate)) / rate : n));
}
const lost = (R, R_0, b) => 1 / (1 + (R_0 / R) ** b);
function lifetime(arm, share, c, q, R_0, b) {
  const rate = RATE[arm](c, q), n = (R_0 * (share / (1 - share)) ** (1 / b)) ** 2 / (c * c * q), inside = n * rate;
  if (!rate) return n;
  return inside <= -1 ? Infinity : Math.log1p(inside) / Math.log1p(rate);
}

// The memory: eq-memory-noise, eq-memory-share, eq-capacity-gaussian

const noise = (N, d) => (N - 1) / d;
const missing = (N, d) => Math.max(0, 1 - d / N);
const spread = (N, d) => N > d ? Math.sqrt((N - d) / ((d - 2) * (N - 1))) : 0;

const VALUE = 16;
function numbers(seed) {
  const uniform = () => {
    seed = (seed + 0x6D2B79F5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
  return () => Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform());
}
function draw(seed, N, d) {
  const K = [], V = [];
  for (let j = 0; j < N; j++) {
    const normal = numbers(Math.imul(seed, 0x9E3779B1) ^ Math.imul(j + 1, 0x85EBCA6B));
    V.push(new Float64Array(VALUE).map(normal));
    K.push(new Float64Array(d).map(normal));
  }
  return {K, V};
}
function memory(seed, N, d) {
  const {K, V} = draw(seed, N, d), R = rows(K), p = new Float64Array(N * (N - 1)), G = gram(N > d ? R : K), L = cholesky(G);
  const size = V.reduce((sum, v) => sum + dot(v, v), 0), unit = new Float64Array(K.map(k => Math.sqrt(dot(k, k))));
  const solve = b => backward(L, forward(L, b)), times = (A, x) => new Float64Array(A.map(a => dot(a, x)));
  const error = recall => rows(V).reduce((sum, v) => sum + recall(v).reduce((s, x, j) => s + (v[j] - x) ** 2, 0), 0) / size;
  const outer = error(v => times(K, times(R, v.map((x, j) => x / unit[j]))).map((x, j) => x / unit[j]));
  const fitted = error(v => times(K, N > d ? solve(times(R, v)) : times(R, solve(v))));
  if (N > d) { // up to there every leverage is 1, and every p is 0
    const H = gram(K.map(k => forward(L, k)));
    for (let i = 0, n = 0; i < N; i++) for (let j = 0; j < N; j++) if (i !== j) p[n++] = H[i][j] / H[i][i];
  }
  return {outer, fitted, p};
}

window.turn = {overlap, shares, drift, lost, lifetime, noise, missing, spread, draw, memory};

// Words

const fixed = (x, n = 2) => {
  const said = Math.abs(x).toFixed(n);
  return (x < 0 && Number(said) ? "−" : "") + said;
};
const short = x => x < 0.1 ? x.toPrecision(2) : x < 1e4 ? fixed(x) : "more than 10,000";
const percent = x => x < 0.01 && x > 0 ? "under 1 %" : x > 0.99 && x < 1 ? "over 99 %" : `${Math.round(100 * x)} %`;
const edits = n => n === Infinity ? "never" : n > 1e5 ? "not within 100,000 edits" : n <= 1 ? "after one edit" : `after ${Math.ceil(n).toLocaleString("en")} edits`;

// Pieces of a page

const tag = (name, attributes, ...inside) => {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...inside);
  return made;
};
let ids = 0;

function slider({form}, name, [min, max, value, step = 1], tell) {
  const id = `turn-${++ids}`, output = tag("output", {for: id});
  const input = tag("input", {id, type: "range", min, max, step, value});
  const label = tag("label", {for: id});
  label.innerHTML = name;
  form.append(tag("div", {class: "turn-slider"}, label, input, output));
  const show = () => {
    const said = tell(Number(input.value));
    output.textContent = said;
    input.setAttribute("aria-valuetext", said);
  };
  input.addEventListener("input", show);
  show();
  return {get value() { return Number(input.value); }, set value(x) { input.value = x; show(); }};
}

function button({buttons}, name, act) {
  const made = tag("button", {type: "button"}, name);
  made.addEventListener("click", act);
  buttons.append(made);
}

// A drawing is drawn anew, in real pixels, whenever its width or what it shows changes.
function picture(body, paint) {
  const box = tag("div", {});
  box.innerHTML = `<svg role="img"><g></g></svg>`;
  body.append(box);
  const svg = box.firstChild, layer = svg.firstChild;
  const made = {svg, width: 0, redraw() {
    made.width = Math.floor(box.clientWidth);
    if (!made.width) return;
    const {height, inside, label} = paint(made.width);
    svg.setAttribute("viewBox", `0 0 ${made.width} ${height}`);
    svg.setAttribute("height", height);
    svg.setAttribute("aria-label", label);
    layer.innerHTML = inside;
  }};
  new ResizeObserver(() => { if (Math.floor(box.clientWidth) !== made.width) made.redraw(); }).observe(box);
  return made;
}

const r1 = x => Math.round(10 * x) / 10;
const line = (x1, y1, x2, y2, kind) => `<line x1="${r1(x1)}" y1="${r1(y1)}" x2="${r1(x2)}" y2="${r1(y2)}" class="${kind}"/>`;
const text = (x, y, said, kind = "", anchor = "middle") =>
  `<text x="${r1(x)}" y="${r1(y)}" class="${kind}" text-anchor="${anchor}">${said}</text>`;
const path = (points, kind) => `<path d="M${points.map(([x, y]) => `${r1(x)} ${r1(y)}`).join("L")}" class="${kind}"/>`;
const spot = (x, y, r, kind) => `<circle cx="${r1(x)}" cy="${r1(y)}" r="${r}" class="${kind}"/>`;
const it = said => `<tspan font-style="italic">${said}</tspan>`;
const sub = index => `<tspan dy="3" font-size="80%">${index}</tspan>`;
const key = i => `k̃${sub(i)}`;
const p = (i, j) => `${it("p")}(${it("k")}${sub(i)}<tspan dy="-3">, </tspan>${it("k")}${sub(j)}<tspan dy="-3">)</tspan>`;

function arrow(x0, y0, x1, y1, kind) {
  const length = Math.hypot(x1 - x0, y1 - y0), ux = (x1 - x0) / length, uy = (y1 - y0) / length, head = Math.min(12, length / 2);
  const bx = x1 - head * ux, by = y1 - head * uy, half = head * 0.42;
  return line(x0, y0, bx, by, `arrow ${kind}`) + `<path class="head ${kind}" d="M${r1(x1)} ${r1(y1)}L${r1(bx - half * uy)} ` +
    `${r1(by + half * ux)}L${r1(bx + half * uy)} ${r1(by - half * ux)}Z"/>`;
}

function frame(left, right, floor, x, y, xTicks, yTicks, xName, tellY, tellX = String) {
  let out = line(left, floor, right, floor, "rule") + text((left + right) / 2, floor + 38, xName, "quiet");
  for (const v of yTicks) out += line(left, y(v), right, y(v), "faint") + text(left - 7, y(v) + 4, tellY(v), "tick", "end");
  for (const v of xTicks) out += line(x(v), floor, x(v), floor + 4, "rule") + text(x(v), floor + 18, tellX(v), "tick");
  return out;
}

// Two keys

const LONGEST = 2.25;
function keys(parts, given) {
  const steps = 40, ratioOf = i => LONGEST ** (i / steps);
  const placeOf = r => Math.round(steps * Math.log(r) / Math.log(LONGEST));
  const angle = slider(parts, "Angle between the keys", [0, 180, given("angle", 60)], v => `${v}°`);
  const ratio = slider(parts, "Length of <i>k̃</i><sub>2</sub>, in lengths of <i>k̃</i><sub>1</sub>",
    [-steps, steps, placeOf(given("ratio", 1.5))], i => fixed(ratioOf(i)));
  const now = () => {
    const degrees = angle.value, r = ratioOf(ratio.value);
    return [degrees, r, ...shares(degrees, r)];
  };
  let unit = 1, origin = [0, 0];

  const plane = picture(parts.body, width => {
    unit = (width - 32) / (2 * LONGEST);
    const height = Math.round(unit * (LONGEST + 0.5) + 56), [ox, oy] = origin = [width / 2, unit * LONGEST + 26];
    const [degrees, r, there, back] = now(), turned = degrees * Math.PI / 180, wide = degrees > 90;
    const ux = Math.cos(turned), uy = Math.sin(turned);
    const at = (x, y) => [ox + unit * x, oy - unit * y], tip1 = at(1, 0), tip2 = at(r * ux, r * uy);
    const foot2 = at(there, 0), foot1 = at(back * r * ux, back * r * uy), far = LONGEST + 0.1;
    let out = line(...at(-far, 0), ...at(far, 0), "faint") + line(...at(-0.55 * ux, -0.55 * uy), ...at(far * ux, far * uy), "faint");
    out += line(ox, oy, ...foot2, "cast one") + line(ox, oy, ...foot1, "cast two");
    out += line(...tip2, ...foot2, "light") + line(...tip1, ...foot1, "light");
    if (degrees > 4) {
      const arc = 30, half = turned / 2;
      out += `<path d="M${ox + arc} ${oy}A${arc} ${arc} 0 0 0 ${r1(ox + arc * ux)} ${r1(oy - arc * uy)}" class="arc"/>`;
      if (degrees > 24) out += text(ox + 46 * Math.cos(half), oy - 46 * Math.sin(half) + 4, `${degrees}°`, "tick halo");
    }
    out += arrow(ox, oy, ...tip1, "one") + arrow(ox, oy, ...tip2, "two");
    out += text(tip1[0] + 4, tip1[1] + (wide ? -12 : 26), key(1), "letter one");
    out += text(Math.max(14, tip2[0] + 16 * ux - (degrees > 165 || degrees < 12 ? 0 : 12 * uy)), tip2[1] - 14 - 4 * uy, key(2), "letter two");
    if (Math.abs(there) * unit > 24) out += text(wide ? ox - 4 : (ox + foot2[0]) / 2, oy + (wide ? 22 : 46), `shadow ${p(1, 2)}`, "note one", wide ? "end" : "middle");
    const mid = [(ox + foot1[0]) / 2, (oy + foot1[1]) / 2];
    if (Math.abs(back * r) * unit > 24) out += wide
      ? text(mid[0] - 12 * uy, oy + 50, `shadow ${p(2, 1)}`, "note two", "start")
      : text(Math.max(mid[0] - 12 * uy - 4, 100), mid[1] - 12 * ux - 2, `shadow ${p(2, 1)}`, "note two", "end");
    handle.setAttribute("cx", r1(tip2[0]));
    handle.setAttribute("cy", r1(tip2[1]));
    return {height, inside: out, label: `Arrows of two keys, ${degrees}° apart, of lengths 1 and ${fixed(r)}. ` +
      `Shadow of key 2 on key 1: ${fixed(there)}; of key 1 on key 2: ${fixed(back)}.`};
  });
  plane.svg.insertAdjacentHTML("beforeend", `<circle class="handle" r="20"/>`);
  const handle = plane.svg.lastChild;

  const effects = picture(parts.body, width => {
    const [degrees, r, there, back] = now();
    const left = 62, middle = (left + width) / 2, scale = (width - left - 120) / (2 * LONGEST);
    const x = v => middle + v * scale;
    const bar = (y, name, share, kind, own) => {
      const [a, b] = share < 0 ? [x(share), x(0)] : [x(0), x(share)];
      return text(left - 8, y + 14, name, "tick", "end") + `<rect x="${r1(a)}" y="${y}" width="${r1(b - a)}" height="20" class="bar ${kind} ${own}"/>` +
        text(share < 0 ? a - 6 : b + 6, y + 15, `${fixed(share)} ${it("δ")}`, "value", share < 0 ? "end" : "start");
    };
    let out = "";
    [[1, 2, there, `${fixed(r)} × cos ${degrees}°`], [2, 1, back, `cos ${degrees}° / ${fixed(r)}`]].forEach(([i, j, share, how], row) => {
      const y = 16 + 122 * row, kind = i === 1 ? "one" : "two";
      out += text(0, y, `Edit fact ${i} by ${it("δ")}`, `heading ${kind}`, "start");
      out += text(0, y + 20, `${p(i, j)} = ${how} = ${fixed(share)}`, "note", "start");
      out += bar(y + 32, `fact ${i}`, 1, kind, "own") + bar(y + 58, `fact ${j}`, share, kind, "");
      out += line(x(0), y + 28, x(0), y + 82, "rule");
    });
    return {height: 230, inside: out, label: `Bars. Edit fact 1: fact 2 moves by ${fixed(there)} δ. Edit fact 2: fact 1 moves by ${fixed(back)} δ.`};
  });

  function show() {
    const [degrees, r, there, back] = now();
    plane.redraw(); effects.redraw();
    const other = r > 1 ? 1 : 2;
    parts.say(`The whitened keys are ${degrees}° apart, and ${r === 1 ? "equally long" : `<i>k̃</i><sub>2</sub> is ${fixed(r)} times as long as <i>k̃</i><sub>1</sub>`}. ` + (there === 0
      ? "They are orthogonal, so both overlaps are 0: an edit of either fact leaves the other as it was."
      : `An edit of fact 1 adds ${fixed(there)} of its residual to the answer of fact 2; an edit of fact 2 adds ${fixed(back)} of its own to the answer of fact 1. ` +
        (r === 1 ? "Equal lengths, so <i>p</i> is the same both ways." : `The shorter whitened key, <i>k̃</i><sub>${other}</sub>, belongs to the fact whose edit does more to the other.`)));
  }
  handle.addEventListener("pointerdown", event => {
    event.preventDefault();
    handle.setPointerCapture(event.pointerId);
    handle.classList.add("held");
  });
  handle.addEventListener("pointermove", event => {
    if (!handle.hasPointerCapture(event.pointerId)) return;
    const box = plane.svg.getBoundingClientRect();
    const x = event.clientX - box.left - origin[0], y = origin[1] - (event.clientY - box.top);
    angle.value = y < 0 ? (x < 0 ? 180 : 0) : Math.round(Math.atan2(y, x) * 180 / Math.PI);
    ratio.value = placeOf(Math.max(0.1, Math.hypot(x, y) / unit));
    show();
  });
  handle.addEventListener("lostpointercapture", () => handle.classList.remove("held"));

  button(parts, "Right angle", () => { angle.value = 90; show(); });
  button(parts, "Equally long", () => { ratio.value = 0; show(); });
  button(parts, "Swap the lengths", () => { ratio.value = -ratio.value; show(); });
  return show;
}

// The law

const ARMS = {
  anchored: ["anchored", "anew, anchored", "<i>R</i>² = <i>n c</i>²<i>q</i>"],
  beforehand: ["beforehand", "beforehand", "<i>R</i>² = <i>c</i>² (1 − (1 − <i>q</i>)<sup><i>n</i></sup>)"],
  moving: ["moving ball", "anew, in a moving ball", "<i>R</i>² = (1 + <i>c</i>²<i>q</i>)<sup><i>n</i></sup> − 1"],
};
const MOST = 1000, LOOKS = [0.1, 0.25, 0.5];
function law(parts, given) {
  const b = given("b", 1.5), tenfold = i => 10 ** (i / 40), overlapAt = i => Number(short(0.0005 * tenfold(i)));
  const count = slider(parts, "Edits, <i>n</i>", [0, 120, Math.round(40 * Math.log10(given("n", 30)))], i => Math.round(tenfold(i)).toLocaleString("en"));
  const size = slider(parts, "Size of an edit, <i>c</i>", [0.5, 4, given("c", 2.4), 0.1], v => fixed(v, 1));
  const mean = slider(parts, "Mean squared overlap, <i>q</i>", [0, 100, Math.round(40 * Math.log10(given("q", 0.004) / 0.0005))], i => short(overlapAt(i)));
  const half = slider(parts, "Drift at which half is lost, <i>R</i><sub>0</sub>", [0.2, 5, given("r0", 2), 0.1], v => fixed(v, 1));
  const group = tag("fieldset", {class: "turn-choice"}, tag("legend", {}, "Targets found")), name = `turn-${++ids}`;
  for (const [value, [, long]] of Object.entries(ARMS)) {
    const input = tag("input", {type: "radio", name, value});
    input.checked = value === "anchored";
    group.append(tag("label", {}, input, ` ${long}`));
  }
  parts.form.append(group);
  const now = () => ({arm: group.querySelector(":checked").value, n: Math.round(tenfold(count.value)), c: size.value, q: overlapAt(mean.value), R_0: half.value});

  const curve = picture(parts.body, width => {
    const {arm, n, c, q, R_0} = now(), height = 300, left = 46, right = width - 90, top = 30, floor = 258;
    const x = v => left + (right - left) * Math.log10(v) / Math.log10(MOST);
    const y = v => floor - (floor - top) * v;
    const share = (which, v) => lost(drift(which, v, c, q), R_0, b);
    let out = frame(left, right, floor, x, y, [1, 10, 100, 1000], [0, 0.1, 0.25, 0.5, 0.75, 1], `edits ${it("n")}`,
      v => `${100 * v} %`, v => v.toLocaleString("en"));
    out += text(0, 11, "share lost", "quiet", "start");
    const ends = [];
    for (const which of [...Object.keys(ARMS).filter(a => a !== arm), arm]) {
      const points = Array.from({length: 121}, (_, i) => [x(tenfold(i)), y(share(which, tenfold(i)))]);
      out += path(points, `curve ${which}${which === arm ? " chosen" : ""}`);
      ends.push({which, y: points.at(-1)[1]});
    }
    ends.sort((one, other) => one.y - other.y);
    ends.forEach((end, i) => { end.y = i ? Math.max(end.y, ends[i - 1].y + 17) : end.y; });
    for (let i = 2; i >= 0; i--) ends[i].y = Math.min(ends[i].y, floor - 17 * (2 - i));
    for (const end of ends) out += text(right + 11, end.y + 4, ARMS[end.which][0], `line-name ${end.which}${end.which === arm ? " chosen" : ""}`, "start");
    for (const look of LOOKS) {
      const at = lifetime(arm, look, c, q, R_0, b);
      if (at >= 1 && at <= MOST) out += line(x(at), y(look), x(at), floor, `drop ${arm}`) + spot(x(at), y(look), 4, `hollow ${arm}`);
    }
    const px = x(n), py = y(share(arm, n));
    out += spot(px, py, 7, `spot ${arm}`);
    out += text(px + (n > 3 ? -12 : 12), py - 8, percent(share(arm, n)), `value halo ${arm}`, n > 3 ? "end" : "start");
    return {height, inside: out, label: `Share lost after 1 to 1,000 edits. Targets ${ARMS[arm][1]}: ` +
      `${percent(share(arm, n))} after ${n}, ${percent(share(arm, MOST))} after 1,000.`};
  });
  const formula = tag("p", {class: "turn-formula"});
  parts.body.append(formula);

  function show() {
    const {arm, n, c, q, R_0} = now(), R = drift(arm, n, c, q);
    curve.redraw();
    formula.innerHTML = `${ARMS[arm][2]}, with <i>c</i>²<i>q</i> = ${short(c * c * q)}; share lost = <i>R<sup>b</sup></i> / (<i>R</i><sub>0</sub><sup><i>b</i></sup> + <i>R<sup>b</sup></i>), with <i>b</i> = ${b}.`;
    const [tenth, quarter, middle] = LOOKS.map(a => edits(lifetime(arm, a, c, q, R_0, b)));
    parts.say(`After ${n.toLocaleString("en")} edit${n > 1 ? "s" : ""}, with targets found ${ARMS[arm][1]}, an answer has moved by ${short(R)} times its own length, and ` +
      `${percent(lost(R, R_0, b))} of the facts are lost. ` + (tenth === "never" ? "Not even a tenth is ever lost."
      : `A tenth is lost ${tenth}, a quarter ${quarter}, half ${middle}.`));
  }
  return show;
}

// A memory that fills up

const FULL = 256;
function fill(parts, given) {
  const wide = slider(parts, "Width of the memory, <i>d</i><sub>m</sub>", [16, 128, given("d", 64), 16], String);
  const stored = slider(parts, "Facts stored, <i>N</i>", [2, FULL, given("n", 96)], String);
  let seed = given("seed", 1), trail = new Map(), of = "", found, moving;

  const recall = picture(parts.body, width => {
    const N = stored.value, d = wide.value, height = 290, left = 38, right = width - 14, top = 24, floor = 248, most = 1.5;
    const x = v => left + (right - left) * v / FULL;
    const y = v => floor - (floor - top) * Math.min(v, most) / most;
    let out = frame(left, right, floor, x, y, [0, 128, 256].filter(v => Math.abs(v - d) > 20 || !v).concat(d), [0, 0.5, 1, 1.5], `facts stored ${it("N")}`, String,
      v => v === d ? `${it("d")}${sub("m")}` : v);
    out += text(0, 11, "error of recall", "quiet", "start");
    out += line(x(d), top, x(d), floor, "dotted");
    const last = Math.min(FULL, most * d + 1);
    out += path([[x(1), y(0)], [x(last), y(noise(last, d))]], "curve two chosen");
    const best = [];
    for (let v = 1; v <= FULL; v++) best.push([x(v), y(missing(v, d))]);
    out += path(best, "curve one chosen");
    const beside = x(Math.min(last, 1.35 * d)) + 10, fits = beside + 138 < right;
    const outer = `outer products${found.outer > most ? ` ${fixed(found.outer, 1)}` : ""}`;
    out += text(fits ? beside : beside - 22, y(1.35) + 4, outer, "line-name two halo", fits ? "start" : "end");
    out += text(right, y(missing(FULL, d)) - 10, "least squares", "line-name one halo", "end");
    for (const [n, [outer, fitted]] of trail) out += (outer <= most ? spot(x(n), y(outer), 2.5, "trail two") : "") + spot(x(n), y(fitted), 2.5, "trail one");
    out += found.outer <= most ? spot(x(N), y(found.outer), 6, "spot two") : `<path class="head two" d="M${r1(x(N))} ${top - 4}l6 10h-12Z"/>`;
    out += spot(x(N), y(found.fitted), 6, "spot one");
    return {height, inside: out, label: `Error of recall by number of facts. At ${N} facts: ` +
      `outer products ${fixed(found.outer)}, least squares ${fixed(found.fitted)}.`};
  });

  const cast = () => Math.sqrt(dot(found.p, found.p) / found.p.length);
  const bins = picture(parts.body, width => {
    const N = stored.value, d = wide.value, height = 290, left = 8, right = width - 8, top = 62, floor = 248, each = 0.04;
    const x = v => left + (right - left) * (v + 0.82) / 1.64, sd = spread(N, d), counts = new Float64Array(41);
    for (const v of found.p) if (Math.abs(v) < 0.82) counts[Math.round((v + 0.8) / each)] += 1 / found.p.length;
    const normal = v => sd ? each / (sd * Math.sqrt(2 * Math.PI)) * Math.exp(-0.5 * (v / sd) ** 2) : 0;
    const most = Math.max(...counts, normal(0)), y = v => floor - (floor - top) * v / most;
    let out = "";
    counts.forEach((share, i) => {
      const a = x((i - 0.5) * each - 0.8) + 0.5, b = x((i + 0.5) * each - 0.8) - 0.5;
      if (share) out += `<rect x="${r1(a)}" y="${r1(y(share))}" width="${r1(b - a)}" height="${r1(floor - y(share))}" class="bar one own"/>`;
    });
    out += frame(left, right, floor, x, y, [-0.8, -0.4, 0, 0.4, 0.8], [], `overlap ${p("i", "j")} of two stored facts`, String, v => fixed(v, v ? 1 : 0));
    if (sd) out += path(Array.from({length: 161}, (_, i) => [x(i / 100 - 0.8), y(normal(i / 100 - 0.8))]), "curve normal");
    out += text(0, 11, `r.m.s. of ${p("i", "j")}`, "quiet", "start");
    out += `<rect x="0" y="22" width="12" height="10" class="bar one own"/>` + text(18, 31, `measured ${fixed(cast(), 3)}`, "note", "start");
    out += line(0, 45, 12, 45, "curve normal") + text(18, 49, `expected ${fixed(sd, 3)}${sd ? ", as a normal curve" : ""}`, "note", "start");
    return {height, inside: out, label: `Histogram of overlaps: root mean square ${fixed(cast(), 3)}` +
      `${sd ? ", beside a normal curve of the expected spread" : ", all are 0"}.`};
  });

  function show(still = true) {
    const N = stored.value, d = wide.value;
    if (still) cancelAnimationFrame(moving);
    if (of !== `${seed} ${d}`) trail = new Map();
    of = `${seed} ${d}`;
    found = memory(seed, N, d);
    trail.set(N, [found.outer, found.fitted]);
    recall.redraw(); bins.redraw();
    if (still) parts.say(`${N} random facts in a memory of ${d} dimensions. The squared error of outer products is ${fixed(found.outer)} times the squared values (expected ${fixed(noise(N, d))}); ` +
      `that of the least-squares memory ${fixed(found.fitted)} times (expected ${fixed(missing(N, d))}). ` + (N <= d
      ? "There is room for all, and no two stored facts overlap: each can be edited alone."
      : `There are more facts than dimensions, so an edit of one moves the others: by ${fixed(cast(), 3)} of its residual in the root mean square (expected ${fixed(spread(N, d), 3)}).`));
  }
  button(parts, "Add 16 facts", () => {
    const goal = Math.min(FULL, stored.value + 16);
    const step = () => {
      stored.value = matchMedia("(prefers-reduced-motion: reduce)").matches ? goal : Math.min(goal, stored.value + 1);
      show(stored.value === goal);
      if (stored.value < goal) moving = requestAnimationFrame(step);
    };
    step();
  });
  button(parts, "Draw other facts", () => { seed += 1; show(); });
  return show;
}

// Mounting

const KINDS = {keys: [keys, "Two keys"], law: [law, "The law of loss"], memory: [fill, "A memory"]};
function mount(root) {
  const [make, name] = KINDS[root.dataset.turn] || [];
  if (!make || root.hasAttribute("data-ready")) return;
  const words = tag("div", {class: "turn-words"}, ...root.childNodes);
  const said = tag("p", {class: "turn-said", role: "status", "aria-live": "polite"});
  const [form, buttons, body] = ["controls", "buttons", "body"].map(kind => tag("div", {class: `turn-${kind}`}));
  const parts = {form, buttons, body, say: text => { said.innerHTML = text; }};
  root.setAttribute("role", "group");
  root.setAttribute("aria-label", name);
  root.append(words, form, buttons, body, said);
  const show = make(parts, (key, otherwise) => Number(root.dataset[key] ?? otherwise));
  form.addEventListener("input", () => show());
  show();
  if (!buttons.firstChild) buttons.remove();
  root.setAttribute("data-ready", "");
}
const mountAll = () => document.querySelectorAll(".turn[data-turn]").forEach(mount);
if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", mountAll);
else mountAll();
})();
