// The samples as they were embedded: columns, of which a row is a sample, and what is asked of them.

const VERDICTS = ["right", "wrong", "malformed", "truncated", "failed"]; // bit i of a sample's flags

// An element's content, which is then taken out of the document: it may be of many megabytes.
async function unpack(element) {
  const packed = atob(element.textContent);
  element.remove();
  const bytes = new Uint8Array(packed.length); // filled by hand: Uint8Array.from takes forty times as long
  for (let i = 0; i < packed.length; i++) bytes[i] = packed.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

class Store {
  constructor(content) {
    this.sets = content.sets;
    this.tasks = content.tasks;
    this.samples = content.samples;
    this.compares = content.together; // whether the sets are models, to be read side by side
    this.completions = null; // they come after all else
    this.size = content.samples.task.length;
  }

  is(row, verdict) {
    return Boolean(this.samples.flags[row] & (1 << VERDICTS.indexOf(verdict)));
  }

  verdict(row) {
    if (this.is(row, "failed")) return "failed";
    return this.is(row, "right") ? "right" : "wrong";
  }

  ofTask(row, field) {
    return this.tasks[field][this.samples.task[row]];
  }

  // What a link says: it means the same sample when the page has been written anew.
  name(row) {
    const { set, sample } = this.samples;
    return [this.sets[set[row]], this.ofTask(row, "key"), sample[row]].map(encodeURIComponent).join("/");
  }

  named(name) {
    for (let row = 0; row < this.size; row++) if (this.name(row) === name) return row;
    return -1;
  }

  // The task's samples, those of one number of all sets beside one another.
  together(row) {
    const { task, sample, set } = this.samples;
    const rows = [];
    for (let other = 0; other < this.size; other++) if (task[other] === task[row]) rows.push(other);
    return rows.sort((a, b) => sample[a] - sample[b] || set[a] - set[b]);
  }

  // Rows in their order. wanted: {verdict, set, env, task, text}; null or "" where anything will do.
  select(wanted) {
    const { flags, set, task } = this.samples;
    const bit = wanted.verdict === null ? 0 : 1 << VERDICTS.indexOf(wanted.verdict);
    const matches = wanted.text ? this.matcher(wanted.text) : null;
    const rows = [];
    for (let row = 0; row < this.size; row++) {
      if (bit && !(flags[row] & bit)) continue;
      if (wanted.set !== null && set[row] !== wanted.set) continue;
      if (wanted.task !== null && task[row] !== wanted.task) continue;
      if (wanted.env !== null && this.tasks.env[task[row]] !== wanted.env) continue;
      if (matches === null || matches(row)) rows.push(row);
    }
    return rows;
  }

  // Whether a row has a text, in upper or lower case; a task's own texts are looked at once.
  matcher(text) {
    const pattern = new RegExp(text.replace(/[\\^$.*+?()[\]{}|]/g, "\\$&"), "i");
    const has = (value) => value !== null && pattern.test(value);
    const { key, question, right_answer: right } = this.tasks;
    const asked = question.map((value, i) => has(value) || has(right[i]) || key[i] === text);
    const { task, answer, failure, error } = this.samples;
    const said = this.completions || [];
    return (row) =>
      asked[task[row]] || has(said[row] ?? null) || has(answer[row]) || has(failure[row]) || has(error[row]);
  }

  // A sample with its task, as one object: what is exported.
  record(row) {
    const record = { set: this.sets[this.samples.set[row]], correct: this.is(row, "right") };
    for (const [name, values] of Object.entries(this.tasks)) record[name === "key" ? "task" : name] = values[this.samples.task[row]];
    for (const [name, values] of Object.entries(this.samples)) {
      if (!["task", "set", "flags"].includes(name)) record[name] = values[row];
    }
    record.completion = this.completions[row];
    record.verdicts = VERDICTS.filter((verdict) => this.is(row, verdict));
    return record;
  }
}
