// On the search page, besides Sphinx's own code: html_search_scorer puts it there. finding.py writes what it reads.

// Excerpts are fetched page by page, which a browser refuses from disk.
DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = location.protocol !== "file:";

Object.assign(Documentation.TRANSLATIONS, {
  "Search Results": "Search",
  "Search finished, found ${resultCount} page(s) matching the search query.": "Places found: ${resultCount}.",
  "Your search did not match any documents. Please make sure that all words are spelled correctly and that you've selected enough categories.":
    "Nothing is found by these words. Look at their spelling, or try another word of the same meaning.",
});

// First what has the words in its title, and among pages those that say them most; last the pages of the library.
const TITLE = 12, TERM = 30, MOST = 10, LIBRARY = 1000;
let code = false;  // whether a name of the library is looked for

Scorer.score = ([page, , anchor, description, score]) => {
  if (/^book\/api/.test(page)) return code ? score : score - LIBRARY;
  if (anchor.startsWith("#term-")) return score + TERM;
  return anchor && description === null ? score + TITLE : score;
};

const sphinxTerms = Search.performTermsSearch;
Search.performTermsSearch = (words, excluded) => {
  const {counts, docnames} = Search._index;
  const share = (word, place) => {
    const found = Object.hasOwn(counts, word) ? counts[word] : {};
    return (found[place] ?? 0) / Math.max(1, ...Object.values(found));
  };
  return sphinxTerms(words, excluded).map(([page, title, anchor, description, score, file]) => {
    const shares = [...words].map((word) => share(word, docnames.indexOf(page)));
    const mean = shares.reduce((sum, one) => sum + one, 0) / shares.length;
    return [page, title, anchor, description, score + MOST * mean, file];
  });
};

// Every name of the library begins with the package's, which therefore is none to be found by.
const sphinxObjects = Search.performObjectSearch;
Search.performObjectSearch = (word, words) =>
  sphinxObjects(word, words).filter(([, name]) => name.replace(/^superposition\./, "").toLowerCase().includes(word));

// "Fig. 4.2" is found under "Figure 4.2", "(4.2)" and "eq. (4.2)" under "Equation 4.2".
const sphinxQuery = Search.query;
Search.query = (query) => {
  code = /\w[_.][a-z_]/i.test(query);
  const plain = query.replace(/[()]/g, " ").replace(/\s+/g, " ").trim();
  const number = /^\d+\.\d+$/.test(plain) ? `equation ${plain}` : plain;
  sphinxQuery(number.replace(/\bfigs?\b\.?/gi, "figure").replace(/\beqs?\b\.?/gi, "equation"));
};

// Pages are found by the stem of a word, "forecast" for "forecasts", and marked by it, too, if it is no mere syllable.
// One pass of Sphinx's over a page leaves out the last places of a long paragraph: whole words are marked twice.
// Only a page that is opened from the results is marked.
const MARKS = "sphinx_highlight_terms";
let wanted = "";
for (const event of ["click", "auxclick"]) {
  document.addEventListener(event, ({target}) => {
    if (target.closest?.("#search-results a")) localStorage.setItem(MARKS, wanted);
  });
}

const sphinxParse = Search._parseQuery;
Search._parseQuery = (query) => {
  const [asked, stems, excluded, marked, objects] = sphinxParse(query);
  const words = [...marked].filter((word) => word.length > 2);
  const parts = [...stems].filter((stem) => stem.length > 3 && words.some((word) => word.startsWith(stem)));
  wanted = [...words, ...words, ...parts].join(" ");
  localStorage.removeItem(MARKS);
  return [asked, stems, excluded, new Set([...words, ...parts]), objects];
};

const sphinxSearch = Search.performSearch;
Search.performSearch = (query) => {
  sphinxSearch(query);
  Search.status.setAttribute("role", "status");  // a listener hears how many were found
};

// The text of a page, or of what an anchor names, as far as it can be read in a line.
const UNREADABLE = "script, style, svg, button, summary, h1, .headerlink, .admonition-title, .cell_input, "
  + ".highlight, .turn, .sig .property, details.hide, div.math, .in-the-library";

const about = (place) => {
  if (place.tagName === "DT") return place.nextElementSibling ?? place;
  if (place.matches("figure, table")) return place.querySelector(".caption-text") ?? place;
  if (!place.matches("div.math")) return place;
  for (let at = place; at; at = at.previousElementSibling) if (at.tagName === "P") return at;
  return place.parentElement;
};

Search.htmlToText = (html, anchor) => {
  const page = new DOMParser().parseFromString(html, "text/html");
  const found = anchor && page.getElementById(decodeURIComponent(anchor.slice(1)));
  const text = found ? about(found) : page.querySelector("article.bd-article");
  text.querySelectorAll(UNREADABLE + (found ? ", h2, h3" : "")).forEach((part) => part.remove());
  text.querySelectorAll(".math").forEach((formula) => {
    const tex = formula.textContent.replace(/\\[()]/g, "").trim();
    formula.textContent = /[\\^_{}]/.test(tex) ? "…" : tex;
  });
  text.querySelectorAll("td, th, p, li, dt, dd, details, figcaption, h1, h2, h3").forEach((block) => block.append(" "));
  return text.textContent.replace(/\s+/g, " ").replace(/…(?:[ ,.]*…)+/g, "…").trim();
};

// The passage of a page with most of the words, cut between words; what an anchor names is shown from its beginning.
const BEFORE = 100, LENGTH = 240;

Search.makeSearchSummary = (html, words, anchor) => {
  const text = Search.htmlToText(html, anchor);
  const places = (anchor ? [] : [...words]).flatMap((word) =>
    [...text.matchAll(new RegExp(`(?<![\\p{L}\\p{N}])${_escapeRegExp(word)}`, "giu"))].map(({index}) => ({word, index})));
  const near = (start) => new Set(places.filter(({index}) => Math.abs(index - start) < BEFORE).map(({word}) => word)).size;
  const best = places.reduce((first, {index}) => (first < 0 || near(index) > near(first) ? index : first), -1);
  const from = best > BEFORE ? text.indexOf(" ", best - BEFORE) + 1 : 0;
  const to = from + LENGTH < text.length ? text.lastIndexOf(" ", from + LENGTH) : text.length;
  const summary = document.createElement("p");
  summary.className = "context";
  summary.textContent = (from ? "… " : "") + text.slice(from, to) + (to < text.length ? " …" : "");
  return summary;
};
