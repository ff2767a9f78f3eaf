// The editor of a code grid: two canvases (original, edited), a toolbar, two players. All state that matters lives in Python.
const CELL = { w: 16, h: 22 };
const hue = (code, size) => code < 0 ? "#ffffff" : `hsl(${Math.round(360 * code / size)} 62% ${62 - 22 * (code % 3) / 2}%)`;

function node(tag, attributes = {}, ...children) {
  const made = Object.assign(document.createElement(tag), attributes);
  for (const child of children) made.append(child);
  return made;
}

function render({ model, el }) {
  const [T, F, Q] = model.get("shape"), size = model.get("size");
  let level = 0, from = null, region = null, mark = null, played = null;
  const canvas = (label) => node("canvas", { width: T * CELL.w, height: F * CELL.h, className: `ae-grid ae-${label}`, tabIndex: 0, ariaLabel: `${label} code grid` });
  const before = canvas("original"), now = canvas("edited");
  const status = node("output", { className: "ae-status" }), where = node("span", { className: "ae-where" });
  const field = (name, options) => node("input", { className: `ae-${name}`, title: name, ...options });
  const code = field("code", { type: "number", min: -1, max: size - 1, value: 0 }), ratio = field("ratio", { type: "range", min: 0, max: 1, step: .05, value: .5 });
  const levels = node("select", { className: "ae-level", title: "level" }, ...[...Array(Q).keys()].map((q) => node("option", { value: q, textContent: `level ${q + 1}` })));
  const players = Object.fromEntries(["original", "edited", "preview"].map((name) => [name, node("audio", { className: `ae-audio-${name}`, controls: name !== "preview", preload: "auto" })]));

  // ---- drawing
  function draw(target, codes) {
    const g = target.getContext("2d");
    g.fillStyle = "#d8d8d8"; g.fillRect(0, 0, target.width, target.height);
    for (let t = 0; t < T; t++) for (let f = 0; f < F; f++) {
      const c = codes[(t * F + f) * Q + level];
      g.fillStyle = hue(c, size); g.fillRect(t * CELL.w + 1, (F - 1 - f) * CELL.h + 1, CELL.w - 1, CELL.h - 1);
      if (c < 0) { g.strokeStyle = "#999"; g.beginPath(); g.moveTo(t * CELL.w + 4, (F - f) * CELL.h - 4); g.lineTo((t + 1) * CELL.w - 4, (F - 1 - f) * CELL.h + 4); g.stroke(); }
    }
    for (const [box, colour] of [[mark, "#D55E00"], [region, "#000000"]]) if (box) {
      g.strokeStyle = colour; g.lineWidth = 2;
      g.strokeRect(box.time[0] * CELL.w, (F - box.frequency[1]) * CELL.h, (box.time[1] - box.time[0]) * CELL.w, (box.frequency[1] - box.frequency[0]) * CELL.h);
    }
  }
  function show() {
    draw(before, model.get("original_codes")); draw(now, model.get("codes"));
    undo.disabled = !model.get("can_undo"); redo.disabled = !model.get("can_redo"); status.value = model.get("status");
    where.textContent = region ? `columns ${region.time[0]}–${region.time[1] - 1}, bands ${region.frequency[0]}–${region.frequency[1] - 1}` : "nothing selected";
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
    players[name].currentTime = played && played !== name ? other : 0; played = name;
    players[name].play().catch(() => {});
  }
  const tools = node("div", { className: "ae-tools" }, levels, code,
    button("set", "write the code into the selection, at this level", needs(() => send("set", { code: Number(code.value) }))),
    button("mute", "make this level absent there (Delete)", needs(() => send("mute"))),
    button("mark", "remember this rectangle for swap and blend", needs(() => { mark = region; show(); })),
    button("swap", "exchange with the marked rectangle", needs(() => send("swap"))),
    button("blend", "move towards the marked rectangle", needs(() => send("blend", { ratio: Number(ratio.value) }))), ratio,
    button("infill", "let the prior write the selection", needs(() => send("infill"))),
    button("preview", "hear the selection alone, at this level", needs(() => send("preview"))), undo, redo);
  const listen = node("div", { className: "ae-players" }, node("label", {}, "A original ", players.original), node("label", {}, "B edited ", players.edited), players.preview);

  // ---- mouse and keys
  const cell = (e) => {
    const box = now.getBoundingClientRect(), clip = (x, n) => Math.max(0, Math.min(n - 1, Math.floor(x)));
    return [clip((e.clientX - box.left) / box.width * T, T), F - 1 - clip((e.clientY - box.top) / box.height * F, F)];
  };
  const stretch = ([a, b], [c, d]) => ({ time: [Math.min(a, c), Math.max(a, c) + 1], frequency: [Math.min(b, d), Math.max(b, d) + 1] });
  now.onpointerdown = (e) => { now.setPointerCapture(e.pointerId); from = cell(e); region = stretch(from, from); now.focus(); show(); };
  now.onpointermove = (e) => { if (from) { region = stretch(from, cell(e)); show(); } };
  now.onpointerup = () => {
    if (region && region.time[1] - region.time[0] === 1 && region.frequency[1] - region.frequency[0] === 1) code.value = model.get("codes")[(region.time[0] * F + region.frequency[0]) * Q + level];
    from = null; show();
  };
  el.onkeydown = (e) => {
    if (e.target.tagName === "INPUT" && !e.ctrlKey && !e.metaKey) return;
    const key = e.key.toLowerCase(), held = e.ctrlKey || e.metaKey;
    if (held && key === "z") send(e.shiftKey ? "redo" : "undo");
    else if (held && key === "y") send("redo");
    else if (key === "delete" || key === "backspace") { if (region) send("mute"); }
    else if (!held && key === "a") play("original");
    else if (!held && key === "b") play("edited");
    else return;
    e.preventDefault(); e.stopPropagation();
  };
  levels.onchange = () => { level = Number(levels.value); show(); };

  for (const name of ["codes", "status", "can_undo", "can_redo"]) model.on(`change:${name}`, show);
  for (const name of ["original", "edited", "preview"]) { model.on(`change:${name}_wav`, () => sound(name)); if (name !== "preview") sound(name); }
  el.classList.add("ae-editor");
  el.append(node("div", { className: "ae-scroll" }, node("div", {}, "original"), before, node("div", {}, "edited: click or drag; Ctrl+Z undoes; A and B play"), now), where, tools, listen, status);
  show();
}

export default { render };
