// Elements. In: a tag, properties, children. Out: the element; strings among the children become text nodes.

/** The element with this id. */
export const at = (id) => document.getElementById(id);

/** A new element. */
export function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children.filter((child) => child !== ""));
  return made;
}

/** An icon of the sprite in index.html. */
export function icon(name) {
  const space = "http://www.w3.org/2000/svg";
  const drawing = document.createElementNS(space, "svg");
  drawing.setAttribute("class", "i");
  drawing.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(space, "use");
  use.setAttribute("href", `#${name}`);
  drawing.append(use);
  return drawing;
}

/** A button with an icon (may be "") and a label, which is text or an element. */
export function button(className, iconName, label, press) {
  const made = element("button", { type: "button", className }, iconName ? icon(iconName) : "", label);
  made.addEventListener("click", press);
  return made;
}
