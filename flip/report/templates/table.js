// The table of classes: sorted by its heads, searched by name or group; a name opens its photos.
{
  const table = byId("class-table"), body = table.tBodies[0], rows = [...body.rows];
  const compareText = new Intl.Collator("en", { numeric: true }).compare;

  for (const button of table.tHead.querySelectorAll("button")) {
    button.addEventListener("click", () => {
      const head = button.closest("th"), column = head.cellIndex, isText = head.dataset.kind === "text";
      const upwards = head.getAttribute("aria-sort") !== "ascending";
      for (const other of table.tHead.querySelectorAll("[aria-sort]")) other.setAttribute("aria-sort", "none");
      head.setAttribute("aria-sort", upwards ? "ascending" : "descending");
      const value = (row) => row.cells[column].dataset.value;
      const order = isText ? (a, b) => compareText(value(a), value(b)) : (a, b) => value(a) - value(b);
      rows.sort(upwards ? order : (a, b) => order(b, a));
      body.append(...rows);
    });
  }

  const fold = (text) => text.normalize("NFKD").replace(/\p{M}/gu, "").toLowerCase();
  const names = new Map(rows.map((row) => [row, fold(row.cells[0].dataset.value + "\n" + (data.groups.length ? row.cells[1].dataset.value : ""))]));
  const search = () => {
    const wanted = fold(byId("class-search").value.trim());
    let shown = 0;
    for (const row of rows) {
      row.hidden = !names.get(row).includes(wanted);
      shown += !row.hidden;
    }
    byId("class-count").textContent = wanted ? `${shown} of ${plural(rows.length, "class", "classes")}` : plural(rows.length, "class", "classes");
  };
  byId("class-search").addEventListener("input", search);
  search();

  body.addEventListener("click", (event) => {
    const button = event.target.closest("[data-class]");
    if (!button) return;
    const c = Number(button.dataset.class);
    const wrong = scoredWhere((truth, guess) => truth === c && guess !== c);
    const right = scoredWhere((truth, guess) => truth === c && guess === c);
    const taken = scoredWhere((truth, guess) => truth !== c && guess === c);
    showPhotos([bdi(className(c))], `${plural(wrong.length, "photo", "photos")} named wrongly, then ${right.length} named rightly, then ${taken.length} of other classes that were called this.`, [...wrong, ...right, ...taken]);
  });
}
