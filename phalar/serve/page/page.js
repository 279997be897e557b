// The page: a mix is taken, asked about, and what is found is heard with it.

import { Found } from "./found.js";
import { Player } from "./player.js";
import { ask } from "./server.js";
import { Waveform } from "./waveform.js";

const MOST_FILES = 8;
const TYPED = "input:not([type=checkbox], [type=file]), select";

const $ = (id) => document.getElementById(id);
const player = new Player($("audio"), $("play"));
const found = new Found($("found"), { hear: () => play(), leave: () => player.stop() });
const waveform = new Waveform($("canvas"), $("moment"), search);
let info = null;
let files = [];
let asked = null;
let working = new AbortController();

function say(text, wrong = false) {
  $("state").textContent = text;
  $("state").classList.toggle("wrong", wrong);
}

function complain(error) {
  // What was given up for something newer is no news.
  if (error.name !== "AbortError") say(error.message, true);
}

// Do what was asked for last, and nothing else: the work before is given up, and all it found.
async function work(text, does) {
  working.abort();
  working = new AbortController();
  const { signal } = working;
  player.forget();
  found.show([]);
  $("player").hidden = true;
  $("wave").inert = false;
  $("search").disabled = true;
  say(text);
  try {
    await does(signal);
  } catch (error) {
    complain(error);
  } finally {
    if (!signal.aborted) {
      $("search").disabled = false;
      $("wave").inert = false;
    }
  }
}

// ---- the mix -----------------------------------------------------------------------------------

async function take(list) {
  const taken = [...list];
  // Else the same file could not be chosen again after it was changed.
  $("files").value = "";
  if (!taken.length) return;
  if (taken.length > MOST_FILES) {
    say(`${taken.length} files: at most ${MOST_FILES} are summed.`, true);
    return;
  }
  await work("Reading …", async (signal) => {
    // A moment of the mix before would be searched for instead of this one.
    $("wave").inert = true;
    info ?? (await learn());
    const outlines = [];
    for (const file of taken) {
      const form = new FormData();
      form.set("file", file);
      outlines.push(await (await ask("/api/waveform", form, signal)).json());
    }
    signal.throwIfAborted();
    files = taken;
    $("hint").textContent = files.map((file) => file.name).join(" + ");
    $("drop").classList.add("full");
    $("wave").hidden = $("ask").hidden = $("wave").inert = false;
    waveform.show(outlines.reduce((a, b) => (a.seconds >= b.seconds ? a : b)), info.window_s);
    say("Listening …");
    await find(signal);
  });
}

async function learn() {
  info = await (await ask("/api/info")).json();
  $("library").textContent = `${info.library}: ${info.files} files` +
    (info.search === "approximate"
      ? `, searched approximately (finds ${Math.round(100 * info.recall)} %)` : "");
  $("instrument").length = 1;
  for (const name of info.instruments) $("instrument").append(new Option(name));
}

// ---- what fits ---------------------------------------------------------------------------------

function search() {
  return work("Listening …", find);
}

function form(values) {
  const made = new FormData();
  for (const file of asked.files) made.append("files", file);
  for (const [name, value] of Object.entries(values)) {
    for (const each of [value].flat()) made.append(name, each);
  }
  return made;
}

async function find(signal) {
  // What is heard later belongs to this moment, also when another is being chosen.
  asked = { files, moment: waveform.moment };
  const instrument = $("instrument").value;
  const exclude = $("exclude").value.split(/[\s,]+/).filter(Boolean);
  const wanted = form({ ...asked.moment, top: 20, transpose: $("transpose").value, exclude,
                        refine: $("refine").checked, instrument: instrument || [] });
  const all = await (await ask("/api/search", wanted, signal)).json();
  signal.throwIfAborted();
  if (!all.length) {
    say(whyNothing(Boolean(instrument || exclude.length)));
    return;
  }
  say(`${all.length} found, best first`);
  found.show(all);
  $("player").hidden = false;
  const isBusy = document.activeElement?.matches("#ask input, select, canvas");
  found.choose(0, { focus: !isBusy });
}

function whyNothing(isFiltered) {
  const { seconds } = asked.moment;
  const isLong = seconds > info.window_s;
  if (isLong && isFiltered) {
    return `Nothing comes into question for ${seconds} s. Choose a shorter moment, ` +
      "or loosen the filters.";
  }
  if (isLong) return `No file is as long as this moment of ${seconds} s. Choose a shorter one.`;
  if (isFiltered) return "Nothing comes into question. Loosen the filters.";
  return "Nothing can be heard of the library. `phalar index update` looks what is there.";
}

// ---- sound -------------------------------------------------------------------------------------

async function play(how) {
  const { each } = found;
  if (!each) return;
  const alone = $("alone").checked;
  try {
    await player.play(`${found.chosen} ${alone}`, async (signal) => {
      const wanted = form({ ...asked.moment, id: each.id, candidate_start_s: each.start_s,
                            transpose_st: each.transpose_st, alone });
      return (await ask("/api/audition", wanted, signal)).blob();
    }, how);
    if ($("state").classList.contains("wrong")) say("");
  } catch (error) {
    complain(error);
  }
}

function toggle() {
  if (player.isOn) player.pause();
  else play();
}

function move(step) {
  const wasOn = player.isOn;
  found.choose(found.chosen + step);
  if (wasOn) play();
}

// Who clicked goes on in the list; who came by keyboard is left where they are.
function backFrom({ target }) {
  if (found.length && !target.matches(":focus-visible")) found.choose(found.chosen);
}

// ---- hands -------------------------------------------------------------------------------------

document.addEventListener("keydown", (event) => {
  const { key, target } = event;
  const withOthers = event.ctrlKey || event.altKey || event.metaKey || event.shiftKey;
  if (!found.length || withOthers || target.closest(TYPED)) return;
  const step = { ArrowUp: -1, ArrowDown: 1 }[key];
  if (step) {
    move(step);
  } else if (key === " " ? !target.closest("button, input")
                         : key === "Enter" && target.matches("[role=row]")) {
    // Held down, it is pressed once.
    if (!event.repeat) toggle();
  } else {
    return;
  }
  event.preventDefault();
});
$("play").addEventListener("click", toggle);
$("alone").addEventListener("change", (event) => {
  if (player.isOn) play({ within: true });
  else player.stop();
  backFrom(event);
});
// The browser's own control keeps all keys to itself.
$("audio").addEventListener("focus", backFrom);
$("files").addEventListener("change", () => take($("files").files));
$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  search();
});

const holdsFiles = (event) => event.dataTransfer.types.includes("Files");
for (const name of ["dragenter", "dragover"]) {
  document.addEventListener(name, (event) => {
    if (!holdsFiles(event)) return;
    event.preventDefault();
    $("drop").classList.add("over");
  });
}
for (const name of ["dragleave", "drop"]) {
  document.addEventListener(name, () => $("drop").classList.remove("over"));
}
document.addEventListener("drop", (event) => {
  if (!holdsFiles(event)) return;
  event.preventDefault();
  take(event.dataTransfer.files);
});

learn().catch(complain);
