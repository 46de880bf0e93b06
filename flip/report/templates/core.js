"use strict";
// The page's data, small helpers, photos, theme, and the choice of the run that is shown.
const data = JSON.parse(document.getElementById("payload").textContent);
const byId = (id) => document.getElementById(id);
const page = { run: 0, onRun: [], onTheme: [] };

/** Make an element; children that are strings become text, never markup. */
function make(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children);
  return element;
}

/** A name that a user chose, isolated so that right-to-left marks in it turn nothing else around. */
const bdi = (text) => make("bdi", {}, text);
const isolated = (text) => `\u2068${text}\u2069`;
const percent = (share) => `${(100 * share).toFixed(1)} %`;
const plural = (n, one, many) => `${n.toLocaleString("en")} ${n === 1 ? one : many}`;
const className = (c) => (c < 0 ? "unknown" : data.classes[c]);

function href(number) {
  if (data.absolute[number] !== undefined) return data.absolute[number];
  return data.base === null ? null : data.base + data.paths[number].split("/").map(encodeURIComponent).join("/");
}

function fillPhoto(box, number) {
  const picture = data.thumbs[number];
  if (picture === undefined) box.append(make("span", { class: "blank", "aria-hidden": "true" }));
  else box.append(make("img", { src: `data:${data.mime};base64,${picture}`, alt: "", decoding: "async" }));
}

/** A photo as a link to its file, or as a picture where there is no file. */
function photoElement(number, what, kind) {
  const link = href(number);
  const label = `Photo: ${isolated(what)}`;
  const box = link === null
    ? make("span", { class: `photo ${kind || ""}`, role: "img", "aria-label": label })
    : make("a", { class: `photo ${kind || ""}`, href: link, "aria-label": label });
  fillPhoto(box, number);
  return box;
}

/** Put the pictures into the photos of the panels that are shown; those of other runs wait until they are. */
function fillShown() {
  for (const box of document.querySelectorAll("[data-photo]:empty")) if (!box.closest(".panel[hidden]")) fillPhoto(box, box.dataset.photo);
}
fillShown();

// The photos of a cell or a class, in a dialog.
const dialog = byId("photos");
const AT_ONCE = 60;

/** Open the dialog with photos of the run shown, given by their numbers. */
function showPhotos(title, note, numbers) {
  const list = byId("photos-list"), more = byId("photos-more");
  byId("photos-title").replaceChildren(...title);
  byId("photos-note").textContent = note;
  list.replaceChildren();
  let shown = 0;
  const add = () => {
    for (const number of numbers.slice(shown, shown + AT_ONCE)) list.append(photoTile(number));
    shown += AT_ONCE;
    more.hidden = shown >= numbers.length;
  };
  add();
  more.onclick = () => {
    const next = list.children.length;
    add();
    const link = list.children[next] && list.children[next].querySelector("a");
    if (link) link.focus();
  };
  dialog.showModal();
  dialog.scrollTop = 0;
}

function photoTile(number) {
  const truth = data.labels[number];
  const rows = [["Label", className(truth), ""]];
  let kind = "";
  if (number < data.scored) {
    const run = data.runs[page.run], guess = run.guess[number];
    if (guess < 0) rows.push(["Said", "cannot be read", ""]);
    else {
      kind = guess === truth ? "right" : "wrong";
      rows.push(["Said", className(guess), percent(run.score[number])]);
      if (run.second[number] >= 0) rows.push(["Then", className(run.second[number]), percent(run.secondScore[number])]);
    }
  }
  return make("li", { class: "tile" },
    photoElement(number, className(truth), kind),
    make("dl", { class: "tight" }, ...rows.map(([term, name, share]) =>
      make("div", {}, make("dt", {}, term), make("dd", {}, bdi(name), " ", make("span", { class: "num" }, share))))),
    make("p", { class: "path" }, bdi(`${data.splits[data.splitOf[number]]}: ${data.paths[number].split("/").pop()}`)));
}

byId("photos-close").addEventListener("click", () => dialog.close());
dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });

/** The scored photos of the run shown for which a condition on (label, guess) holds, the surest first. */
function scoredWhere(condition) {
  const run = data.runs[page.run], found = [];
  for (let i = 0; i < data.scored; i++) if (run.guess[i] >= 0 && condition(data.labels[i], run.guess[i])) found.push(i);
  return found.sort((a, b) => run.score[b] - run.score[a]);
}

// Theme: what the system says, unless the reader chose one.
const THEMES = ["auto", "light", "dark"];
let theme = "auto";
try { theme = THEMES.includes(localStorage.getItem("flip-theme")) ? localStorage.getItem("flip-theme") : "auto"; } catch (error) { /* no storage for files here */ }

function applyTheme() {
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  byId("theme").textContent = `Theme: ${theme}`;
  for (const listener of page.onTheme) listener();
}

byId("theme").addEventListener("click", () => {
  theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
  try { localStorage.setItem("flip-theme", theme); } catch (error) { /* forgotten when the page closes */ }
  applyTheme();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", applyTheme);
const isDark = () => theme === "dark" || (theme === "auto" && matchMedia("(prefers-color-scheme: dark)").matches);

// The run that the sections below the results show.
if (byId("run")) {
  byId("run").addEventListener("change", (event) => {
    page.run = Number(event.target.value);
    for (const panel of document.querySelectorAll(".panel")) panel.hidden = Number(panel.dataset.run) !== page.run;
    fillShown();
    for (const listener of page.onRun) listener();
  });
}
