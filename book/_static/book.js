// Paper is white: a page read in the dark is printed in the light scheme.
const paper = window.matchMedia("print");
let onScreen = null;
paper.addEventListener("change", () => {
  const page = document.documentElement;
  if (paper.matches) {
    onScreen = page.dataset.theme;
    page.dataset.theme = "light";
  } else if (onScreen) {
    page.dataset.theme = onScreen;
  }
});

// A formula wider than its column shrinks, down to SMALLEST of its size. What is wider still scrolls in its box, which
// shows that there is more (custom.css), and which the keyboard can reach.
const SMALLEST = 0.7;
window.addEventListener("load", async () => {
  await window.MathJax?.startup?.promise;
  const boxes = [...document.querySelectorAll("article mjx-container")].filter((box) => !box.closest("table"));
  const sizes = boxes.map((box) => parseFloat(box.style.fontSize) || 100);
  const widths = (box) => {  // of the column, and of the formula
    if (box.getAttribute("display")) return [box.clientWidth, box.scrollWidth];
    const column = box.closest("p, li, dd, figcaption, h1, h2, h3, div");
    return [column.clientWidth, box.querySelector("mjx-math").offsetWidth];
  };
  const ground = (box) => {  // the colour that the shadow of a box grows from
    let colour = "";
    for (let at = box.parentElement; at; at = at.parentElement) {
      colour = getComputedStyle(at).backgroundColor;
      if (!/^(transparent|rgba\(.*, 0\))$/.test(colour)) break;
    }
    return colour;
  };
  const each = (measure, write) => boxes.map(measure).forEach((found, i) => write(boxes[i], found, i));
  const fit = () => {
    boxes.forEach((box, i) => {
      box.classList.remove("scrolls");
      box.style.fontSize = `${sizes[i]}%`;
    });
    each(widths, (box, [column, formula], i) => {
      if (formula > column) box.style.fontSize = `${sizes[i] * Math.max(SMALLEST, (0.99 * column) / formula)}%`;
    });
    each((box) => [...widths(box), ground(box)], (box, [column, formula, colour]) => {
      const more = formula > column + 1;
      box.style.setProperty("--ground", colour);
      box.classList.toggle("scrolls", more);
      if (more) box.tabIndex = 0;
      else box.removeAttribute("tabindex");
    });
  };
  let width = 0;  // a fold that is closed has its width already
  new ResizeObserver(([{contentRect}]) => {
    if (contentRect.width !== width) fit();
    width = contentRect.width;
  }).observe(document.querySelector("article") ?? document.body);
  document.fonts.addEventListener("loadingdone", fit);
  new MutationObserver(fit).observe(document.documentElement, {attributeFilter: ["data-theme"]});
});

// A page without formulas does not load MathJax; previews of links ask it to typeset all the same.
window.addEventListener("load", () => {
  window.MathJax ??= { typesetPromise: () => Promise.resolve() };
});

// Whoever comes from a result of search sees the first of the marks, unless the result names a place.
window.addEventListener("load", () => setTimeout(() => {
  if (!location.hash) document.querySelector("article span.highlighted")?.scrollIntoView({ block: "center" });
}, 100));

// Escape closes the preview of a link. The link keeps the focus.
document.addEventListener("keydown", ({key}) => {
  if (key === "Escape") window.tippy?.hideAll();
});

// The button of a fold says what it folds: "Click to show Hint for Exercise 4.1". Its first words, which stand on it,
// come from its style, and whether it is open from its state; both are sphinx-togglebutton's.
window.addEventListener("load", () => {
  const exercises = [...document.querySelectorAll("article .exercise .caption-number")];
  for (const button of document.querySelectorAll("article .admonition-title > button.toggle-button")) {
    const title = button.parentElement;
    const own = title.textContent.replace(/\s+/g, " ").trim().replace(/^(Solution to \S+ [\d.]+) \(.*/, "$1");
    const before = (at) => at.compareDocumentPosition(title) & Node.DOCUMENT_POSITION_FOLLOWING;
    const exercise = exercises.findLast(before)?.textContent.trim();
    const name = document.createElement("span");
    name.className = "visually-hidden";
    name.textContent = own === "Hint" && exercise ? ` ${own} for ${exercise}` : ` ${own}`;
    button.removeAttribute("aria-label");
    button.append(name);
  }
});
