// What is found: a grid of rows, of which one is chosen and takes part in the order of tabs.

export class Found {
  chosen = -1;
  #all = [];

  // `hear` is called when a row is clicked, `leave` when another row gets chosen.
  constructor(grid, { hear, leave }) {
    this.grid = grid;
    this.hear = hear;
    this.leave = leave;
  }

  get length() { return this.#all.length; }

  get each() { return this.#all[this.chosen]; }

  show(all) {
    this.#all = all;
    this.chosen = -1;
    this.grid.replaceChildren(...all.map((each, place) => this.#row(each, place)));
    this.grid.hidden = !all.length;
  }

  choose(wanted, { focus = true } = {}) {
    const place = Math.max(0, Math.min(wanted, this.length - 1));
    if (place !== this.chosen) this.leave();
    this.chosen = place;
    [...this.grid.children].forEach((row, number) => {
      const isChosen = number === place;
      row.setAttribute("aria-selected", isChosen);
      for (const stop of [row, row.querySelector(".get")]) stop.tabIndex = isChosen ? 0 : -1;
    });
    const row = this.grid.children[place];
    if (focus) row.focus({ preventScroll: true });
    // By the style's scroll-padding it ends up above the player.
    row.scrollIntoView({ block: "nearest" });
  }

  #row(each, place) {
    const address = `${location.origin}/api/audio/${each.id}`;
    const row = element("div");
    row.setAttribute("role", "row");
    const what = element("div");
    what.append(nameOf(each, address), element("div", "told", told(each)));
    const get = element("a", "get", "Download");
    get.href = `${address}?download=true`;
    get.setAttribute("download", each.name);
    get.setAttribute("aria-label", `Download ${each.name}`);
    get.addEventListener("click", (event) => event.stopPropagation());
    const last = element("div");
    last.append(get);
    const cells = [element("div", "place", place + 1), what, scoreOf(each), last];
    for (const cell of cells) cell.setAttribute("role", "gridcell");
    row.append(...cells);
    row.addEventListener("click", () => {
      this.choose(place);
      this.hear();
    });
    return row;
  }
}

function element(tag, name, text) {
  const made = document.createElement(tag);
  if (name) made.className = name;
  if (text !== undefined) made.textContent = text;
  return made;
}

function nameOf(each, address) {
  const name = element("span", "name", each.name);
  name.draggable = true;
  name.addEventListener("dragstart", (event) => {
    // A colon would end the name.
    const file = each.name.replaceAll(":", "_");
    event.dataTransfer.setData("DownloadURL", `application/octet-stream:${file}:${address}`);
    event.dataTransfer.setData("text/uri-list", address);
    event.dataTransfer.effectAllowed = "copy";
  });
  return name;
}

function told(each) {
  const about = (from) => (from === "sound" ? "~" : "");
  const { transpose_st: st } = each;
  return [
    each.instrument,
    each.tempo_bpm && `${about(each.tempo_from)}${Math.round(each.tempo_bpm)} bpm`,
    each.key && `${about(each.key_from)}${each.key}`,
    `from ${each.start_s.toFixed(2)} s of ${each.seconds.toFixed(1)} s`,
    st && `transposed by ${st > 0 ? "+" : "−"}${Math.abs(st)}`,
    each.path.includes("/") && `in ${each.path.slice(0, each.path.lastIndexOf("/"))}`,
  ].filter(Boolean).join(" · ");
}

function scoreOf(each) {
  const score = element("div", "score");
  score.title = `score ${each.score.toFixed(4)}`;
  if (each.percentile === null) {
    score.append(element("b", "", each.score.toFixed(2)));
  } else {
    score.append(element("b", "", each.percentile.toFixed(each.percentile > 99 ? 1 : 0)),
                 element("small", "", `of 100 · ${each.score.toFixed(2)}`));
  }
  return score;
}
