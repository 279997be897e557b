// The waveform of a mix, and the moment of it that is chosen: by pointer or by keyboard.

const LONGEST_S = 30;
const STEP_S = 0.5;

export class Waveform {
  moment = { start_s: 0, seconds: 0 };
  #seconds = 0;
  #peaks = [];
  #shortest_s = 0;
  #pressed_s = null;

  // `wanted` is called when a moment has been chosen that shall be searched for.
  constructor(canvas, told, wanted) {
    this.canvas = canvas;
    this.told = told;
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      this.#pressed_s = this.#at(event);
      this.#choose(this.#pressed_s, this.#pressed_s);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (this.#pressed_s !== null) this.#choose(this.#pressed_s, this.#at(event));
    });
    canvas.addEventListener("pointerup", () => {
      if (this.#pressed_s !== null) wanted();
      this.#pressed_s = null;
    });
    canvas.addEventListener("pointercancel", () => { this.#pressed_s = null; });
    canvas.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.altKey || event.metaKey) return;
      if (event.key === "Enter") wanted();
      else if (!this.#press(event.key, event.shiftKey)) return;
      event.preventDefault();
    });
    window.addEventListener("resize", () => this.#draw());
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#draw());
  }

  show({ seconds, peaks }, shortest_s) {
    this.#seconds = seconds;
    this.#peaks = peaks;
    this.#shortest_s = shortest_s;
    this.moment = { start_s: 0, seconds: shortest_s };
    this.#draw();
  }

  #at(event) {
    const box = this.canvas.getBoundingClientRect();
    return Math.max(0, Math.min(1, (event.clientX - box.left) / box.width)) * this.#seconds;
  }

  // Move the moment, or with shift its end; say whether the key does so.
  #press(key, withShift) {
    const { start_s, seconds } = this.moment;
    const step_s = { ArrowLeft: -STEP_S, ArrowRight: STEP_S }[key];
    if (withShift && step_s) this.#choose(start_s, start_s + Math.max(0, seconds + step_s));
    if (withShift) return Boolean(step_s);
    const to_s = { ArrowLeft: start_s - STEP_S, ArrowRight: start_s + STEP_S,
                   PageDown: start_s - seconds, PageUp: start_s + seconds,
                   Home: 0, End: this.#seconds }[key];
    if (to_s === undefined) return false;
    this.#choose(to_s, to_s + seconds);
    return true;
  }

  #choose(from_s, to_s) {
    // Rounded before it is compared: less than a window is not searched for.
    const drawn_s = Math.round(Math.abs(to_s - from_s) * 10) / 10;
    const seconds = Math.max(this.#shortest_s, Math.min(LONGEST_S, drawn_s));
    const latest_s = Math.max(0, this.#seconds - seconds);
    const start_s = Math.max(0, Math.min(from_s, to_s, latest_s));
    this.moment = { start_s: Math.round(start_s * 100) / 100, seconds };
    this.#draw();
  }

  #draw() {
    if (!this.#peaks.length) return;
    this.#paint();
    const { start_s, seconds } = this.moment;
    const until_s = Math.min(this.#seconds, start_s + seconds);
    const range = `${start_s.toFixed(1)} to ${until_s.toFixed(1)} s of ${this.#seconds.toFixed(1)} s`;
    this.told.textContent = range;
    const said = { valuemax: Math.max(0, this.#seconds - seconds).toFixed(1),
                   valuenow: start_s.toFixed(1), valuetext: range };
    for (const [name, value] of Object.entries(said)) this.canvas.setAttribute(`aria-${name}`, value);
  }

  #paint() {
    const scale = window.devicePixelRatio || 1;
    const { clientWidth: width, clientHeight: height } = this.canvas;
    this.canvas.width = width * scale;
    this.canvas.height = height * scale;
    const pen = this.canvas.getContext("2d");
    pen.scale(scale, scale);
    const x = (s) => Math.min(1, s / this.#seconds) * width;
    const left = x(this.moment.start_s), right = x(this.moment.start_s + this.moment.seconds);
    pen.fillStyle = this.#colour("--wash");
    pen.fillRect(left, 0, Math.max(2, right - left), height);
    const inside = this.#colour("--accent"), outside = this.#colour("--faint");
    pen.fillStyle = inside;
    for (const edge of [left, right - 2]) pen.fillRect(edge, 0, 2, height);
    const bars = Math.floor(width / 3), peaks = this.#peaks;
    for (let bar = 0; bar < bars; bar += 1) {
      const from = Math.floor((bar / bars) * peaks.length);
      const to = Math.max(from + 1, Math.floor(((bar + 1) / bars) * peaks.length));
      const tall = Math.max(1, Math.max(...peaks.slice(from, to)) * (height - 8));
      pen.fillStyle = bar * 3 >= left - 1 && bar * 3 <= right ? inside : outside;
      pen.fillRect(bar * 3, (height - tall) / 2, 2, tall);
    }
  }

  // The canvas knows no light-dark(); an element's computed colour is resolved.
  #colour(name) {
    this.canvas.style.color = `var(${name})`;
    const found = getComputedStyle(this.canvas).color;
    this.canvas.style.color = "";
    return found;
  }
}
