// Code on the page. In: a text and the name of its language. Out: an element that shows it, with what it is made of told
// apart: comments, strings, numbers and words of the language. It knows no grammar; what it cannot tell stays as it is.

import { copyButton } from "./copy.js";
import { element } from "./dom.js";

/** Longer code is shown without colours: it is coloured anew with each piece that comes. */
const COLOURED_MAX = 20_000;
const STRING = String.raw`"(?:\\.|[^"\\\n])*"`;
const QUOTED = String.raw`'(?:\\.|[^'\\\n])*'`;
const TEMPLATE = String.raw`\x60(?:\\.|[^\x60\\])*\x60`;
const NUMBER = String.raw`\b(?:0[xob][\da-f_]+|\d[\d_]*(?:\.\d+)?(?:e[+-]?\d+)?)\b`;
const SLASHES = String.raw`\/\/.*|\/\*[^]*?(?:\*\/|$)`;
const HASH = String.raw`(?<![\w$&"'{])#.*`;

/** How comments and strings are written, by what languages are called. */
const FAMILIES = [
  [/^(rs|rust|c|h|cpp|c\+\+|cs|csharp|java|kt|kotlin|scala|swift|dart|zig)$/, SLASHES, [STRING, String.raw`'(?:\\.[^'\n]{0,8}|[^'\\\n])'`]],
  [/^(go|golang|js|mjs|jsx|javascript|ts|tsx|typescript|css|scss|php|proto|json5?|jsonc)$/, SLASHES, [STRING, QUOTED, TEMPLATE]],
  [/^(py|python)$/, HASH, [`"""[^]*?(?:"""|$)`, STRING, QUOTED]],
  [/^(sh|bash|zsh|shell|console|ya?ml|toml|ini|conf|rb|ruby|r|perl|pl|docker(file)?|make(file)?|nix|tf|hcl|elixir)$/, HASH, [STRING, QUOTED]],
  [/^(sql|lua|hs|haskell)$/, "--.*", [STRING, QUOTED]],
  [/^(html|xml|svg)$/, "<!--[^]*?(?:-->|$)", [STRING, QUOTED]],
];
/** What these say between their tags is prose. */
const MARKUP = /^(html|xml|svg)$/i;
const WORDS = new Set(`abstract as async await bool boolean break case catch char class const continue crate def default defer
del do double elif else enum except export extends extern false final finally float fn for foreach from func function global
go if impl implements import in include int interface is lambda let long loop match mod module move mut namespace new nil none
None not null nullptr or and package pass private protected pub public raise readonly ref return self Self short signed sizeof
static str string struct super switch template then this throw throws trait true True False try type typedef typeof undefined
union unsafe unsigned use using val var virtual void volatile when where while with yield fi done esac echo exit select SELECT
FROM WHERE INSERT INTO VALUES UPDATE SET DELETE JOIN LEFT RIGHT INNER OUTER ON GROUP BY ORDER HAVING LIMIT CREATE TABLE INDEX
PRIMARY KEY NOT NULL AND OR AS RUN COPY ENV WORKDIR ENTRYPOINT CMD EXPOSE USER ARG`.split(/\s+/));

/** Code with its language and a button that copies it. */
export function codeBlock({ language, text = "" }) {
  const code = element("code", {}, ...coloured(language, text));
  const top = element("div", { className: "block-top" }, element("span", { textContent: language || "code" }));
  top.append(copyButton(() => code.textContent, "Copy the code"));
  const scrolls = element("pre", { tabIndex: 0, role: "region", ariaLabel: language ? `Code, ${language}` : "Code" }, code);
  return element("div", { className: "block" }, top, scrolls);
}

/** The same element with more of the code. */
export function refill(made, { language, text }) {
  made.querySelector("code").replaceChildren(...coloured(language, text));
  return made;
}

function coloured(language, text) {
  const family = FAMILIES.find(([names]) => names.test(language.toLowerCase()));
  if (!family || text.length > COLOURED_MAX) return [text];
  const [, comment, strings] = family;
  const pattern = new RegExp(`(?<comment>${comment})|(?<string>${strings.join("|")})|(?<number>${NUMBER})|(?<word>[A-Za-z_]\\w*)`, "gi");
  const parts = [];
  let done = 0;
  for (const found of text.matchAll(pattern)) {
    const { comment: said, string, number, word } = found.groups;
    const kind = said ? "comment" : string ? "string" : number ? "number" : WORDS.has(word) && !MARKUP.test(language) ? "word" : null;
    if (!kind) continue;
    parts.push(text.slice(done, found.index), element("span", { className: `is-${kind}`, textContent: found[0] }));
    done = found.index + found[0].length;
  }
  parts.push(text.slice(done));
  return parts;
}
