// Markdown as models write it. In: a text, whole or as far as it has come. Out: its blocks, and elements for them that are
// made of text nodes alone: whatever a model writes, HTML of it stays text, pictures are not fetched, and a link shows
// where it leads.

import { codeBlock } from "./code.js";
import { element } from "./dom.js";

const FENCE = /^(\s*)(`{3,}|~{3,})\s*([\w+#.-]*)[^`]*$/;
const HEADING = /^\s{0,3}(#{1,6})\s+(\S.*)$/;
const RULE = /^\s{0,3}([-*_])(?:\s*\1){2,}\s*$/;
const ITEM = /^(\s*)([-*+]|\d{1,9}[.)])\s+(.*)$/;
const QUOTE = /^\s{0,3}>\s?(.*)$/;
const COLUMNS = /^\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$/;
/** Quotes within quotes are shown so deep, and items so far indented. */
const DEEPEST = 3;
const INDENTED = 12;

/** What may stand in a line: code, strong and emphasised text, addresses. Nothing of it looks further than a paragraph. */
const INLINE = [
  /``(?<code2>[^\n]{1,2000}?)``|`(?<code>[^`\n]{1,2000})`/,
  /\*\*(?=\S)(?<strong>(?:[^*]|\*(?!\*)){0,999}[^\s*])\*\*|\*(?=[^\s*])(?<em>[^*\n]{0,999}[^\s*])\*(?!\*)/,
  /~~(?=\S)(?<del>[^~\n]{1,999})~~/,
  /!?\[(?<label>[^\]\n]{1,999})\]\((?<target>https?:\/\/[^\s()<>]{1,1999})\)|(?<url>https?:\/\/[^\s<>"'`]{0,1999}[^\s<>"'`.,;:!?)\]*])/,
].map((part) => part.source).join("|");

/** The blocks of what a model says. What stands in `source` is all that a block is made of. */
export function blocks(text) {
  return split(text, (lines, out) => paragraphs(lines, out));
}

/** The blocks of what a person writes: code between fences is code, and all else is as it was written. */
export function literal(text) {
  return split(text, (lines, out) => {
    const joined = lines.join("\n").replace(/^\n+|\s+$/g, "");
    if (joined) out.push({ kind: "literal", text: joined });
  });
}

/** Code between fences, and the rest by `rest`. A fence that is not closed yet runs to the end. */
function split(text, rest) {
  const out = [];
  let lines = [];
  let fence = null;
  for (const line of text.split("\n")) {
    const found = FENCE.exec(line);
    if (fence) {
      const closes = found && found[2].startsWith(fence.mark) && !found[3];
      if (!closes) fence.lines.push(line.startsWith(fence.indent) ? line.slice(fence.indent.length) : line);
      else {
        out.push({ kind: "code", language: fence.language, text: fence.lines.join("\n") });
        fence = null;
      }
    } else if (found) {
      rest(lines, out);
      lines = [];
      fence = { indent: found[1], mark: found[2], language: found[3], lines: [] };
    } else lines.push(line);
  }
  if (fence) out.push({ kind: "code", language: fence.language, text: fence.lines.join("\n") });
  else rest(lines, out);
  for (const block of out) block.source = JSON.stringify(block);
  return out;
}

/** Everything but code. */
function paragraphs(lines, out) {
  // A heading is one deeper than the one before at most, whatever it was written as: those who listen go by levels.
  let level = out.findLast((block) => block.kind === "heading")?.level ?? 0;
  for (let at = 0; at < lines.length;) {
    const line = lines[at];
    const heading = HEADING.exec(line);
    if (!line.trim()) at += 1;
    else if (heading) {
      level = Math.min(heading[1].length, level + 1, 4);
      out.push({ kind: "heading", level, text: heading[2].replace(/\s#+\s*$/, "") });
      at += 1;
    } else if (RULE.test(line)) {
      out.push({ kind: "rule" });
      at += 1;
    } else if (line.includes("|") && COLUMNS.test(lines[at + 1] ?? "") && (lines[at + 1] ?? "").includes("|")) {
      const end = until(lines, at + 2, (next) => !next.includes("|"));
      out.push({ kind: "table", head: cells(line), rows: lines.slice(at + 2, end).map(cells) });
      at = end;
    } else if (ITEM.test(line)) {
      const end = until(lines, at + 1, (next, after = "") => (ITEM.test(next) ? isOther(line, next)
        : next.trim() ? begins(next)
        : !/^\s{2,}\S/.test(after) && (!ITEM.test(after) || isOther(line, after))));
      out.push({ kind: "list", items: items(lines.slice(at, end)) });
      at = end;
    } else if (QUOTE.test(line)) {
      const end = until(lines, at + 1, (next) => !QUOTE.test(next));
      out.push({ kind: "quote", text: lines.slice(at, end).map((quoted) => QUOTE.exec(quoted)[1]).join("\n") });
      at = end;
    } else {
      const end = until(lines, at + 1, (next, after) =>
        !next.trim() || begins(next) || ITEM.test(next) || (next.includes("|") && COLUMNS.test(after ?? "") && (after ?? "").includes("|")));
      out.push({ kind: "text", text: lines.slice(at, end).join("\n") });
      at = end;
    }
  }
}

/** Where lines from `at` on end that belong together. */
function until(lines, at, ends) {
  while (at < lines.length && !ends(lines[at], lines[at + 1])) at += 1;
  return at;
}

/** Whether an item is not of the list that begins with the first one: numbers follow bullets, or the other way round. */
function isOther(first, next) {
  const [, indent, mark] = ITEM.exec(first);
  const [, deeper, other] = ITEM.exec(next);
  return deeper.length <= indent.length && /\d/.test(mark) !== /\d/.test(other);
}

const begins = (line) => HEADING.test(line) || RULE.test(line) || QUOTE.test(line);

const cells = (line) => line.trim().replace(/^\||\|$/g, "").split("|").map((cell) => cell.trim());

/** Items with their depth; a line that is none goes on with the one before. */
function items(lines) {
  const found = [];
  for (const line of lines) {
    const item = ITEM.exec(line);
    if (item) found.push({ indent: Math.min(item[1].replace(/\t/g, "    ").length, INDENTED), number: Number.parseInt(item[2], 10), text: item[3] });
    else if (line.trim()) found[found.length - 1].text += `\n${line.trim()}`;
  }
  return found;
}

/** The element of a block. */
export function make(block, depth = 0) {
  switch (block.kind) {
    case "code":
      return codeBlock(block);
    case "heading":
      return element(`h${block.level + 2}`, {}, ...inline(block.text));
    case "rule":
      return element("hr");
    case "list":
      return list(block.items);
    case "quote":
      return element("blockquote", {}, ...(depth < DEEPEST ? blocks(block.text).map((one) => make(one, depth + 1)) : [block.text]));
    case "table":
      return table(block);
    case "literal":
      return element("p", { className: "literal" }, ...inline(block.text, new RegExp("`(?<code>[^`\\n]{1,2000})`", "g")));
    default:
      return element("p", {}, ...inline(block.text));
  }
}

function list(found) {
  const [first] = found;
  const made = Number.isNaN(first.number) ? element("ul") : element("ol", { start: first.number });
  for (let at = 0; at < found.length;) {
    const deeper = at + 1 + found.slice(at + 1).findIndex((next) => next.indent <= first.indent + 1);
    const end = deeper === at ? found.length : deeper;
    const item = element("li", {}, ...inline(found[at].text));
    if (end > at + 1) item.append(list(found.slice(at + 1, end)));
    made.append(item);
    at = end;
  }
  return made;
}

function table({ head, rows }) {
  const row = (tag, values) => element("tr", {}, ...head.map((_, at) => element(tag, {}, ...inline(values[at] ?? ""))));
  const made = element("table", {}, element("thead", {}, row("th", head)), element("tbody", {}, ...rows.map((values) => row("td", values))));
  return element("div", { className: "table", tabIndex: 0, role: "region", ariaLabel: "Table" }, made);
}

/** Text with what may stand in a line. */
function inline(text, pattern = new RegExp(INLINE, "g")) {
  const parts = [];
  let done = 0;
  for (const found of text.matchAll(pattern)) {
    parts.push(text.slice(done, found.index), ...marked(found.groups));
    done = found.index + found[0].length;
  }
  parts.push(text.slice(done));
  return parts.filter((part) => part !== "");
}

function marked({ code, code2, strong, em, del, label, target, url }) {
  if (code2 ?? code) return [element("code", { textContent: code2 ?? code })];
  if (strong) return [element("strong", {}, ...inline(strong))];
  if (em) return [element("em", {}, ...inline(em))];
  if (del) return [element("del", {}, ...inline(del))];
  if (url) return [link(url)];
  return label === target ? [link(target)] : [label, " (", link(target), ")"];
}

const link = (url) => element("a", { href: url, target: "_blank", rel: "noopener noreferrer nofollow", textContent: url });
