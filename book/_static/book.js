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

// An equation wider than the page scrolls in its box; the keyboard must be able to reach it.
window.addEventListener("load", async () => {
  await window.MathJax?.startup?.promise;
  const reach = () => {
    for (const box of document.querySelectorAll("article mjx-container, article div.math")) {
      const scrolls = box.scrollWidth > box.clientWidth + 1 && getComputedStyle(box).overflowX === "auto";
      if (scrolls) box.tabIndex = 0;
      else box.removeAttribute("tabindex");
    }
  };
  reach();
  window.addEventListener("resize", reach);
});

// A page without formulas does not load MathJax; previews of links ask it to typeset all the same.
window.addEventListener("load", () => {
  window.MathJax ??= { typesetPromise: () => Promise.resolve() };
});
