// The list: it has elements for the rows in sight alone, however many there are.

const ROW = 52; // pixels: as in page.css
const BEYOND = 8; // rows above and below those in sight

class List {
  constructor(store, element, tall, onChoose) {
    this.store = store;
    this.element = element;
    this.tall = tall;
    this.rows = [];
    this.chosen = -1;
    this.onChoose = onChoose;
    element.addEventListener("scroll", () => this.draw());
    tall.addEventListener("click", (event) => {
      const line = event.target.closest("[data-place]");
      if (line) this.choose(Number(line.dataset.place));
    });
    new ResizeObserver(() => this.draw()).observe(element);
  }

  // Other rows; the chosen one stays chosen where it is among them.
  fill(rows) {
    const before = this.rows[this.chosen];
    this.rows = rows;
    this.tall.style.height = `${rows.length * ROW}px`;
    this.choose(Math.max(0, rows.indexOf(before)));
    this.draw();
  }

  choose(place) {
    if (!this.rows.length) {
      this.chosen = -1;
      this.onChoose(null);
      return;
    }
    this.chosen = Math.min(Math.max(place, 0), this.rows.length - 1);
    this.reveal();
    this.draw();
    this.onChoose(this.rows[this.chosen]);
  }

  step(by) {
    this.choose(this.chosen + by);
  }

  reveal() {
    const top = this.chosen * ROW;
    const { scrollTop, clientHeight } = this.element;
    if (top < scrollTop) this.element.scrollTop = top;
    else if (top + ROW > scrollTop + clientHeight) this.element.scrollTop = top + ROW - clientHeight;
  }

  draw() {
    const first = Math.max(0, Math.floor(this.element.scrollTop / ROW) - BEYOND);
    const count = Math.ceil(this.element.clientHeight / ROW) + 2 * BEYOND;
    const lines = [];
    for (let place = first; place < Math.min(this.rows.length, first + count); place++) lines.push(this.line(place));
    this.tall.replaceChildren(...lines);
  }

  line(place) {
    const { store } = this;
    const row = this.rows[place];
    const all = store.samples;
    const verdict = store.verdict(row);
    const said = all.error[row] || (all.answer[row] === null ? "no answer" : all.answer[row]);
    const right = store.is(row, "right") ? null : store.ofTask(row, "right_answer");
    const line = make(
      "div",
      place === this.chosen ? "line chosen" : "line",
      make(
        "div",
        "",
        make("span", `mark ${verdict}`, MARKS[verdict]),
        make("span", "said", shorten(said, 80), right === null ? null : make("span", "quiet", `   right: ${shorten(right, 60)}`)),
        make("span", "paid", `${rounded(all.reward[row])}`),
      ),
      make(
        "div",
        "quiet",
        make("span", "asked", shorten(store.ofTask(row, "question") || "", 120)),
        make("span", "from", `${store.sets[all.set[row]]} #${all.sample[row]}`),
      ),
    );
    line.dataset.place = place;
    line.style.top = `${place * ROW}px`;
    line.setAttribute("role", "option");
    line.setAttribute("aria-selected", place === this.chosen);
    return line;
  }
}
