// Buttons that copy. In: a function that gives the text, a name. Out: the button, which says how it went.

import { button, element } from "./dom.js";

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
