// Text of people and models, as text. In: what was said so far. Out: paragraphs, code blocks and inline code, made of
// text nodes alone: whatever a model writes, nothing of it becomes markup.

import { button, element } from "./dom.js";

/** Shows `text` in `place`. Called again with more of the same text, it changes only what grew. */
export function show(place, text) {
  const blocks = split(text);
  const had = place.children.length;
  blocks.forEach((block, index) => {
    const old = place.children[index];
    // Only the last block can have grown, and only what was the last can have become something else.
    if (old && index < had - 1) return;
    if (old && old.dataset.kind === block.kind) return fill(old, block);
    const made = make(block);
    if (old) old.replaceWith(made);
    else place.append(made);
  });
  while (place.children.length > blocks.length) place.lastChild.remove();
}

/** Paragraphs, and the code between fences. A fence that is not closed yet runs to the end. */
function split(text) {
  const blocks = [];
  let lines = [];
  let code = null;
  const flush = () => {
    const joined = lines.join("\n");
    if (code !== null) blocks.push({ kind: "code", text: joined, language: code });
    else if (joined.trim()) blocks.push({ kind: "text", text: joined.replace(/^\n+|\s+$/g, "") });
    lines = [];
  };
  for (const line of text.split("\n")) {
    const fence = /^\s{0,3}```\s*([\w+#.-]*)\s*$/.exec(line);
    if (!fence) {
      lines.push(line);
      continue;
    }
    flush();
    code = code === null ? fence[1] : null;
  }
  flush();
  return blocks;
}

function make(block) {
  const made = block.kind === "code" ? codeBlock(block) : element("p");
  made.dataset.kind = block.kind;
  return fill(made, block);
}

function fill(place, block) {
  if (block.kind === "code") place.querySelector("code").textContent = block.text;
  else place.replaceChildren(...inline(block.text));
  return place;
}

/** Text with `code` in it. */
function inline(text) {
  return text.split(/(`[^`\n]+`)/).filter(Boolean).map((part) =>
    part.length > 2 && part.startsWith("`") && part.endsWith("`")
      ? element("code", { textContent: part.slice(1, -1) })
      : document.createTextNode(part));
}

/** Code with its language and a button that copies it. */
export function codeBlock({ language, text = "" }) {
  const code = element("code", { textContent: text });
  const top = element("div", { className: "block-top" }, element("span", { textContent: language || "code" }));
  top.append(copyButton(() => code.textContent, "Copy the code"));
  const scrolls = element("pre", { tabIndex: 0, role: "region", ariaLabel: language ? `Code, ${language}` : "Code" }, code);
  return element("div", { className: "block" }, top, scrolls);
}

/** A button that copies; nothing where the browser lets no page copy (plain http to another host). */
export function copyButton(text, name) {
  if (!navigator.clipboard) return "";
  const label = element("span", { textContent: "Copy" });
  const made = button("copy", "i-copy", label, async () => {
    try {
      await navigator.clipboard.writeText(text());
      done("i-check", "Copied");
    } catch {
      done("i-alert", "Not copied");
    }
  });
  made.ariaLabel = name;
  const done = (icon, word) => {
    made.querySelector("use").setAttribute("href", `#${icon}`);
    label.textContent = word;
    setTimeout(() => {
      made.querySelector("use").setAttribute("href", "#i-copy");
      label.textContent = "Copy";
    }, 2000);
  };
  return made;
}
