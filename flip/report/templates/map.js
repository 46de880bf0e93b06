// The map of the embeddings: a canvas, and one button that stands on the current photo and moves with the arrow keys.
if (data.maps.length) {
  const box = byId("map-box"), canvas = byId("map-canvas"), cursor = byId("map-cursor"), tip = byId("map-tip");
  const EDGE = 24;
  let map = null, view = { scale: 1, x: 0, y: 0 }, current = 0, width = 0, height = 0;

  for (const c of data.orders.name) byId("map-only").append(make("option", { value: c, dir: "auto" }, className(c)));

  const base = () => Math.min((width - 2 * EDGE) / map.width, (height - 2 * EDGE) / map.height);
  const placeX = (i) => width / 2 + (map.x[i] - view.x) * base() * view.scale;
  const placeY = (i) => height / 2 + (map.y[i] - view.y) * base() * view.scale;
  const isRight = (number) => (number < data.scored && data.runs[page.run].guess[number] >= 0 ? data.runs[page.run].guess[number] === data.labels[number] : null);

  /** Spread hues over a number of things; neighbours in the order have neighbouring hues, and take turns in lightness. */
  function hue(place, count) {
    const lightness = isDark() ? [72, 58, 82][place % 3] : [42, 54, 32][place % 3];
    return `hsl(${Math.round((360 * place) / count)} 62% ${lightness}%)`;
  }

  function colours() {
    const style = getComputedStyle(document.documentElement), token = (name) => style.getPropertyValue(name).trim();
    const kind = byId("map-colour").value, n = data.classes.length;
    if (kind === "right") {
      return { of: (p) => ({ true: token("--s0"), false: token("--wrong"), null: token("--line") })[isRight(p)], legend: [["named rightly", token("--s0")], ["named wrongly", token("--wrong")], ["not scored", token("--line")]] };
    }
    if (kind === "split") {
      const names = data.splits.map((name, i) => [name, token(`--s${i % 8}`)]);
      return { of: (p) => names[data.splitOf[p]][1], legend: names };
    }
    if (kind === "group") {
      const names = data.groups.map((name, i) => [name, hue(i, data.groups.length)]);
      return { of: (p) => (data.labels[p] < 0 ? token("--line") : names[data.groupOf[data.labels[p]]][1]), legend: names.length <= 24 ? names : [] };
    }
    const place = new Map(data.orders.alike.map((c, i) => [c, i]));
    const of = (p) => (data.labels[p] < 0 ? token("--line") : hue(place.get(data.labels[p]), n));
    return { of, legend: n <= 12 ? data.orders.alike.map((c) => [className(c), hue(place.get(c), n)]) : [] };
  }

  function draw() {
    if (!map || !width) return;
    const context = canvas.getContext("2d"), ratio = window.devicePixelRatio || 1;
    canvas.width = width * ratio;
    canvas.height = height * ratio;
    context.scale(ratio, ratio);
    const { of, legend } = colours(), only = Number(byId("map-only").value);
    const radius = Math.max(2, Math.min(5, 3.2 * Math.sqrt(view.scale) * Math.min(1, 40 / Math.sqrt(map.photos.length) + 0.35)));
    const later = [];
    map.photos.forEach((number, i) => (only >= 0 && data.labels[number] !== only ? dot(i, 0.15) : later.push(i)));
    for (const i of later) dot(i, 0.85);
    function dot(i, alpha) {
      const x = placeX(i), y = placeY(i), number = map.photos[i];
      if (x < -9 || y < -9 || x > width + 9 || y > height + 9) return;
      context.globalAlpha = alpha;
      context.fillStyle = of(number);
      context.beginPath();
      // Wrong ones are squares when right and wrong is what the colour says: colour alone does not tell.
      if (byId("map-colour").value === "right" && isRight(number) === false) context.rect(x - radius, y - radius, 2 * radius, 2 * radius);
      else context.arc(x, y, radius, 0, 2 * Math.PI);
      context.fill();
    }
    byId("map-legend").replaceChildren(...legend.map(([name, colour]) => {
      const chip = make("span", { class: "chip" });
      chip.style.background = colour;
      return make("li", {}, chip, bdi(name));
    }));
    cursor.style.transform = `translate(${placeX(current)}px, ${placeY(current)}px)`;
  }

  function describe(number) {
    const run = data.runs[page.run], words = [`${isolated(className(data.labels[number]))}, ${data.splits[data.splitOf[number]]}`];
    if (number < data.scored) words.push(run.guess[number] < 0 ? "unreadable" : isRight(number) ? `named rightly, ${percent(run.score[number])}` : `called ${isolated(className(run.guess[number]))}, ${percent(run.score[number])}`);
    return words;
  }

  function show(i) {
    const number = map.photos[i], words = describe(number), run = data.runs[page.run];
    const picture = make("span", { class: "photo" });
    fillPhoto(picture, number);
    const text = make("div", {}, make("p", {}, make("b", {}, bdi(className(data.labels[number])))), make("p", { class: "muted" }, data.splits[data.splitOf[number]]));
    if (words[1]) text.append(isRight(number) === false ? make("p", {}, "called ", bdi(className(run.guess[number])), ` ${percent(run.score[number])}`) : make("p", { class: "muted" }, words[1]));
    tip.replaceChildren(picture, text);
    tip.hidden = false;
    const x = placeX(i), y = placeY(i);
    tip.style.left = `${Math.max(4, Math.min(width - tip.offsetWidth - 4, x + 14))}px`;
    tip.style.top = `${y + 14 + tip.offsetHeight > height ? Math.max(4, y - tip.offsetHeight - 14) : y + 14}px`;
  }

  const allowed = (i) => Number(byId("map-only").value) < 0 || data.labels[map.photos[i]] === Number(byId("map-only").value);

  function nearestTo(x, y, most) {
    let best = -1, least = most * most;
    for (let i = 0; i < map.photos.length; i++) {
      const distance = (placeX(i) - x) ** 2 + (placeY(i) - y) ** 2;
      if (distance < least && allowed(i)) { least = distance; best = i; }
    }
    return best;
  }

  function moveTo(i) {
    if (i < 0) return;
    current = i;
    const x = placeX(i), y = placeY(i);
    if (x < EDGE || y < EDGE || x > width - EDGE || y > height - EDGE) { view.x = map.x[i]; view.y = map.y[i]; draw(); }
    cursor.style.transform = `translate(${placeX(i)}px, ${placeY(i)}px)`;
    cursor.textContent = `${describe(map.photos[i]).join(", ")}. Open the photo`;
    show(i);
  }

  /** The photo that lies nearest in a direction, within a quarter turn of it. */
  function towards(right, down) {
    const x = placeX(current), y = placeY(current);
    let best = -1, least = Infinity;
    for (let i = 0; i < map.photos.length; i++) {
      const across = placeX(i) - x, below = placeY(i) - y, ahead = across * right + below * down, aside = Math.abs(across * down) + Math.abs(below * right);
      if (i === current || ahead <= 0 || aside > ahead || !allowed(i)) continue;
      if (ahead + aside < least) { least = ahead + aside; best = i; }
    }
    return best;
  }

  function zoom(factor) {
    view.scale = Math.max(1, Math.min(40, view.scale * factor));
    if (view.scale === 1) centre();
    else if (document.activeElement === cursor) { view.x = map.x[current]; view.y = map.y[current]; }
    tip.hidden = true;
    draw();
    if (document.activeElement === cursor) show(current);
  }
  function centre() { view = { scale: 1, x: map.width / 2, y: map.height / 2 }; }
  function fit() { centre(); tip.hidden = true; draw(); }
  function open(i) { const number = map.photos[i]; showPhotos([bdi(className(data.labels[number]))], "", [number]); }

  cursor.addEventListener("focus", () => moveTo(allowed(current) ? current : map.photos.findIndex((_, i) => allowed(i))));
  cursor.addEventListener("blur", () => { tip.hidden = true; });
  cursor.addEventListener("click", () => open(current));
  cursor.addEventListener("keydown", (event) => {
    const moves = {
      ArrowRight: () => moveTo(towards(1, 0)), ArrowLeft: () => moveTo(towards(-1, 0)), ArrowDown: () => moveTo(towards(0, 1)), ArrowUp: () => moveTo(towards(0, -1)),
      "+": () => zoom(1.5), "=": () => zoom(1.5), "-": () => zoom(1 / 1.5), 0: fit, Escape: () => { tip.hidden = true; },
    };
    if (!moves[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    moves[event.key]();
  });

  let drag = null;
  const at = (event) => { const edge = canvas.getBoundingClientRect(); return [event.clientX - edge.left, event.clientY - edge.top]; };
  canvas.addEventListener("pointerdown", (event) => { if (event.pointerType === "mouse" && view.scale > 1) { drag = { at: at(event), x: view.x, y: view.y, moved: false }; canvas.setPointerCapture(event.pointerId); } });
  canvas.addEventListener("pointermove", (event) => {
    const [x, y] = at(event);
    if (drag) {
      drag.moved = drag.moved || Math.hypot(x - drag.at[0], y - drag.at[1]) > 4;
      view.x = drag.x - (x - drag.at[0]) / (base() * view.scale);
      view.y = drag.y - (y - drag.at[1]) / (base() * view.scale);
      tip.hidden = true;
      draw();
      return;
    }
    const i = nearestTo(x, y, 16);
    if (i < 0) tip.hidden = true; else show(i);
  });
  canvas.addEventListener("pointerup", (event) => { if (drag && drag.moved) setTimeout(() => { drag = null; }); else drag = null; });
  canvas.addEventListener("pointerleave", () => { if (document.activeElement !== cursor) tip.hidden = true; });
  canvas.addEventListener("click", (event) => {
    if (drag) return;
    const i = nearestTo(...at(event), event.pointerType === "touch" ? 28 : 16);
    if (i < 0) { tip.hidden = true; return; }
    if (event.pointerType === "touch" && (i !== current || tip.hidden)) { current = i; show(i); return; }
    current = i;
    open(i);
  });

  function choose() {
    const chosen = data.runs[page.run].map;
    map = chosen === null ? null : data.maps[chosen];
    byId("map-none").hidden = map !== null;
    box.hidden = map === null;
    tip.hidden = true;
    current = 0;
    if (map === null) return;
    byId("map-method").replaceChildren(`${plural(map.photos.length, "photo", "photos")} by ${map.method}, model `, bdi(map.model), ".");
    centre();
    canvas.setAttribute("aria-label", `Map of ${plural(map.photos.length, "photo", "photos")} by ${map.method}`);
    draw();
  }

  new ResizeObserver(() => { width = box.clientWidth; height = box.clientHeight; draw(); }).observe(box);
  for (const id of ["map-colour", "map-only"]) byId(id).addEventListener("change", () => { tip.hidden = true; draw(); });
  byId("map-in").addEventListener("click", () => zoom(1.5));
  byId("map-out").addEventListener("click", () => zoom(1 / 1.5));
  byId("map-fit").addEventListener("click", fit);
  page.onRun.push(choose);
  page.onTheme.push(draw);
  choose();
}
applyTheme();
