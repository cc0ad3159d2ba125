// When what has the focus is taken away, a keyboard or a screen reader would begin again at the top of the page.

const TAKES_FOCUS = "a[href], button, input, select, textarea, summary, [tabindex='0']";
const PAGE = "#main, #main > div"; // what goes from there is a page, or a large part of it

/** Gives the focus of what is removed below `root` to what stands nearest to where it was. */
export function keepFocus(root) {
  let last = null;
  root.addEventListener("focusin", ({ target }) => (last = target));
  root.addEventListener("focusout", ({ target }) => queueMicrotask(() => target === last && target.isConnected && (last = null)));
  new MutationObserver((records) => {
    if (!last || last.isConnected || document.activeElement !== document.body) return;
    const place = placeOf(last, records);
    last = null;
    const next = (place && nearest(place)) ?? document.querySelector("h1");
    next?.focus({ preventScroll: true });
  }).observe(root, { childList: true, subtree: true });
}

/** The removal of an element, or of the outermost of those around it that went as well. */
function placeOf(element, records) {
  let [place, gone] = [null, element];
  for (const record of records) {
    if ([...record.removedNodes].some((node) => node.contains(gone))) [place, gone] = [record, record.target];
  }
  return place;
}

/** Behind the place, else before it, else around it; null where that would be the whole page. */
function nearest({ target, nextSibling, previousSibling }) {
  if (target.matches(PAGE)) return null;
  for (let node = nextSibling; node; node = node.nextSibling) {
    const [found] = focusable(node);
    if (found) return found;
  }
  for (let node = previousSibling; node; node = node.previousSibling) {
    const found = focusable(node).at(node.localName === "li" ? 0 : -1); // of a row the first: its last often removes it
    if (found) return found;
  }
  return nearest({ target: target.parentElement, nextSibling: target.nextSibling, previousSibling: target.previousSibling });
}

const focusable = (node) => (node instanceof Element ? [node, ...node.querySelectorAll("*")].filter((one) => one.matches(TAKES_FOCUS) && one.checkVisibility()) : []);
