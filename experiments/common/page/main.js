// The page: reads what is embedded, shows it, and follows keys, filters and links.

const byId = (id) => document.getElementById(id);
const PAUSE = 150; // milliseconds without a key before the texts are searched

class Browser {
  constructor(content) {
    this.store = new Store(content);
    this.wanted = { verdict: null, set: null, env: null, task: null, text: "" };
    this.together = content.together;
    this.detail = new Detail(this.store, byId("detail"), {
      together: () => this.toggle(),
      onlyTask: (task) => this.want({ task }),
      open: (row) => this.open(row),
    });
    this.list = new List(this.store, byId("list"), byId("tall"), (row) => this.show(row));
  }

  start() {
    byId("browser").hidden = false;
    byId("export").disabled = true;
    this.offerVerdicts();
    this.offer("set", this.store.sets.map((name, i) => [name, i]));
    const envs = [...new Set(this.store.tasks.env)];
    byId("envs").hidden = envs.length < 2;
    this.offer("env", envs.map((name) => [name, name]));
    let timer = 0;
    byId("search").addEventListener("input", (event) => {
      clearTimeout(timer);
      timer = setTimeout(() => this.want({ text: event.target.value }), PAUSE);
    });
    byId("task").addEventListener("click", () => this.want({ task: null }));
    byId("export").addEventListener("click", () => this.save());
    document.addEventListener("keydown", (event) => this.key(event));
    window.addEventListener("hashchange", () => this.follow());
    this.want({});
    this.follow();
  }

  complete(completions) {
    this.store.completions = completions;
    byId("export").disabled = false;
    this.want({});
  }

  offerVerdicts() {
    const buttons = [null, ...VERDICTS].map((verdict) => {
      const button = make("button", "", verdict || "all");
      button.dataset.verdict = verdict || "all";
      button.addEventListener("click", () => this.want({ verdict }));
      return button;
    });
    byId("verdicts").append(...buttons);
  }

  offer(name, choices) {
    const select = byId(name);
    select.append(make("option", "", "all"));
    for (const [label] of choices) select.append(make("option", "", shorten(label, 60)));
    select.addEventListener("change", () => {
      const chosen = select.selectedIndex;
      this.want({ [name]: chosen ? choices[chosen - 1][1] : null });
    });
  }

  want(changes) {
    Object.assign(this.wanted, changes);
    const { verdict, task } = this.wanted;
    const rows = this.store.select(this.wanted);
    for (const button of byId("verdicts").children) {
      button.setAttribute("aria-pressed", button.dataset.verdict === (verdict || "all"));
    }
    byId("task").hidden = task === null;
    if (task !== null) byId("task").textContent = visible(`task ${this.store.tasks.key[task]} ×`);
    byId("count").textContent = `${rows.length.toLocaleString("en")} of ${this.store.size.toLocaleString("en")}`;
    this.list.fill(rows);
  }

  show(row) {
    if (row === null) byId("detail").replaceChildren(make("p", "quiet", "Nothing is like that."));
    else this.detail.show(row, this.together);
  }

  toggle() {
    this.together = !this.together;
    this.list.choose(this.list.chosen);
  }

  // A sample by a link or from among its task's: filters that hide it are taken away.
  open(row) {
    if (!this.list.rows.includes(row)) {
      byId("set").selectedIndex = byId("env").selectedIndex = 0;
      byId("search").value = "";
      this.want({ verdict: null, set: null, env: null, task: null, text: "" });
    }
    this.list.choose(this.list.rows.indexOf(row));
    byId("browser").scrollIntoView();
  }

  follow() {
    const name = location.hash.slice(1);
    const row = name ? this.store.named(name) : -1;
    if (row >= 0) this.open(row);
    else if (name) byId("count").textContent = "the link's sample is not in this page";
  }

  key(event) {
    const typing = event.target.matches("input, select, textarea");
    if (event.key === "Escape" && typing) event.target.blur();
    if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
    const actions = {
      j: () => this.list.step(1),
      k: () => this.list.step(-1),
      t: () => this.toggle(),
      "/": () => byId("search").focus(),
    };
    if (!(event.key in actions)) return;
    event.preventDefault();
    actions[event.key]();
  }

  save() {
    const lines = this.list.rows.map((row) => `${JSON.stringify(this.store.record(row))}\n`);
    const link = make("a");
    link.href = URL.createObjectURL(new Blob(lines, { type: "application/jsonl" }));
    link.download = "samples.jsonl";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  }
}

const opened = () => performance.now().toFixed(0); // milliseconds since the page was asked for
const parsed = new Promise((resolve) => document.addEventListener("DOMContentLoaded", resolve));

async function main() {
  const content = await unpack(byId("facts"));
  byId("title").textContent = visible(content.title);
  byId("source").textContent = visible(content.source);
  byId("tables").append(...content.tables.map(table));
  byId("curves").append(...content.curves.map(drawing));
  byId("sent").append(table(content.sent));
  byId("note").textContent = visible(content.note);
  const browser = new Browser(content);
  if (content.samples.task.length) browser.start();
  byId("waiting").remove();
  document.body.getBoundingClientRect(); // all is laid out
  document.documentElement.dataset.ready = opened();
  await parsed; // the completions stand behind this script
  browser.complete(await unpack(byId("completions")));
  document.documentElement.dataset.complete = opened();
}

main().catch((error) => {
  byId("waiting").textContent = `This page cannot be shown: ${error.message}. It needs a browser of 2023 or later.`;
});
