// Text of people and models on the page. In: the blocks of what was said so far. Out: elements, of which only those change
// whose part of the text has.

import { refill } from "./code.js";
import { make } from "./markdown.js";

/** What each element was made of. */
const shown = new WeakMap();

/** Shows blocks in `place`: called again with more of the same text, it leaves alone what has not grown. */
export function show(place, blocks) {
  blocks.forEach((block, index) => {
    const old = place.children[index];
    const before = old && shown.get(old);
    if (before?.source === block.source) return;
    // In place, so that it stays where it was scrolled to.
    const stays = before?.kind === "code" && block.kind === "code" && before.language === block.language;
    const now = stays ? refill(old, block) : make(block);
    shown.set(now, block);
    if (!old) place.append(now);
    else if (!stays) old.replaceWith(now);
  });
  while (place.children.length > blocks.length) place.lastChild.remove();
}
