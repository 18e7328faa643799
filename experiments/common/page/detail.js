// The pane beside the list: one sample, or all samples of a task side by side.

const MARKS = { right: "✓", wrong: "✗", failed: "!" };
const MOST_TOGETHER = 64; // samples shown side by side

class Detail {
  constructor(store, element, actions) {
    this.store = store;
    this.element = element;
    this.actions = actions; // {together(), onlyTask(task), open(row)}
  }

  show(row, together) {
    const rows = together ? this.store.together(row) : [row];
    const cards = rows.slice(0, MOST_TOGETHER).map((each) => this.card(each, each === row));
    const grid = make("div", rows.length > 1 ? "cards" : "", ...cards);
    if (this.store.compares && cards.length > 1) grid.style.setProperty("--columns", this.store.sets.length);
    const more = rows.length - cards.length;
    this.element.replaceChildren(
      this.heading(row, together),
      this.task(row),
      grid,
      ...(more > 0 ? [make("p", "quiet", `and ${more} more: see them by "only this task"`)] : []),
    );
    this.element.scrollTop = 0;
  }

  heading(row, together) {
    const count = this.store.together(row).length;
    const both = make("button", "", together ? "this sample alone (t)" : `all ${count} samples of the task (t)`);
    both.addEventListener("click", () => this.actions.together());
    const only = make("button", "", "only this task");
    only.addEventListener("click", () => this.actions.onlyTask(this.store.samples.task[row]));
    const link = make("a", "", "link to this sample");
    link.href = `#${this.store.name(row)}`;
    return make("p", "actions", count > 1 ? both : null, only, link);
  }

  task(row) {
    const of = (field) => this.store.ofTask(row, field);
    const parts = [make("p", "quiet", `${of("env")}, task ${of("key")}`)];
    if (of("system")) parts.push(folded("system message", of("system")));
    parts.push(make("pre", "question", of("question") || "(nothing was asked)"));
    if (of("prompt")) parts.push(folded("the prompt as it was sent", of("prompt")));
    return make("section", "task", ...parts);
  }

  card(row, chosen) {
    const { store } = this;
    const { error, sample, set } = store.samples;
    const verdict = store.verdict(row);
    const title = make("h3", verdict, `${MARKS[verdict]} ${this.words(row)}`);
    const place = make("p", "quiet", `${store.sets[set[row]]}, sample ${sample[row]}`);
    const card = make("section", chosen ? "card chosen" : "card", title, place, this.facts(row));
    if (error[row]) card.append(make("pre", "failed", error[row]));
    if (store.completions === null) card.append(make("p", "quiet", "Reading …"));
    else appendFolded(card, store.completions[row] || "");
    if (!chosen) card.addEventListener("dblclick", () => this.actions.open(row));
    return card;
  }

  words(row) {
    const others = ["malformed", "truncated"].filter((verdict) => this.store.is(row, verdict));
    const { failure } = this.store.samples;
    if (failure[row] && !others.includes(failure[row])) others.push(failure[row]);
    return [this.store.verdict(row), ...others].join(", ");
  }

  facts(row) {
    const all = this.store.samples;
    const facts = [
      ["answer", all.answer[row] === null ? "none" : all.answer[row]],
      ["right answer", this.store.ofTask(row, "right_answer")],
      ["reward", rewardOf(all.reward[row], all.rewards[row])],
      ["of which", all.reward_parts[row]],
      ["prompt tokens", all.prompt_tokens[row]],
      ["response tokens", all.response_tokens[row]],
      ["ended by", all.finish_reason[row]],
      ["seconds", rounded(all.seconds[row])],
    ].filter(([, value]) => value !== null && value !== "" && value !== "-");
    return make("dl", "", ...facts.flatMap(([name, value]) => [make("dt", "", name), make("dd", "", value)]));
  }
}

function folded(title, text) {
  return make("details", "", make("summary", "", title), make("pre", "", text));
}

// The sum, and what each turn paid where there were several.
function rewardOf(sum, parts) {
  const shown = rounded(sum);
  return parts && parts.length > 1 ? `${shown} = ${parts.map(rounded).join(" + ")}` : shown;
}
