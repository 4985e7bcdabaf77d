"use strict";
(() => {
  const root = document.documentElement;
  const key = "trimtab-theme";
  const stored = () => {
    try { return localStorage.getItem(key); } catch { return null; }
  };
  const store = (value) => {
    try { localStorage.setItem(key, value); } catch { /* a page without storage forgets, and works */ }
  };
  const paint = (value) => {
    if (value === "light" || value === "dark") root.dataset.theme = value;
    else delete root.dataset.theme;
  };
  paint(stored());
  root.classList.add("scripted");

  const theme = () => {
    const select = document.getElementById("theme");
    select.value = root.dataset.theme ?? "auto";
    select.addEventListener("change", () => { paint(select.value); store(select.value); });
  };

  // Which group, which articles in it and which texts in them are shown.
  const browse = (box) => {
    const form = box.querySelector("form");
    const output = form.querySelector("output");
    const groups = [...box.querySelectorAll(".group")];
    const chosen = (name) => form.elements.namedItem(name)?.value || null;
    const boxes = [...form.querySelectorAll("input[type=checkbox]")];
    const update = () => {
      const concept = chosen("concept"), way = chosen("way"), label = chosen("label");
      const labels = boxes.length ? new Set(boxes.filter((one) => one.checked).map((one) => one.value)) : null;
      let shown = 0;
      for (const group of groups) {
        const other = (concept && group.dataset.concept !== concept)
          || (!boxes.length && label && group.dataset.label && group.dataset.label !== label);
        group.hidden = Boolean(other);
        if (other) continue;
        group.open = true;
        for (const probe of group.querySelectorAll(".probe")) shown += probe ? 1 : 0;
        for (const article of group.querySelectorAll("article")) {
          const texts = [...article.querySelectorAll("[data-label]")];
          for (const text of texts) text.hidden = labels !== null && !labels.has(text.dataset.label);
          article.hidden = Boolean(way && article.dataset.way !== way) || texts.every((text) => text.hidden);
          shown += article.hidden ? 0 : 1;
        }
      }
      const noun = box.dataset.browser === "probes" ? "text" : "prompt";
      output.textContent = shown ? `${shown} ${noun}${shown === 1 ? "" : "s"} shown` : "nothing to show; choose more";
    };
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("change", update);
    form.reset();
    update();
  };

  // The value of one token of a text, by pointer or by arrow keys.
  const readTokens = (text) => {
    const tokens = [...text.children];
    const output = text.nextElementSibling;
    let at = -1;
    const show = (number) => {
      tokens[at]?.classList.remove("current");
      at = Math.max(0, Math.min(tokens.length - 1, number));
      const token = tokens[at];
      if (!token) return;
      token.classList.add("current");
      output.textContent = `${token.textContent.trim() || "(space)"}: ${token.title}`;
    };
    text.addEventListener("keydown", (event) => {
      const moves = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: tokens.length - 1 };
      if (!(event.key in moves)) return;
      event.preventDefault();
      show(moves[event.key]);
    });
    for (const name of ["click", "pointerover"]) {
      text.addEventListener(name, (event) => {
        const token = event.target.closest("i");
        if (token) show(tokens.indexOf(token));
      });
    }
  };

  // Headings that sort: first the wanted end on top, then the other, then as it was.
  const sortable = (table) => {
    const body = table.tBodies[0];
    const before = [...body.rows];
    const heads = [...table.querySelectorAll("thead th")];
    for (const head of heads) {
      const place = head.cellIndex;
      const value = (row) => (row.cells[place].dataset.value ?? "") === "" ? null : Number(row.cells[place].dataset.value);
      if (before.every((row) => value(row) === null)) continue;
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      const first = head.querySelector(".way")?.textContent === "↓" ? "ascending" : "descending";
      const second = first === "ascending" ? "descending" : "ascending";
      button.addEventListener("click", () => {
        const now = head.getAttribute("aria-sort");
        const next = now === first ? second : now === second ? null : first;
        for (const other of heads) other.removeAttribute("aria-sort");
        const rows = [...before];
        if (next) {
          head.setAttribute("aria-sort", next);
          const sign = next === "ascending" ? 1 : -1;
          rows.sort((a, b) => {
            const x = value(a), y = value(b);
            return x === null || y === null ? (x === null) - (y === null) : sign * (x - y);
          });
        }
        body.append(...rows);
      });
    }
  };

  document.addEventListener("DOMContentLoaded", () => {
    for (const element of document.querySelectorAll(".js")) element.hidden = false;
    theme();
    for (const box of document.querySelectorAll("[data-browser]")) browse(box);
    for (const text of document.querySelectorAll(".tokens")) readTokens(text);
    for (const table of document.querySelectorAll("table[data-sortable]")) sortable(table);
  });
})();
