// Text of models, as text: nothing here makes HTML of a string.

const KEPT = "\n\t\u200c\u200d"; // the last two join letters, and the parts of emoji
const HIDDEN = /[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/gu;
const MOST_FOLDS = 100; // of one text; what comes after them is shown as it stands

// Control characters, bidi overrides and half surrogate pairs as they are written in code, such as \x1b.
function visible(text) {
  return text.replace(HIDDEN, (character) => {
    if (KEPT.includes(character)) return character;
    const code = character.codePointAt(0);
    const digits = code.toString(16);
    if (code < 0x100) return `\\x${digits.padStart(2, "0")}`;
    return code < 0x10000 ? `\\u${digits.padStart(4, "0")}` : `\\u{${digits}}`;
  });
}

// An element with a class and children; strings among them become text.
function make(tag, name, ...children) {
  const element = document.createElement(tag);
  if (name) element.className = name;
  for (const child of children) {
    if (child !== null && child !== undefined) element.append(child instanceof Node ? child : visible(String(child)));
  }
  return element;
}

function shorten(text, length) {
  const line = text.slice(0, 4 * length).replace(/\s+/g, " ").trim();
  return line.length > length ? `${line.slice(0, length - 1)}…` : line;
}

// What stands between <think> and </think> folded; unfolded where it never ends, since there is nothing else.
function appendFolded(parent, text) {
  let at = 0;
  for (let folds = 0; folds < MOST_FOLDS; folds++) {
    const start = text.indexOf("<think>", at);
    if (start < 0) break;
    const end = text.indexOf("</think>", start);
    const stop = end < 0 ? text.length : end;
    if (start > at) parent.append(make("pre", "", text.slice(at, start)));
    parent.append(fold(text.slice(start + "<think>".length, stop), end < 0));
    at = end < 0 ? text.length : end + "</think>".length;
  }
  if (at < text.length) parent.append(make("pre", "", text.slice(at).replace(/^\n+/, "")));
}

function fold(text, unclosed) {
  const size = `${text.length.toLocaleString("en")} characters`;
  const title = unclosed ? `thinking, never ended (${size})` : `thinking (${size})`;
  const details = make("details", "think", make("summary", "", title), make("pre", "", text));
  details.open = unclosed;
  return details;
}
