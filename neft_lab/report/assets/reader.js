/* The reader: one instruction at a time, its answers parsed from the page when they are first needed. */

const readerIndex = document.getElementById("reader-index");
if (readerIndex) openReader(JSON.parse(readerIndex.textContent));

function openReader({ instructions, cells }) {
  const element = (id) => document.getElementById(id);
  const section = element("reader"), list = element("list"), search = element("search");
  const firstArm = Math.max(0, cells.findIndex((cell) => cell.baseline !== null));
  const families = [...new Set(cells.map((cell) => cell.family))];
  const state = { cell: firstArm, at: 0, shown: [] };
  const answers = readAnswers(cells.length);
  const rows = instructions.map((one, number) => makeRow(one, number));

  const besideOf = (cell) => (element("beside").value === "" ? cells[cell].baseline : Number(element("beside").value));
  const beside = () => (besideOf(state.cell) === state.cell ? null : besideOf(state.cell));
  const change = (number) => lengthChange(cells, beside(), state.cell, number);

  function applyFilters() {
    const words = search.value.trim().toLowerCase(), left = beside(), flips = element("flips").value;
    const searched = [state.cell, left].filter((cell) => cell !== null);
    const passes = (one, number) =>
      (!element("dataset").value || one.dataset === element("dataset").value) &&
      (flips === "all" || isFlip(cells, left, state.cell, number, flips)) &&
      (!words || one.text.toLowerCase().includes(words) ||
        one.references.some((text) => text.toLowerCase().includes(words)) ||
        searched.some((cell) => answers.lower(cell)[number]?.includes(words)));
    state.shown = [...instructions.keys()].filter((number) => passes(instructions[number], number));
    if (element("order").value === "change") {
      state.shown.sort((a, b) => Math.abs(change(b) ?? 0) - Math.abs(change(a) ?? 0) || a - b);
    }
    drawList();
    select(state.shown.includes(state.at) ? state.at : state.shown[0]);
  }

  function drawList() {
    const left = beside();
    state.shown.forEach((number, place) => {
      fillRow(rows[number], cells, left, state.cell, number, change(number));
      rows[number].setAttribute("aria-posinset", place + 1);
      rows[number].setAttribute("aria-setsize", state.shown.length);
    });
    const wanted = state.shown.map((number) => rows[number]);
    if (wanted.length !== list.children.length || wanted.some((row, place) => row !== list.children[place])) {
      list.replaceChildren(...wanted);
    }
    const total = instructions.length;
    element("found").textContent = state.shown.length ? `${state.shown.length} of ${total} instructions`
      : "No instruction passes these filters.";
  }

  function select(number) {
    rows[state.at].setAttribute("aria-selected", "false");
    element("open").hidden = number === undefined;
    if (number === undefined) return list.removeAttribute("aria-activedescendant");
    state.at = number;
    rows[number].setAttribute("aria-selected", "true");
    list.setAttribute("aria-activedescendant", rows[number].id);
    scrollWithin(list, rows[number]);
    drawOpen();
  }

  function drawOpen() {
    const number = state.at, one = instructions[number], left = beside();
    element("where").textContent = `${number + 1} of ${instructions.length}, ${one.dataset}`;
    element("link").href = `#answer-${number + 1}-${state.cell + 1}`;
    element("instruction").textContent = one.text;
    element("family").value = cells[state.cell].family;
    drawCells(element("cells"), cells, state.cell, number, chooseCell);
    element("summary").textContent = summarise(cells, left, state.cell, number, change(number));
    const marked = element("marks").checked && left !== null
      ? compareWords(answers.texts(left)[number] ?? "", answers.texts(state.cell)[number] ?? "") : undefined;
    const shown = [left, state.cell].filter((cell) => cell !== null)
      .map((cell) => drawAnswer(cells[cell], answers.texts(cell)[number], number,
        { kind: cell === state.cell ? "chosen" : "beside", runs: marked?.[cell === state.cell ? "right" : "left"] }));
    const reference = one.references[cells[state.cell].references[number] ?? 0];
    element("answers").replaceChildren(...shown, drawReference(reference, cells[state.cell].chances.some((chance) => chance !== null)));
    if (marked === null) element("summary").textContent += " Too long to compare word by word.";
    element("open").scrollTop = 0;
  }

  function chooseCell(cell) {
    state.cell = (cell + cells.length) % cells.length;
    applyFilters();
  }

  function step(by) {
    const place = state.shown.indexOf(state.at) + by;
    if (place >= 0 && place < state.shown.length) select(state.shown[place]);
  }

  function openLink() {
    const found = /^#answer-(\d+)-(\d+)$/.exec(location.hash);
    if (!found || !rows[found[1] - 1] || !cells[found[2] - 1]) return;
    state.cell = found[2] - 1;
    state.at = found[1] - 1;
    applyFilters();
    section.scrollIntoView();
  }

  const actions = {
    j: () => step(1), k: () => step(-1), h: () => chooseCell(state.cell - 1), l: () => chooseCell(state.cell + 1),
    ArrowDown: () => step(1), ArrowUp: () => step(-1),
    ArrowLeft: () => chooseCell(state.cell - 1), ArrowRight: () => chooseCell(state.cell + 1),
    Home: () => select(state.shown[0]), End: () => select(state.shown.at(-1)),
    "/": () => search.focus(),
    f: () => { element("flips").value = element("flips").value === "all" ? "flips" : "all"; applyFilters(); },
    d: () => { element("marks").checked = !element("marks").checked; drawOpen(); },
  };

  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && event.target === search) {
      search.value = "";
      applyFilters();
      list.focus();
    } else if (mayAct(event, section, list, element("letters").checked) && actions[event.key]) {
      event.preventDefault();
      actions[event.key]();
    }
  });
  search.addEventListener("input", applyFilters);
  for (const id of ["flips", "dataset", "order", "beside"]) element(id).addEventListener("change", applyFilters);
  element("marks").addEventListener("change", drawOpen);
  list.addEventListener("click", (event) => {
    const row = event.target.closest("[role=option]");
    if (row) select(Number(row.dataset.number));
  });
  addEventListener("hashchange", openLink);
  for (const name of new Set(instructions.map((one) => one.dataset))) element("dataset").add(new Option(name, name));
  for (const name of families) element("family").add(new Option(name, name));
  element("families").hidden = families.length < 2;
  element("family").addEventListener("change", () => chooseCell(inFamily(cells, state.cell, element("family").value)));
  cells.forEach((cell, number) => element("beside").add(new Option(cell.label, number)));
  applyFilters();
  openLink();
  section.dataset.ready = "true";
}

/** The answers of each cell, parsed once, when asked for; lower-cased ones for the search. */
function readAnswers(count) {
  const texts = new Array(count), lower = new Array(count);
  const read = (cell) => (texts[cell] ??= JSON.parse(document.getElementById(`answers-${cell}`).textContent));
  return { texts: read, lower: (cell) => (lower[cell] ??= read(cell).map((text) => text?.toLowerCase())) };
}

/** The cell of another family that goes by the same name, or its first. */
function inFamily(cells, cell, family) {
  const same = cells.findIndex((other) => other.family === family && other.name === cells[cell].name);
  return same >= 0 ? same : cells.findIndex((other) => other.family === family);
}

function lengthChange(cells, left, right, number) {
  const before = left === null ? null : cells[left].characters[number], after = cells[right].characters[number];
  return before === null || after === null ? null : after - before;
}

/** Whether the verdict against the reference is another one; a missing verdict is no flip. */
function isFlip(cells, left, right, number, kind) {
  if (left === null) return false;
  const before = cells[left].verdicts[number], after = cells[right].verdicts[number];
  if (before === "-" || after === "-" || before === after) return false;
  return kind === "flips" || after === (kind === "won" ? "w" : "l");
}

/** Letters act while the reader is in view and nothing is being typed; arrows only inside the list. */
function mayAct(event, section, list, letters) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input:not([type=checkbox]), select")) return false;
  if (event.key.length > 1) return event.target === list;
  const place = section.getBoundingClientRect();
  return letters && place.top < innerHeight * 0.7 && place.bottom > innerHeight * 0.3;
}

function scrollWithin(list, row) {
  const above = row.offsetTop - list.scrollTop, below = above + row.offsetHeight - list.clientHeight;
  if (above < 0) list.scrollTop += above;
  else if (below > 0) list.scrollTop += below;
}
