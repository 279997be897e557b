"use strict";

const $ = (id) => document.getElementById(id);
const state = { info: null, files: [], seconds: 0, peaks: [], start: 0, length: 5,
                found: [], chosen: -1, sounds: new Map(), asked: 0 };

async function ask(path, form) {
  let answer;
  try {
    answer = await fetch(path, form ? { method: "POST", body: form } : {});
  } catch {
    throw new Error("The server does not answer. Is `phalar serve` still running?");
  }
  if (answer.ok) return answer;
  const { detail } = await answer.json().catch(() => ({ detail: answer.statusText }));
  throw new Error(Array.isArray(detail) ? detail.map((each) => each.msg).join("; ") : detail);
}

function say(text, wrong = false) {
  $("state").textContent = text;
  $("state").classList.toggle("wrong", wrong);
}

function moment(form) {
  for (const file of state.files) form.append("files", file);
  form.set("start_s", state.start);
  form.set("seconds", state.length);
  return form;
}

// ---- the mix and its waveform ------------------------------------------------------------------

async function take(files) {
  if (!files.length) return;
  clear();
  say("Reading …");
  try {
    const outlines = [];
    for (const file of files) {
      const form = new FormData();
      form.set("file", file);
      outlines.push(await (await ask("/api/waveform", form)).json());
    }
    const longest = outlines.reduce((a, b) => (a.seconds >= b.seconds ? a : b));
    Object.assign(state, { files: [...files], seconds: longest.seconds, peaks: longest.peaks,
                           start: 0, length: state.info.window_s });
    $("hint").textContent = [...files].map((file) => file.name).join(" + ");
    $("drop").classList.add("full");
    $("wave").hidden = $("ask").hidden = false;
    say("");
    draw();
    await search();
  } catch (error) {
    say(error.message, true);
  }
}

function clear() {
  state.asked += 1;
  $("audio").pause();
  $("audio").removeAttribute("src");
  for (const url of state.sounds.values()) URL.revokeObjectURL(url);
  state.sounds.clear();
  state.found = [];
  state.chosen = -1;
  $("found").replaceChildren();
  $("found").hidden = $("player").hidden = true;
}

function draw() {
  const canvas = $("canvas");
  const scale = window.devicePixelRatio || 1;
  const width = canvas.clientWidth, height = canvas.clientHeight;
  canvas.width = width * scale;
  canvas.height = height * scale;
  const pen = canvas.getContext("2d");
  pen.scale(scale, scale);
  const colour = (name) => {
    // The canvas knows no light-dark(); an element's computed colour is resolved.
    canvas.style.color = `var(${name})`;
    const found = getComputedStyle(canvas).color;
    canvas.style.color = "";
    return found;
  };
  const left = (state.start / state.seconds) * width;
  const right = Math.min(width, ((state.start + state.length) / state.seconds) * width);
  pen.fillStyle = colour("--wash");
  pen.fillRect(left, 0, Math.max(2, right - left), height);
  const inside = colour("--accent"), outside = colour("--faint");
  const bars = Math.floor(width / 3);
  for (let bar = 0; bar < bars; bar += 1) {
    const from = Math.floor((bar / bars) * state.peaks.length);
    const to = Math.max(from + 1, Math.floor(((bar + 1) / bars) * state.peaks.length));
    const tall = Math.max(1, Math.max(...state.peaks.slice(from, to)) * (height - 8));
    const x = bar * 3;
    pen.fillStyle = x >= left - 1 && x <= right ? inside : outside;
    pen.fillRect(x, (height - tall) / 2, 2, tall);
  }
  const until = Math.min(state.seconds, state.start + state.length);
  $("moment").textContent =
    `${state.start.toFixed(1)} to ${until.toFixed(1)} s of ${state.seconds.toFixed(1)} s; ` +
    "click or drag to choose another moment";
  canvas.setAttribute("aria-valuemax", state.seconds.toFixed(1));
  canvas.setAttribute("aria-valuenow", state.start.toFixed(1));
}

function choose(from, to) {
  const shortest = state.info.window_s;
  const length = Math.min(30, Math.max(shortest, Math.abs(to - from)));
  const start = Math.max(0, Math.min(Math.min(from, to), state.seconds - length));
  Object.assign(state, { start: Math.round(start * 100) / 100, length: Math.round(length * 10) / 10 });
  draw();
}

const canvas = $("canvas");
const at = (event) => {
  const box = canvas.getBoundingClientRect();
  return Math.max(0, Math.min(1, (event.clientX - box.left) / box.width)) * state.seconds;
};
let pressed = null;
canvas.addEventListener("pointerdown", (event) => {
  canvas.setPointerCapture(event.pointerId);
  pressed = at(event);
  choose(pressed, pressed);
});
canvas.addEventListener("pointermove", (event) => {
  if (pressed !== null) choose(pressed, at(event));
});
canvas.addEventListener("pointerup", () => {
  pressed = null;
  search();
});
canvas.addEventListener("pointercancel", () => { pressed = null; });
canvas.addEventListener("keydown", (event) => {
  const step = { ArrowLeft: -0.5, ArrowRight: 0.5 }[event.key];
  if (step) choose(state.start + step, state.start + step + state.length);
  if (event.key === "Enter") search();
});

// ---- what is found -----------------------------------------------------------------------------

async function search() {
  clear();
  const mine = state.asked;
  const form = moment(new FormData());
  form.set("top", 20);
  form.set("transpose", $("transpose").value);
  form.set("refine", $("refine").checked);
  if ($("instrument").value) form.append("instrument", $("instrument").value);
  for (const word of $("exclude").value.split(/[\s,]+/).filter(Boolean)) form.append("exclude", word);
  $("search").disabled = true;
  say("Listening …");
  try {
    const found = await (await ask("/api/search", form)).json();
    if (mine !== state.asked) return;
    state.found = found;
    say(found.length ? "" : "Nothing comes into question. Loosen the filters.");
    show();
  } catch (error) {
    if (mine === state.asked) say(error.message, true);
  } finally {
    if (mine === state.asked) $("search").disabled = false;
  }
}

function element(tag, name, text) {
  const made = document.createElement(tag);
  if (name) made.className = name;
  if (text !== undefined) made.textContent = text;
  return made;
}

function row(each, place) {
  const address = `${location.origin}/api/audio/${each.id}`;
  const item = element("li");
  item.id = `found-${place}`;
  item.setAttribute("role", "option");
  const what = element("div");
  const name = element("a", "name", each.name);
  name.href = address;
  name.draggable = true;
  name.addEventListener("click", (event) => event.preventDefault());
  name.addEventListener("dragstart", (event) => {
    event.dataTransfer.setData("DownloadURL", `application/octet-stream:${each.name}:${address}`);
    event.dataTransfer.setData("text/uri-list", address);
  });
  const about = (from) => (from === "sound" ? "~" : "");
  const told = [each.instrument,
                each.tempo_bpm && `${about(each.tempo_from)}${Math.round(each.tempo_bpm)} bpm`,
                each.key && `${about(each.key_from)}${each.key}`,
                `from ${each.start_s.toFixed(2)} s of ${each.seconds.toFixed(1)} s`,
                each.transpose_st && `transposed by ${each.transpose_st > 0 ? "+" : "−"}` +
                  `${Math.abs(each.transpose_st)}`,
                each.path.includes("/") && `in ${each.path.slice(0, each.path.lastIndexOf("/"))}`];
  what.append(name, element("div", "told", told.filter(Boolean).join(" · ")));
  const score = element("div", "score");
  score.title = `score ${each.score.toFixed(4)}`;
  if (each.percentile === null) score.append(element("b", "", each.score.toFixed(2)));
  else score.append(element("b", "", each.percentile.toFixed(each.percentile > 99 ? 1 : 0)),
                    element("small", "", `of 100 · ${each.score.toFixed(2)}`));
  const get = element("a", "get", "Download");
  get.href = `${address}?download=true`;
  get.setAttribute("download", each.name);
  get.addEventListener("click", (event) => event.stopPropagation());
  item.append(element("span", "place", place + 1), what, score, get);
  item.addEventListener("click", () => { select(place); play(); });
  return item;
}

function show() {
  $("found").replaceChildren(...state.found.map(row));
  $("found").hidden = $("player").hidden = !state.found.length;
  if (state.found.length) {
    select(0);
    $("found").focus({ preventScroll: true });
  }
}

function select(place) {
  state.chosen = Math.max(0, Math.min(place, state.found.length - 1));
  [...$("found").children].forEach((item, number) =>
    item.setAttribute("aria-selected", number === state.chosen));
  const item = $("found").children[state.chosen];
  $("found").setAttribute("aria-activedescendant", item.id);
  item.scrollIntoView({ block: "nearest" });
}

async function play() {
  const each = state.found[state.chosen];
  if (!each) return;
  const mine = state.asked, place = state.chosen, alone = $("alone").checked;
  const key = `${place} ${alone}`;
  try {
    if (!state.sounds.has(key)) {
      const form = moment(new FormData());
      for (const [name, value] of Object.entries({ id: each.id, candidate_start_s: each.start_s,
        transpose_st: each.transpose_st, alone })) form.set(name, value);
      const blob = await (await ask("/api/audition", form)).blob();
      if (mine !== state.asked) return;
      state.sounds.set(key, URL.createObjectURL(blob));
    }
    if (place !== state.chosen) return;
    $("audio").src = state.sounds.get(key);
    await $("audio").play();
    say("");
  } catch (error) {
    if (error.name !== "AbortError") say(error.message, true);
  }
}

const playing = () => !$("audio").paused && !$("audio").ended;

function toggle() {
  if (playing()) $("audio").pause();
  else play();
}

// ---- hands -------------------------------------------------------------------------------------

document.addEventListener("keydown", (event) => {
  if (!state.found.length || event.target.closest("input, select, canvas, audio, form")) return;
  const step = { ArrowUp: -1, ArrowDown: 1 }[event.key];
  if (step) {
    event.preventDefault();
    const heard = playing();
    select(state.chosen + step);
    if (heard) play();
  } else if (event.key === " ") {
    event.preventDefault();
    toggle();
  }
});
$("play").addEventListener("click", toggle);
$("alone").addEventListener("change", () => { if (playing()) play(); });
for (const name of ["play", "pause", "ended"]) {
  $("audio").addEventListener(name, () => { $("play").textContent = playing() ? "❚❚" : "▶"; });
}
$("files").addEventListener("change", () => take($("files").files));
$("ask").addEventListener("submit", (event) => { event.preventDefault(); search(); });
for (const name of ["dragenter", "dragover"]) {
  document.addEventListener(name, (event) => {
    if (![...event.dataTransfer.types].includes("Files")) return;
    event.preventDefault();
    $("drop").classList.add("over");
  });
}
for (const name of ["dragleave", "drop"]) {
  document.addEventListener(name, () => $("drop").classList.remove("over"));
}
document.addEventListener("drop", (event) => {
  event.preventDefault();
  take(event.dataTransfer.files);
});
window.addEventListener("resize", () => { if (state.files.length) draw(); });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  if (state.files.length) draw();
});

(async () => {
  try {
    state.info = await (await ask("/api/info")).json();
    $("library").textContent = `${state.info.library}: ${state.info.files} files` +
      (state.info.search === "approximate"
        ? `, searched approximately (finds ${Math.round(100 * state.info.recall)} %)` : "");
    for (const name of state.info.instruments) $("instrument").append(new Option(name));
  } catch (error) {
    say(error.message, true);
  }
})();
