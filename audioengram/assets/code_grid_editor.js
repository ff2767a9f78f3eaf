// The editor of a code grid: two canvases (original, edited), a toolbar, two players. All state that matters lives in Python.
const CELL = { w: 16, h: 22 }, AXIS = 16;
const HOVER_MS = 150;                                         // a pointer that rests this long on a cell wants to hear it
const hue = (code, size) => code < 0 ? "#ffffff" : `hsl(${Math.round(360 * code / size)} 62% ${62 - 22 * (code % 3) / 2}%)`;

function node(tag, attributes = {}, ...children) {
  const made = Object.assign(document.createElement(tag), attributes);
  for (const child of children) made.append(child);
  return made;
}

function render({ model, el }) {
  const [T, F, Q] = model.get("shape"), size = model.get("size");
  let level = 0, from = null, region = null, mark = null, played = null, painted = null, rest = null, rested = "";
  const canvas = (label) => node("canvas", { width: T * CELL.w, height: F * CELL.h, className: `ae-grid ae-${label}`, tabIndex: 0, ariaLabel: `${label} code grid` });
  const before = canvas("original"), now = canvas("edited"), original = model.get("original_codes");
  const under = node("canvas", { width: T * CELL.w, height: 96 + AXIS, className: "ae-picture", ariaLabel: "spectrogram of the edited sound" });
  const head = node("div", { className: "ae-head", hidden: true });
  const status = node("output", { className: "ae-status" }), where = node("span", { className: "ae-where" });
  const field = (name, options) => node("input", { className: `ae-${name}`, title: name, ...options });
  const code = field("code", { type: "number", min: -1, max: size - 1, value: 0 }), ratio = field("ratio", { type: "range", min: 0, max: 1, step: .05, value: .5 });
  const tick = (name, title, act = () => {}) => node("input", { type: "checkbox", className: `ae-${name}`, title, onchange: () => { act(); now.focus(); } });
  const brush = tick("brush", "drag writes the code, at this level"), hover = tick("hover", "hear the code under the pointer"), loop = tick("loop", "play the selection over and over");
  const lanes = tick("lanes", "show every level as a lane of its own; a click chooses the level, too", () => { cells.clear(); show(); });
  const levels = node("select", { className: "ae-level", title: "level" }, ...[...Array(Q).keys()].map((q) => node("option", { value: q, textContent: `level ${q + 1}` })));
  const players = Object.fromEntries(["original", "edited", "preview"].map((name) => [name, node("audio", { className: `ae-audio-${name}`, controls: name !== "preview", preload: "auto" })]));

  // ---- drawing: cells are painted once for each change of the codes, a selection costs one copy of that picture
  const cells = new Map();
  function paintCells(codes) {
    const made = node("canvas", { width: before.width, height: before.height }), g = made.getContext("2d"), shown = lanes.checked ? [...Array(Q).keys()] : [level];
    g.fillStyle = "#d8d8d8"; g.fillRect(0, 0, made.width, made.height);
    const high = (CELL.h - 1) / shown.length;
    for (let t = 0; t < T; t++) for (let f = 0; f < F; f++) shown.forEach((q, lane) => {
      const c = codes[(t * F + f) * Q + q], x = t * CELL.w + 1, y = (F - 1 - f) * CELL.h + 1 + lane * high;
      g.fillStyle = hue(c, size); g.fillRect(x, y, CELL.w - 1, Math.max(1, high - (shown.length > 1)));
      if (c < 0) { g.strokeStyle = "#999"; g.beginPath(); g.moveTo(x + 3, y + high - 2); g.lineTo(x + CELL.w - 5, y + 2); g.stroke(); }
    });
    return made;
  }
  function draw(target, codes) {
    const known = cells.get(target), g = target.getContext("2d");
    if (!known || known.codes !== codes || known.level !== level) cells.set(target, { codes, level, image: paintCells(codes) });
    g.drawImage(cells.get(target).image, 0, 0);
    for (const [box, colour] of [[mark, "#D55E00"], [region, "#000000"]]) if (box) {
      g.strokeStyle = colour; g.lineWidth = 2;
      g.strokeRect(box.time[0] * CELL.w, (F - box.frequency[1]) * CELL.h, (box.time[1] - box.time[0]) * CELL.w, (box.frequency[1] - box.frequency[0]) * CELL.h);
    }
    if (painted && target === now) {
      g.fillStyle = hue(Number(code.value), size);
      for (const at of painted.values()) g.fillRect(at[0] * CELL.w + 1, (F - 1 - at[1]) * CELL.h + 1, CELL.w - 1, CELL.h - 1);
    }
  }
  function drawPicture() {                                    // loud is dark; time in seconds below, frequency at the edges
    const bytes = model.get("picture"), [M, frames] = model.get("picture_shape"), g = under.getContext("2d"), high = under.height - AXIS;
    g.fillStyle = "#fff"; g.fillRect(0, 0, under.width, under.height);
    if (!frames || bytes.byteLength < M * frames) return;
    const image = new ImageData(frames, M), value = new Uint8Array(bytes.buffer ?? bytes, bytes.byteOffset ?? 0);
    for (let m = 0; m < M; m++) for (let i = 0; i < frames; i++) {
      const at = 4 * ((M - 1 - m) * frames + i), v = 255 - value[m * frames + i];
      image.data[at] = image.data[at + 1] = v; image.data[at + 2] = Math.min(255, v + 40); image.data[at + 3] = 255;
    }
    const small = node("canvas", { width: frames, height: M });
    small.getContext("2d").putImageData(image, 0, 0);
    g.drawImage(small, 0, 0, under.width, high);
    g.fillStyle = "#333"; g.font = "11px sans-serif";
    const names = model.get("band_names"), heard = names.filter((n) => !n.startsWith("side"));
    heard.forEach((n, f) => { const y = high * (1 - f / heard.length); g.fillRect(0, y - 1, 6, 1); g.fillText(n.replace("mid ", ""), 8, y - 3); });
    const step = model.get("step"), every = step * T > 6 ? 1 : step * T > 2 ? .5 : .1;
    for (let s = 0; s < step * T; s += every) { const x = s / step * CELL.w; g.fillRect(x, high, 1, 4); g.fillText(`${Number(s.toFixed(1))} s`, x + 3, high + 13); }
  }
  function movePlayhead() {
    const p = players[played];
    head.hidden = !p || p.paused;
    if (head.hidden) return;
    const step = model.get("step"), [a, b] = region ? region.time.map((t) => t * step) : [0, T * step];
    if (loop.checked && (p.currentTime >= b || p.currentTime < a - .1)) p.currentTime = a;
    head.style.left = `${p.currentTime / step * CELL.w}px`;
    requestAnimationFrame(movePlayhead);
  }
  function show() {
    draw(before, original); draw(now, model.get("codes"));
    undo.disabled = !model.get("can_undo"); redo.disabled = !model.get("can_redo"); status.value = model.get("status");
    where.textContent = region ? `columns ${region.time[0]}–${region.time[1] - 1}, bands ${region.frequency[0]}–${region.frequency[1] - 1}` : "nothing selected";
    const names = model.get("band_names"), step = model.get("step");
    where.title = region ? `${(region.time[0] * step).toFixed(2)}–${(region.time[1] * step).toFixed(2)} s, ${names.slice(...region.frequency).join(", ")}` : "";
  }
  function sound(name) {
    const bytes = model.get(`${name}_wav`);
    if (!bytes.byteLength) return;
    if (players[name].src) URL.revokeObjectURL(players[name].src);
    players[name].src = URL.createObjectURL(new Blob([bytes], { type: "audio/wav" }));
    if (name === "preview") players.preview.play().catch(() => {});
  }

  // ---- talking to Python
  const send = (what, more = {}) => model.send({ do: what, region, mark, level, ...more });
  const button = (name, title, act) => node("button", { className: `ae-${name}`, title, textContent: name, onclick: () => { act(); now.focus(); } });
  const needs = (act) => () => region ? act() : (status.value = "Select a cell first: click, or drag a rectangle.");
  const undo = button("undo", "Ctrl+Z", () => send("undo")), redo = button("redo", "Ctrl+Y", () => send("redo"));
  function play(name) {                                       // A and B from the same moment
    const other = played && played !== name ? players[played].currentTime : 0;
    for (const p of Object.values(players)) p.pause();
    players[name].currentTime = played && played !== name ? other : loop.checked && region ? region.time[0] * model.get("step") : 0; played = name;
    players[name].play().then(movePlayhead).catch(() => {});
  }
  function download(name, parts, type) {
    const link = node("a", { href: URL.createObjectURL(new Blob(parts, { type })), download: name });
    link.click(); URL.revokeObjectURL(link.href);
  }
  function move(dt, df, wider) {                              // arrows: the selection goes on, or grows with Shift
    const [t0, t1] = region ? region.time : [0, 1], [f0, f1] = region ? region.frequency : [0, 1];
    const clip = (x, n) => Math.max(0, Math.min(n, x));
    if (!region) region = { time: [0, 1], frequency: [0, 1] };
    else if (wider) region = { time: [t0, Math.max(t0 + 1, clip(t1 + dt, T))], frequency: [f0, Math.max(f0 + 1, clip(f1 + df, F))] };
    else if (t0 + dt >= 0 && t1 + dt <= T && f0 + df >= 0 && f1 + df <= F) region = { time: [t0 + dt, t1 + dt], frequency: [f0 + df, f1 + df] };
    show();
  }
  const labelled = (box) => node("label", { title: box.title }, box, box.className.slice(3));
  const tools = node("div", { className: "ae-tools" }, levels, labelled(lanes), code, labelled(brush), labelled(hover), labelled(loop),
    button("set", "write the code into the selection, at this level", needs(() => send("set", { code: Number(code.value) }))),
    button("mute", "make this level absent there (Delete)", needs(() => send("mute"))),
    button("mark", "remember this rectangle for swap and blend", needs(() => { mark = region; show(); })),
    button("swap", "exchange with the marked rectangle", needs(() => send("swap"))),
    button("blend", "move towards the marked rectangle", needs(() => send("blend", { ratio: Number(ratio.value) }))), ratio,
    button("infill", "let the prior write the selection", needs(() => send("infill"))),
    button("copy", "Ctrl+C: all levels of the selection, for this file or another", needs(() => send("copy"))),
    button("paste", "Ctrl+V: at the corner of the selection", needs(() => send("paste"))),
    button("preview", "hear the selection alone, at this level", needs(() => send("preview"))), undo, redo,
    button("wav", "save the edited sound", () => download("edited.wav", [model.get("edited_wav")], "audio/wav")),
    button("json", "save the code grid", () => send("export")));
  const listen = node("div", { className: "ae-players" }, node("label", {}, "A original ", players.original), node("label", {}, "B edited ", players.edited), players.preview);

  // ---- mouse and keys
  const cell = (e) => {
    const box = now.getBoundingClientRect(), clip = (x, n) => Math.max(0, Math.min(n - 1, Math.floor(x)));
    return [clip((e.clientX - box.left) / box.width * T, T), F - 1 - clip((e.clientY - box.top) / box.height * F, F)];
  };
  const stretch = ([a, b], [c, d]) => ({ time: [Math.min(a, c), Math.max(a, c) + 1], frequency: [Math.min(b, d), Math.max(b, d) + 1] });
  const laneOf = (e) => {                                     // the level under the pointer, where levels are lanes
    const box = now.getBoundingClientRect(), y = (e.clientY - box.top) / box.height * F;
    return Math.min(Q - 1, Math.floor((y - Math.floor(y)) * Q));
  };
  const paint = (e) => { const at = cell(e); painted.set(at.join(), at); };
  function listenTo(e) {                                      // a pointer at rest: the code that lies under it, alone
    const at = cell(e), q = lanes.checked ? laneOf(e) : level, key = [...at, q].join();
    if (key === rested) return;
    rested = key; clearTimeout(rest);
    rest = setTimeout(() => model.send({ do: "hover", region: stretch(at, at), level: q }), HOVER_MS);
  }
  now.onpointerdown = (e) => {
    now.setPointerCapture(e.pointerId); now.focus();
    if (lanes.checked) { level = laneOf(e); levels.value = level; }
    if (brush.checked) { painted = new Map(); paint(e); } else { from = cell(e); region = stretch(from, from); }
    show();
  };
  now.onpointermove = (e) => {
    if (painted) paint(e);
    else if (from) region = stretch(from, cell(e));
    else { if (hover.checked) listenTo(e); return; }
    show();
  };
  now.onpointerleave = () => { clearTimeout(rest); rested = ""; };
  now.onpointerup = () => {
    if (painted) { model.send({ do: "paint", cells: [...painted.values()], level, code: Number(code.value) }); painted = null; }
    else if (region && region.time[1] - region.time[0] === 1 && region.frequency[1] - region.frequency[0] === 1) code.value = model.get("codes")[(region.time[0] * F + region.frequency[0]) * Q + level];
    from = null; show();
  };
  el.onkeydown = (e) => {
    if (e.target.tagName === "INPUT" && e.target.type !== "checkbox" && !e.ctrlKey && !e.metaKey) return;
    const key = e.key.toLowerCase(), held = e.ctrlKey || e.metaKey;
    if (held && key === "z") send(e.shiftKey ? "redo" : "undo");
    else if (held && key === "y") send("redo");
    else if (key === "delete" || key === "backspace") { if (region) send("mute"); }
    else if (held && key === "c") { if (region) send("copy"); }
    else if (held && key === "v") { if (region) send("paste"); }
    else if (key.startsWith("arrow")) move({ arrowleft: -1, arrowright: 1 }[key] ?? 0, { arrowup: 1, arrowdown: -1 }[key] ?? 0, e.shiftKey);
    else if (!held && key === "a") play("original");
    else if (!held && key === "b") play("edited");
    else if (!held && key === "l") { loop.checked = !loop.checked; }
    else return;
    e.preventDefault(); e.stopPropagation();
  };
  levels.onchange = () => { level = Number(levels.value); show(); };

  for (const name of ["codes", "status", "can_undo", "can_redo"]) model.on(`change:${name}`, show);
  for (const name of ["original", "edited", "preview"]) { model.on(`change:${name}_wav`, () => sound(name)); if (name !== "preview") sound(name); }
  model.on("change:picture", drawPicture);
  model.on("change:exported", () => { if (model.get("exported")) download("grid.json", [model.get("exported")], "application/json"); });
  for (const name of ["original", "edited"]) players[name].onplay = () => { played = name; movePlayhead(); };
  el.classList.add("ae-editor");
  el.append(node("div", { className: "ae-scroll" }, node("div", {}, "original"), before, node("div", {}, "edited: click or drag, or arrows (Shift widens); Ctrl+C, Ctrl+V and Ctrl+Z; A and B play, L loops the selection"),
    node("div", { className: "ae-stack" }, now, under, head)), where, tools, listen, status);
  show(); drawPicture();
}

export default { render };
