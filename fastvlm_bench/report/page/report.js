"use strict";
// Texts reach the page through textContent alone: captions and ids are whatever a data set says.
const data = JSON.parse(document.getElementById("data").textContent);
// The text of an answer whose tokens have theirs is not told twice.
for (const sample of data.suites.flatMap((one) => one.samples)) {
  for (const answer of sample.answers) {
    if (answer && answer.text === null) {
      answer.text = answer.rounds.flatMap(([, , kinds, texts]) => texts.filter((_, place) => !"ru".includes(kinds[place]))).join("");
    }
  }
}
const at = (id) => document.getElementById(id);
const make = (tag, name, text) => {
  const element = document.createElement(tag);
  if (name) element.className = name;
  if (text !== undefined) element.textContent = text;
  return element;
};

// ---- tables: press a title to sort; what was not measured stays last
for (const table of document.querySelectorAll("table.main")) {
  for (const button of table.querySelectorAll("thead button")) {
    button.addEventListener("click", () => {
      const head = button.parentElement;
      const down = head.getAttribute("aria-sort") !== "descending" && button.dataset.column !== "0" ||
        head.getAttribute("aria-sort") === "ascending";
      for (const other of table.querySelectorAll("thead th")) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const value = (row) => Number(row.children[button.dataset.column].dataset.sort ?? NaN);
      const rows = [...table.tBodies[0].rows].sort((a, b) => {
        const [x, y] = [value(a), value(b)];
        if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y);
        return down ? y - x : x - y;
      });
      table.tBodies[0].append(...rows);
    });
  }
}

// ---- theme
const theme = at("theme");
theme.hidden = false;
theme.addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
});

// ---- samples
const controls = { which: at("which"), method: at("method"), filter: at("filter"), order: at("order"), search: at("search") };
const only = at("only");
let shown = [];
let current = -1;
const suite = () => data.suites[Number(controls.which.value)];
const chosen = () => Number(controls.method.value);
const times = (value) => value.toFixed(2) + "×";

function fillMethods() {
  controls.method.replaceChildren();
  suite().series.forEach((one, place) => {
    const option = make("option", "", one.name);
    option.value = place;
    controls.method.append(option);
  });
  const first = suite().series.findIndex((one) => !one.reference);
  controls.method.value = Math.max(first, 0);
}

function passes(sample) {
  const answer = sample.answers[chosen()];
  const wanted = controls.filter.value;
  if (wanted === "differs" && !(answer && answer.same === false)) return false;
  if (wanted === "same" && !(answer && answer.same === true)) return false;
  if (wanted === "failed" && !(answer && answer.error)) return false;
  const words = controls.search.value.trim().toLowerCase();
  if (!words) return true;
  const text = [sample.id, sample.prompt, sample.group, ...sample.references, ...sample.answers.map((a) => (a && a.text) || "")];
  return text.join("\n").toLowerCase().includes(words);
}

const FIRST = {
  worst: (answer) => answer.ratio,
  best: (answer) => -answer.ratio,
  long: (answer) => -answer.tokens,
  score: (answer) => Object.values(answer.scores || {})[0],
};

function fill(wanted) {
  shown = suite().samples.filter(passes);
  const key = FIRST[controls.order.value];
  if (key) {
    const value = (sample) => {
      const answer = sample.answers[chosen()];
      const found = answer && !answer.error ? key(answer) : NaN;
      return found === null || found === undefined || Number.isNaN(found) ? Infinity : found;
    };
    shown.sort((a, b) => (value(a) === value(b) ? 0 : value(a) - value(b)));
  }
  at("list").replaceChildren(...shown.map((sample, place) => {
    const line = make("li");
    line.setAttribute("role", "option");
    line.id = "sample-" + place;
    line.append(make("span", "", sample.id));
    const answer = sample.answers[chosen()];
    if (answer && answer.error) line.append(make("span", "differs", "failed"));
    else if (answer) {
      const ratio = answer.ratio === null ? "" : times(answer.ratio);
      line.append(make("span", answer.same === false ? "differs" : "", (answer.same === false ? "differs " : "") + ratio));
    }
    line.addEventListener("click", () => open(place));
    return line;
  }));
  const there = suite().samples.length;
  const part = there < suite().all ? ` This file has ${there} of the suite's ${suite().all} samples: those that failed or differ, the slowest, then the first.` : "";
  const coloured = suite().samples.some((sample) => sample.answers.some((a) => a && a.rounds && a.rounds.length));
  at("key").hidden = !coloured;
  at("count").textContent = `${shown.length} of ${there} samples.${part} ${suite().images}`.trim();
  const place = shown.findIndex((sample) => sample.id === wanted);
  open(place < 0 ? 0 : place);
}

function facts(answer, number) {
  const told = make("div", "facts");
  const add = (text, name) => told.append(make("span", name, text));
  if (answer.ratio !== null) add(`${suite().series[number].ratio} ${times(answer.ratio)}`);
  add(`${answer.tokens} tokens`);
  add(`first token ${answer.ttft_ms} ms, then ${answer.decode_ms} ms`);
  if (answer.same !== null) add(answer.same ? "same tokens" : "differs" + (answer.judged ? ` (${answer.judged})` : ""), answer.same ? "yes" : "no");
  for (const [name, value] of Object.entries(answer.scores || {})) add(`${name} ${value}`);
  if (answer.rounds.length) add(`${answer.rounds.length - 1} rounds`);
  return told;
}

function open(place) {
  const detail = at("detail");
  for (const line of at("list").querySelectorAll("[aria-selected]")) line.removeAttribute("aria-selected");
  detail.replaceChildren();
  current = shown.length ? Math.min(Math.max(place, 0), shown.length - 1) : -1;
  if (current < 0) return;
  const sample = shown[current];
  const line = at("sample-" + current);
  line.setAttribute("aria-selected", "true");
  at("list").setAttribute("aria-activedescendant", line.id);
  const top = line.offsetTop - at("list").offsetTop;
  if (top < at("list").scrollTop || top > at("list").scrollTop + at("list").clientHeight - 30) at("list").scrollTop = top - 40;
  const about = make("div", "sample");
  if (sample.image !== null) {
    const image = make("img");
    image.src = data.images[sample.image];
    image.alt = "image of sample " + sample.id;
    about.append(image);
  }
  const words = make("div");
  words.append(make("h3", "", sample.id + (sample.group ? ` (${sample.group})` : "")), make("p", "", sample.prompt));
  const counts = new Map();
  for (const text of sample.references) counts.set(text, (counts.get(text) || 0) + 1);
  const list = make("ol");
  for (const [text, count] of counts) list.append(make("li", "", text + (count > 1 ? ` (${count} times)` : "")));
  if (counts.size) words.append(make("p", "quiet", "references"), list);
  about.append(words);
  detail.append(about);
  const first = [...new Set([suite().series[chosen()].against, chosen()])].filter((number) => number !== null);
  const others = only.checked ? [] : sample.answers.map((_, number) => number).filter((number) => !first.includes(number));
  for (const number of [...first, ...others]) {
    const answer = sample.answers[number];
    if (!answer) continue;
    const card = make("div", "answer" + (number === chosen() ? " chosen" : ""));
    card.append(make("h3", "", suite().series[number].name));
    if (answer.error) card.append(make("p", "no", answer.error));
    else {
      card.append(facts(answer, number));
      const told = answer.rounds.length && !untold(answer);
      const same = leaves(answer, sample.answers[suite().series[number].against]);
      if (!told) card.append(answerText(answer, same));
      if (answer.rounds.length) card.append(answerRounds(answer, same));
    }
    detail.append(card);
  }
}

const KINDS = { p: "own", o: "own", a: "accepted", d: "accepted", r: "rejected", u: "untested" };
const NAMES = { p: "the target's own, from the prompt", o: "the target's own", a: "drafted, accepted", d: "drafted, not verified", r: "drafted, rejected", u: "drafted after a rejected one, never tested" };

// Round by round: what was drafted and stood, what was rejected, and the target's own. Records before token_chars know
// only the kinds: then they are boxes.
const untold = (answer) => answer.rounds.some(([, , , texts]) => texts === null);

function answerRounds(answer, same) {
  let before = 0;
  const text = make("p", "text");
  const boxes = untold(answer);
  answer.rounds.forEach(([ms, speedup, kinds, texts], number) => {
    const round = make("span", "round");
    round.title = number ? `round ${number}: ${ms} ms` + (speedup === null ? "" : `, ${times(speedup)} so far`) : `first token: ${ms} ms`;
    [...kinds].forEach((kind, place) => {
      const said = boxes ? null : texts[place];
      const token = make(KINDS[kind] === "rejected" || KINDS[kind] === "untested" ? "del" : "span", KINDS[kind] + (said === null ? " box" : ""), said === null ? "" : said);
      if (said !== null && token.tagName !== "DEL") {
        if (said && before + said.length > same) token.classList.add("after");
        before += said.length;
      }
      if (said === null) token.setAttribute("aria-label", NAMES[kind]);
      round.append(token);
    });
    text.append(round);
  });
  return text;
}

// The character at which an answer that differs leaves that of its own run's reference.
function leaves(answer, first) {
  if (answer.same !== false || !first || first.error) return answer.text.length;
  let same = 0;
  while (same < answer.text.length && answer.text[same] === first.text[same]) same += 1;
  return same;
}

// It is marked from that word on.
function answerText(answer, same) {
  const text = make("p", "text");
  if (same === answer.text.length) return make("p", "text", answer.text);
  const word = answer.text.lastIndexOf(" ", same) + 1;
  text.append(answer.text.slice(0, word), make("mark", "", answer.text.slice(word)));
  return text;
}

data.suites.forEach((one, place) => {
  const option = make("option", "", one.name);
  option.value = place;
  controls.which.append(option);
});
at("controls").hidden = false;
at("controls").addEventListener("submit", (event) => event.preventDefault());
controls.which.addEventListener("change", () => { fillMethods(); fill(); });
for (const name of ["method", "filter", "order"]) controls[name].addEventListener("change", () => fill(current < 0 ? undefined : shown[current].id));
only.addEventListener("change", () => open(current));
controls.search.addEventListener("input", () => fill());
document.addEventListener("keydown", (event) => {
  const typing = ["INPUT", "SELECT", "TEXTAREA"].includes(event.target.tagName);
  if (event.key === "Escape" && typing) event.target.blur();
  if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
  const listed = document.activeElement === at("list");
  const step = { j: 1, k: -1 }[event.key] || (listed && { ArrowDown: 1, ArrowUp: -1 }[event.key]);
  if (step) { open(current + step); event.preventDefault(); }
  if (event.key === "/") { controls.search.focus(); event.preventDefault(); }
});
if (data.suites.length) { fillMethods(); fill(); }

// ---- points of the figure of speed-ups: press one to see its sample
function see(number, place, id) {
  controls.which.value = number;
  fillMethods();
  controls.method.value = place;
  controls.filter.value = "all";
  controls.search.value = "";
  fill(id);
  at("samples").scrollIntoView();
}
data.suites.forEach((one, number) => {
  const there = new Set(one.samples.map((sample) => sample.id));
  for (const group of document.querySelectorAll(`#suite-${number} [data-points]`)) {
    const place = Number(group.dataset.points);
    group.querySelectorAll("use").forEach((point, index) => {
      const id = (one.points[place] || [])[index];
      if (!there.has(id)) return;
      const title = document.createElementNS("http://www.w3.org/2000/svg", "title");
      title.textContent = `sample ${id}, ${one.series[place].name}`;
      point.append(title);
      point.classList.add("point");
      point.addEventListener("click", () => see(number, place, id));
    });
  }
});
