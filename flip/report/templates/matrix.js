// The confusion matrix: a grid of the cells that hold photos. Arrow keys go to the next of them; Enter opens its photos.
{
  const grid = byId("matrix"), box = byId("matrix-box"), n = data.classes.length;
  const withPhotos = new Set();
  for (let i = 0; i < data.scored; i++) if (data.labels[i] >= 0) withPhotos.add(data.labels[i]);
  let counts = new Map(), totals = [], largest = 0, order = [], rowOrder = [], cells = new Map(), current = null, size = 20;

  function count() {
    const run = data.runs[page.run];
    counts = new Map();
    totals = new Array(n).fill(0);
    for (let i = 0; i < data.scored; i++) {
      if (run.guess[i] < 0) continue;
      const key = data.labels[i] * n + run.guess[i];
      counts.set(key, (counts.get(key) || 0) + 1);
      totals[data.labels[i]]++;
    }
    largest = 0;
    for (const [key, value] of counts) {
      const truth = Math.floor(key / n);
      if (truth !== key % n) largest = Math.max(largest, value / totals[truth]);
    }
  }

  function arrange() {
    const kind = byId("matrix-order").value;
    const accuracy = (c) => (totals[c] ? (counts.get(c * n + c) || 0) / totals[c] : 2);
    order = kind === "hard" ? [...data.classes.keys()].sort((a, b) => accuracy(a) - accuracy(b)) : data.orders[kind].slice();
    // Classes that no test photo has and no run named would be empty rows and columns.
    const named = new Set([...counts.keys()].map((key) => key % n));
    order = order.filter((c) => withPhotos.has(c) || named.has(c));
    rowOrder = order.filter((c) => withPhotos.has(c));
  }

  let inks = {};
  function mixInks() {
    const style = getComputedStyle(document.documentElement), parts = (name) => style.getPropertyValue(name).trim().split(" ").map(Number);
    inks = { right: parts("--right-rgb"), wrong: parts("--wrong-rgb"), paper: parts("--paper-rgb") };
  }

  /** Paint a cell: the diagonal cool, confusions warm, both deeper for a larger share of the row; text that can be read on it. */
  function paint(cell, truth, guess, value) {
    const share = value / totals[truth];
    const depth = truth === guess ? 0.12 + 0.75 * share : 0.25 + 0.75 * Math.min(1, share / (largest || 1));
    const mixed = (truth === guess ? inks.right : inks.wrong).map((part, i) => Math.round(inks.paper[i] + depth * (part - inks.paper[i])));
    const light = mixed.map((part) => ((part / 255 + 0.055) / 1.055) ** 2.4);
    const luminance = 0.2126 * light[0] + 0.7152 * light[1] + 0.0722 * light[2];
    cell.style.backgroundColor = `rgb(${mixed.join(" ")})`;
    cell.style.color = luminance > 0.18 ? "#000" : "#fff";
  }

  function describe(truth, guess, value) {
    return truth === guess
      ? `${isolated(className(truth))}: ${value} of ${totals[truth]} named rightly`
      : `${isolated(className(truth))} called ${isolated(className(guess))}: ${value} of ${totals[truth]}`;
  }

  function build() {
    mixInks();
    count();
    arrange();
    cells = new Map();
    current = null;
    grid.style.setProperty("--n", order.length);
    grid.setAttribute("aria-rowcount", rowOrder.length + 1);
    grid.setAttribute("aria-colcount", order.length + 1);
    const head = make("div", { role: "row", "aria-rowindex": 1 }, make("div", { role: "columnheader", class: "corner", "aria-colindex": 1 }, "label ↓ said →"));
    order.forEach((c, i) => {
      const label = make("div", { role: "columnheader", "aria-colindex": i + 2, title: className(c) }, bdi(className(c)));
      label.style.setProperty("--i", i);
      head.append(label);
    });
    grid.replaceChildren(head, ...rowOrder.map(row));
    zoom(size);
  }

  function row(truth, r) {
    const line = make("div", { role: "row", class: "lined", "aria-rowindex": r + 2 },
      make("div", { role: "rowheader", "aria-colindex": 1, title: className(truth) }, bdi(className(truth))));
    order.forEach((guess, i) => {
      const value = counts.get(truth * n + guess);
      if (!value) return;
      const cell = make("div", { role: "gridcell", tabindex: -1, "aria-colindex": i + 2, "aria-label": describe(truth, guess, value) }, String(value));
      cell.style.setProperty("--i", i);
      cell.place = { r, i, truth, guess, value };
      paint(cell, truth, guess, value);
      cells.set(r * order.length + i, cell);
      if (current === null) { current = cell; cell.tabIndex = 0; }
      line.append(cell);
    });
    return line;
  }

  function zoom(wanted) {
    size = Math.max(3, Math.min(44, wanted));
    grid.style.setProperty("--cell", `${size}px`);
    grid.classList.toggle("tiny", size < 13);
    grid.classList.toggle("small", size < 16);
    for (const line of grid.children) line.classList.toggle("lined", size >= 9 && line !== grid.firstChild);
  }

  function fit() {
    const label = grid.querySelector(".corner").offsetWidth;
    zoom(Math.min(30, Math.floor((box.clientWidth - label) / order.length)));
  }

  function point(cell) {
    for (const hot of grid.querySelectorAll(".hot")) hot.classList.remove("hot");
    byId("matrix-read").replaceChildren();
    if (!cell) return;
    const { truth, guess, value, i } = cell.place;
    cell.parentElement.firstChild.classList.add("hot");
    grid.firstChild.children[i + 1].classList.add("hot");
    const said = truth === guess ? [" named rightly: "] : [" called ", bdi(className(guess)), ": "];
    byId("matrix-read").append(bdi(className(truth)), ...said, `${value} of ${totals[truth]}`);
  }

  function open(cell) {
    const { truth, guess, value } = cell.place;
    const title = truth === guess ? [bdi(className(truth)), " named rightly"] : [bdi(className(truth)), " called ", bdi(className(guess))];
    showPhotos(title, `${value} of ${plural(totals[truth], "photo", "photos")}, the surest first.`, scoredWhere((a, b) => a === truth && b === guess));
  }

  function focus(cell) {
    if (!cell) return;
    current.tabIndex = -1;
    current = cell;
    cell.tabIndex = 0;
    cell.focus();
    cell.scrollIntoView({ block: "nearest", inline: "nearest" });
  }

  /** The nearest cell with photos in a direction: in the same row or column, else in the next that has any. */
  function next(from, right, down) {
    const all = [...cells.values()].map((cell) => ({ cell, r: cell.place.r - from.r, i: cell.place.i - from.i }));
    const ahead = all.filter((c) => (right ? c.i * right > 0 : c.r * down > 0));
    const aside = (c) => (right ? [Math.abs(c.r), Math.abs(c.i)] : [Math.abs(c.i), Math.abs(c.r)]);
    const better = (a, b) => aside(a)[0] - aside(b)[0] || aside(a)[1] - aside(b)[1];
    return ahead.sort(better).map((c) => c.cell)[0];
  }

  grid.addEventListener("keydown", (event) => {
    const cell = event.target.closest("[role=gridcell]");
    if (!cell) return;
    const inRow = [...cell.parentElement.querySelectorAll("[role=gridcell]")];
    const moves = {
      ArrowRight: () => focus(next(cell.place, 1, 0)), ArrowLeft: () => focus(next(cell.place, -1, 0)),
      ArrowDown: () => focus(next(cell.place, 0, 1)), ArrowUp: () => focus(next(cell.place, 0, -1)),
      Home: () => focus(inRow[0]), End: () => focus(inRow[inRow.length - 1]),
      Enter: () => open(cell), " ": () => open(cell),
    };
    if (!moves[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    moves[event.key]();
  });
  grid.addEventListener("click", (event) => {
    const cell = event.target.closest("[role=gridcell]");
    if (cell) { focus(cell); open(cell); }
  });
  grid.addEventListener("pointerover", (event) => point(event.target.closest("[role=gridcell]")));
  grid.addEventListener("pointerleave", () => point(null));
  grid.addEventListener("focusin", (event) => point(event.target.closest("[role=gridcell]")));
  byId("matrix-order").addEventListener("change", build);
  byId("matrix-in").addEventListener("click", () => zoom(Math.ceil(size * 1.35)));
  byId("matrix-out").addEventListener("click", () => zoom(Math.floor(size / 1.35)));
  byId("matrix-fit").addEventListener("click", fit);
  page.onRun.push(build);
  page.onTheme.push(() => { mixInks(); for (const cell of cells.values()) paint(cell, cell.place.truth, cell.place.guess, cell.place.value); });
  build();
  fit();
}
