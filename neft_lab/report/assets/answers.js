/* What the reader draws. Text of models and data sets only ever becomes text, never markup. */

const VERDICTS = { w: "preferred to the reference", l: "reference preferred", d: "draw", "-": "no verdict" };
const LETTERS = { w: "W", l: "L", d: "D", "-": "–" };
const WHOLE = new Intl.NumberFormat("en");
const signed = (value) => (value === null ? "" : `${value < 0 ? "−" : value > 0 ? "+" : ""}${WHOLE.format(Math.abs(value))}`);
const count = (value, name) => `${WHOLE.format(value)} ${name}${value === 1 ? "" : "s"}`;

function make(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function makeRow(instruction, number) {
  const row = make("li");
  row.id = `row-${number}`;
  row.dataset.number = number;
  row.setAttribute("role", "option");
  row.setAttribute("aria-selected", "false");
  const verdicts = make("span", "row-verdicts");
  verdicts.append(makeBadge(""), makeBadge(""));
  row.append(make("span", "row-text", instruction.text.slice(0, 160)), verdicts, make("span", "row-change"));
  return row;
}

function fillRow(row, cells, left, right, number, change) {
  const [, verdicts, changed] = row.children;
  fillBadge(verdicts.firstChild, left === null ? "" : cells[left].verdicts[number]);
  fillBadge(verdicts.lastChild, cells[right].verdicts[number]);
  row.classList.toggle("flip", left !== null && isFlip(cells, left, right, number, "flips"));
  changed.textContent = signed(change);
}

function makeBadge(letter) {
  const badge = make("span");
  fillBadge(badge, letter);
  return badge;
}

function fillBadge(badge, letter) {
  if (badge.dataset.verdict === letter) return;
  badge.dataset.verdict = letter;
  badge.className = letter ? `badge verdict-${letter === "-" ? "none" : letter}` : "";
  badge.textContent = letter ? LETTERS[letter] : "";
  badge.title = letter ? VERDICTS[letter] : "";
}

/** One button per cell of the chosen one's family, so that a baseline and all its arms are seen at a glance. */
function drawCells(place, cells, chosen, number, choose) {
  const family = [...cells.keys()].filter((cell) => cells[cell].family === cells[chosen].family);
  if (place.dataset.family !== cells[chosen].family) {
    place.dataset.family = cells[chosen].family;
    place.replaceChildren(...family.map((cell) => makeCellButton(cells[cell], () => choose(cell))));
  }
  family.forEach((cell, at) => {
    const { verdicts, characters, chances } = cells[cell];
    const [, verdict, length, meter] = place.children[at].children;
    place.children[at].setAttribute("aria-pressed", String(cell === chosen));
    verdict.replaceChildren(makeBadge(verdicts[number]));
    length.textContent = characters[number] === null ? "no answer" : WHOLE.format(characters[number]);
    fillMeter(meter, chances[number]);
  });
  scrollWithin(place, place.children[family.indexOf(chosen)]);
}

function makeCellButton(cell, choose) {
  const button = make("button", "cell");
  button.type = "button";
  const label = make("span", "cell-label", cell.name);
  if (cell.baseline === null) label.append(make("span", "quietly", " baseline"));
  button.append(label, make("span", "cell-verdict"), make("span", "cell-length"), makeMeter());
  button.addEventListener("click", choose);
  return button;
}

function makeMeter() {
  const meter = make("span", "meter");
  meter.setAttribute("aria-hidden", "true");
  meter.append(make("span", "meter-fill"));
  return meter;
}

function fillMeter(meter, chance) {
  meter.classList.toggle("empty", chance === null);
  meter.firstChild.style.width = `${100 * (chance ?? 0)}%`;
}

function summarise(cells, left, right, number, change) {
  if (left === null) return `${cells[right].label} is a baseline: others are compared with it.`;
  const judged = cells[left].verdicts[number] !== "-" && cells[right].verdicts[number] !== "-";
  const verdict = !judged ? "Not judged on both sides." : isFlip(cells, left, right, number, "flips") ? "The verdict flips." : "No flip.";
  const length = change === null ? "" : change === 0 ? "The same length." : `${count(Math.abs(change), "character")} ${change > 0 ? "longer" : "shorter"}.`;
  return `${verdict} ${length}`;
}

function drawAnswer(cell, text, number, { kind, runs }) {
  const article = make("article", `answer-of ${kind}`);
  const head = make("header");
  head.append(make("h4", "", cell.label), make("p", "role", kind === "chosen" ? "chosen cell" : "compared with"));
  article.append(head, drawNumbers(cell, number), drawText(text, runs, kind === "chosen" ? "ins" : "del"));
  return article;
}

function drawNumbers(cell, number) {
  const box = make("div", "numbers");
  const chance = cell.chances[number], repetition = cell.repetition[number];
  const verdict = make("p", "numbers-verdict");
  verdict.append(makeBadge(cell.verdicts[number]), ` ${VERDICTS[cell.verdicts[number]]}`);
  const why = cell.holes[number];
  if (why) verdict.append(`: ${why}`);
  const meter = makeMeter();
  fillMeter(meter, chance);
  const facts = [];
  if (chance !== null) facts.push(`probability ${chance.toFixed(2)}`);
  if (cell.characters[number] !== null) facts.push(count(cell.characters[number], "character"));
  if (repetition !== null) facts.push(`${repetition.toFixed(1)}\u00a0% repeated 2-grams`);
  box.append(verdict, meter, make("p", "numbers-facts", facts.join(" · ")));
  return box;
}

function drawText(text, runs, mark) {
  if (text === null || text === undefined) return make("p", "nothing", "This cell was not asked.");
  if (text === "") return make("p", "nothing", "The answer is empty.");
  const box = make("div", "model-text");
  if (!runs) box.textContent = text;
  else box.append(...runs.flatMap((run) => (run.changed ? markWords(run.text, mark) : [run.text])));
  return box;
}

/** The mark ends with the last word, not with the space behind it. */
function markWords(text, mark) {
  const words = text.trimEnd();
  return [make(mark, "", words), text.slice(words.length)];
}

function drawReference(text, judged) {
  const article = make("article", "answer-of reference");
  const head = make("header");
  head.append(make("h4", "", "Reference"), make("p", "role", judged ? "shown to the judge" : "not judged"));
  article.append(head);
  if (text === undefined) article.append(make("p", "nothing", "This instruction has no reference answer here."));
  else article.append(make("p", "numbers numbers-facts", count([...text].length, "character")), drawText(text));
  return article;
}
