// Scripts of the book. The ledger of claims: each heading sorts, a field filters;
// without script it stays a plain table. On every page: cells of wide tables know their
// columns, what a phone scrolls by touch can be scrolled with the keys, and search shows
// no TeX.
(() => {
  "use strict";

  const RAISED = "⁰¹²³⁴⁵⁶⁷⁸⁹";

  // "3.1 × 10⁻¹⁵" as a number; words stay words.
  function value(text) {
    const plain = text
      .replace(/ × 10/, "e")
      .replace("⁻", "-")
      .replace(/[⁰¹²³⁴⁵⁶⁷⁸⁹]/g, (digit) => RAISED.indexOf(digit));
    const number = Number(plain);
    return plain.trim() === "" || Number.isNaN(number) ? text : number;
  }

  function compare(a, b) {
    if (typeof a === "number" && typeof b === "number") return a - b;
    return String(a).localeCompare(String(b), "en", { numeric: true });
  }

  function sortable(table) {
    const body = table.tBodies[0];
    const heads = [...table.tHead.rows[0].cells];
    // The last column holds links with one and the same word.
    heads.slice(0, -1).forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = head.textContent.trim();
      head.replaceChildren(button);
      button.addEventListener("click", () => {
        const up = head.getAttribute("aria-sort") !== "ascending";
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", up ? "ascending" : "descending");
        const key = (row) => value(row.cells[column].textContent.trim());
        const rows = [...body.rows].sort((a, b) => compare(key(a), key(b)));
        body.append(...(up ? rows : rows.reverse()));
      });
    });
  }

  function filterable(table) {
    const tools = document.createElement("div");
    tools.className = "ledger-tools";
    tools.innerHTML =
      '<label for="ledger-filter">Show only</label>' +
      '<input id="ledger-filter" type="search" placeholder="a word or a label" autocomplete="off">' +
      '<span role="status"></span>';
    const box = table.closest(".pst-scrollable-table-container") ?? table;
    box.before(tools);
    const [field, status] = [tools.querySelector("input"), tools.querySelector("span")];
    const rows = [...table.tBodies[0].rows];
    field.addEventListener("input", () => {
      const words = field.value.toLowerCase().split(/\s+/);
      for (const row of rows) {
        const text = row.textContent.toLowerCase();
        row.hidden = !words.every((word) => text.includes(word));
      }
      const shown = rows.filter((row) => !row.hidden).length;
      status.textContent = `${shown} of ${rows.length} claims`;
    });
  }

  function scrollableByKey() {
    const boxes = ".pst-scrollable-table-container, .katex-display, pre";
    for (const box of document.querySelectorAll(boxes)) {
      if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
    }
  }

  // The style sheet makes cards of these rows on a phone.
  function nameCells(table) {
    const names = [...table.tHead.rows[0].cells].map((head) => {
      const copy = head.cloneNode(true);
      copy.querySelectorAll(".katex-mathml").forEach((node) => node.remove());
      return copy.textContent.trim();
    });
    for (const row of table.tBodies[0].rows) {
      [...row.cells].forEach((cell, column) => {
        cell.dataset.column = names[column];
        cell.classList.toggle("nothing", /^[\s–]*$/.test(cell.textContent));
      });
    }
    table.classList.add("rows");
  }

  for (const table of document.querySelectorAll("article table.table")) {
    const plain = !table.matches(".cards, .claims-ledger") && table.tHead;
    if (plain && table.tHead.rows[0].cells.length > 2) nameCells(table);
  }
  document.querySelectorAll("table.claims-ledger").forEach((table) => {
    sortable(table);
    filterable(table);
  });
  scrollableByKey();
  window.addEventListener("resize", scrollableByKey);
  document.fonts?.ready.then(scrollableByKey);
})();

// The search shows pieces of pages as plain text. KaTeX leaves each formula three
// times in that text (for the eye, as MathML, as TeX); one is enough.
if (typeof Search !== "undefined") {
  const whole = Search.htmlToText;
  Search.htmlToText = (html, anchor) => {
    const page = new DOMParser().parseFromString(html, "text/html");
    page
      .querySelectorAll(".katex-mathml, .statement-footer, .headerlink")
      .forEach((node) => node.remove());
    return whole(page.documentElement.outerHTML, anchor);
  };
}
