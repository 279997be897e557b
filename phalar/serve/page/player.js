// Sounds that are fetched when they are first heard, one at a time.

export class Player {
  #sounds = new Map();
  #fetching = null;

  constructor(audio, button) {
    this.audio = audio;
    this.button = button;
    for (const name of ["play", "pause", "ended", "emptied"]) {
      audio.addEventListener(name, () => this.#tell());
    }
  }

  // Whether something is heard, or will be as soon as it is there.
  get isOn() { return this.#fetching !== null || !(this.audio.paused || this.audio.ended); }

  // Go on with the sound of that key, or begin with it: where the sound before is, if so wanted.
  async play(key, fetched, { within = false } = {}) {
    this.#fetching?.abort();
    const mine = new AbortController();
    this.#fetching = mine;
    this.#tell();
    try {
      if (!this.#sounds.has(key)) {
        const sound = await fetched(mine.signal);
        mine.signal.throwIfAborted();
        this.#sounds.set(key, URL.createObjectURL(sound));
      }
      if (this.audio.src !== this.#sounds.get(key)) {
        const from_s = within ? this.audio.currentTime : 0;
        this.audio.src = this.#sounds.get(key);
        this.audio.currentTime = from_s;
      }
      await this.audio.play();
    } finally {
      if (this.#fetching === mine) this.#fetching = null;
      this.#tell();
    }
  }

  pause() {
    this.#fetching?.abort();
    this.#fetching = null;
    this.audio.pause();
    this.#tell();
  }

  // Let nothing be there to go on with: what is chosen is another sound now.
  stop() {
    this.pause();
    if (!this.audio.hasAttribute("src")) return;
    this.audio.removeAttribute("src");
    this.audio.load();
  }

  forget() {
    this.stop();
    for (const url of this.#sounds.values()) URL.revokeObjectURL(url);
    this.#sounds.clear();
  }

  #tell() {
    this.button.textContent = this.#fetching ? "…" : this.isOn ? "❚❚" : "▶\uFE0E";
    this.button.setAttribute("aria-label", this.isOn ? "Pause" : "Play");
  }
}
