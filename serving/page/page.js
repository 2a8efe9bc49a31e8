// The page that tries every task the model can do. Texts are only ever put into the document as text.

const byId = (id) => document.getElementById(id);
const state = { key: "", info: null, task: null, running: null };

function element(name, { text, ...attributes } = {}, ...children) {
  const made = document.createElement(name);
  for (const [attribute, value] of Object.entries(attributes)) made.setAttribute(attribute, value);
  if (text !== undefined) made.textContent = text;
  made.append(...children);
  return made;
}

// ---- what each task asks and shows ----

const percent = (score) => `${(100 * score).toFixed(1)} %`;
const lines = (text) => text.split("\n").map((line) => line.trim()).filter(Boolean);

function bars(rows) {
  const list = element("ul", { class: "bars" });
  for (const { name, note, score, shown } of rows) {
    const bar = element("span", { class: "bar", "aria-hidden": "true" });
    bar.style.width = `${100 * Math.min(1, Math.max(0, score))}%`;
    const label = element("span", { class: "name", text: name });
    if (note) label.append(element("small", { text: note }));
    list.append(element("li", {}, bar, label, element("span", { class: "value", text: shown ?? percent(score) })));
  }
  return list;
}

// The text with spans [{start, end, best, label}] marked; positions count characters, not UTF-16 units.
function marked(text, spans) {
  const characters = Array.from(text);
  const shown = element("p", { class: "text" });
  let done = 0;
  for (const span of [...spans].sort((one, other) => one.start - other.start)) {
    if (span.start < done) continue;
    shown.append(characters.slice(done, span.start).join(""));
    const mark = element("mark", { text: characters.slice(span.start, span.end).join("") });
    if (span.best) mark.className = "best";
    if (span.label) mark.append(element("b", { text: span.label }));
    shown.append(mark);
    done = span.end;
  }
  shown.append(characters.slice(done).join(""));
  return shown;
}

function heatMap(sentences, vectors) {
  const table = element("table", { class: "heat" });
  table.append(element("caption", { class: "hint", text: "Cosine similarity" }));
  const numbers = sentences.map((_, index) => element("th", { scope: "col", text: String(index + 1), title: sentences[index] }));
  table.append(element("thead", {}, element("tr", {}, element("td"), ...numbers)));
  const body = element("tbody");
  sentences.forEach((sentence, row) => {
    const cells = vectors.map((other) => {
      const value = vectors[row].reduce((sum, number, place) => sum + number * other[place], 0);
      const cell = element("td", { text: value.toFixed(2) });
      cell.style.setProperty("--value", String(Math.max(0, value)));
      if (value > 0.6) cell.className = "strong";
      return cell;
    });
    body.append(element("tr", {}, element("th", { scope: "row", text: `${row + 1}. ${sentence}`, title: sentence }), ...cells));
  });
  table.append(body);
  return element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Similarity" }, table);
}

const TASKS = {
  "fill-mask": {
    title: "Fill masks",
    about: "Write [MASK] in place of a word; the model says which words fit.",
    fields: [
      { name: "text", label: "Text", kind: "area", value: "The capital of France is [MASK].", insert: "[MASK]" },
      { name: "top_k", label: "Words for each mask", kind: "number", value: 5 },
    ],
    request: ({ text, top_k }) => ["fill-mask", { inputs: text, parameters: { top_k } }],
    show: (answer) => {
      const masks = Array.isArray(answer[0]) ? answer : [answer];
      return masks.flatMap((words, index) => [
        ...(masks.length > 1 ? [element("h2", { text: `Mask ${index + 1}` })] : []),
        bars(words.map((word) => ({ name: word.token_str, note: word.sequence.slice(0, 200), score: word.score }))),
      ]);
    },
  },
  "question-answering": {
    title: "Answer questions",
    about: "The model looks for the answer in the text.",
    fields: [
      { name: "question", label: "Question", kind: "line", value: "Where does the river end?" },
      { name: "context", label: "Text", kind: "area", rows: 7, value: "The river rises in the hills. It ends in the sea near the old town." },
      { name: "top_k", label: "Answers", kind: "number", value: 3 },
      { name: "empty", label: "The text may hold no answer", kind: "check" },
    ],
    request: ({ question, context, top_k, empty }) =>
      ["question-answering", { inputs: { question, context }, parameters: { top_k, handle_impossible_answer: empty } }],
    show: (answer, { context }) => {
      const found = (Array.isArray(answer) ? answer : [answer]).filter(Boolean);
      const spans = found.map((one, index) => ({ ...one, best: index === 0 })).filter((one) => one.end > one.start);
      const firsts = [...spans].filter((span, index) => !spans.slice(0, index).some((other) => other.start < span.end && span.start < other.end));
      return [marked(context, firsts), element("h2", { text: "Answers" }),
        bars(found.map((one) => ({ name: one.answer || "(no answer)", score: one.score })))];
    },
  },
  "text-classification": {
    title: "Classify",
    about: "The labels of a text, or of a pair of texts.",
    fields: [
      { name: "text", label: "Text", kind: "area", value: "A wonderful film." },
      { name: "pair", label: "Second text (optional)", kind: "area", rows: 2, optional: true },
    ],
    request: ({ text, pair }) => ["predict", { inputs: pair ? [text, pair] : text }],
    show: (answer) => [bars(answer.map(({ label, score }) =>
      ({ name: label, score: answer.length > 1 ? score : 0, shown: answer.length > 1 ? percent(score) : score.toFixed(4) })))],
  },
  "token-classification": {
    title: "Find entities",
    about: "The names in a text, with their kinds.",
    fields: [{ name: "text", label: "Text", kind: "area", value: "Marie Curie was born in Warsaw." }],
    request: ({ text }) => ["token-classification", { inputs: text }],
    show: (answer, { text }) => [
      marked(text, answer.map((one) => ({ start: one.start, end: one.end, label: one.entity_group ?? one.entity, best: true }))),
      element("h2", { text: "Entities" }),
      bars(answer.map((one) => ({ name: one.word, note: one.entity_group ?? one.entity, score: one.score }))),
    ],
  },
  "next-sentence": {
    title: "Next sentence",
    about: "How likely the second text follows the first.",
    fields: [
      { name: "text", label: "First text", kind: "area", rows: 2, value: "It rains." },
      { name: "text_pair", label: "Second text", kind: "area", rows: 2, value: "Take an umbrella." },
    ],
    request: (inputs) => ["next-sentence", { inputs }],
    show: ({ label, score }) => {
      const follows = label === "is_next" ? score : 1 - score;
      return [bars([{ name: "It follows", score: follows }, { name: "It does not follow", score: 1 - follows }])];
    },
  },
  "rerank": {
    title: "Rank",
    about: "Orders texts by their relevance to a query.",
    fields: [
      { name: "query", label: "Query", kind: "line", value: "How do rivers end?" },
      { name: "texts", label: "Texts, one per line", kind: "area", value: "Rivers flow into the sea.\nCats sleep a lot." },
    ],
    request: ({ query, texts }) => ["rerank", { query, texts: lines(texts), return_text: true, truncate: true }],
    show: (answer) => [bars(answer.map((one) => ({ name: one.text, score: one.score })))],
  },
  "feature-extraction": {
    title: "Compare",
    about: "How similar sentences are, by the angle between their embeddings.",
    fields: [{ name: "sentences", label: "Sentences, one per line", kind: "area", rows: 5,
      value: "The cat sleeps.\nA kitten is napping.\nThe train is late." }],
    request: ({ sentences }) => ["embed", { inputs: lines(sentences), truncate: true }],
    show: (vectors, { sentences }) => [heatMap(lines(sentences), vectors)],
  },
  "tokens": {
    title: "Tokens",
    about: "How the model splits a text, with the ids of the tokens.",
    fields: [{ name: "text", label: "Text", kind: "area", value: "Unbelievably good." }],
    request: ({ text }) => ["tokenize", { inputs: text }],
    show: ([tokens]) => [element("ul", { class: "tokens" }, ...tokens.map((token) =>
      element("li", token.special ? { class: "special", text: token.text } : { text: token.text },
        element("small", { text: String(token.id) }))))],
  },
};

// ---- requests ----

async function call(path, body) {
  const headers = { "Content-Type": "application/json" };
  if (state.key) headers.Authorization = `Bearer ${state.key}`;
  state.running?.abort();
  state.running = new AbortController();
  const response = await fetch(path, {
    method: body === undefined ? "GET" : "POST",
    headers,
    body: body === undefined ? undefined : JSON.stringify(body),
    signal: state.running.signal,
  });
  const answer = await response.json().catch(() => null);
  if (response.ok) return answer;
  if (response.status === 401) byId("key-form").hidden = false;
  const problem = new Error(answer?.error?.message ?? answer?.error ?? `status ${response.status}`);
  problem.status = response.status;
  throw problem;
}

function showError(error) {
  if (error.name === "AbortError") return;
  byId("error").textContent = error instanceof TypeError ? "The service does not answer." : error.message;
  byId("error").hidden = false;
}

function clearAnswer() {
  state.running?.abort();
  for (const id of ["answer", "error", "request"]) byId(id).hidden = true;
  byId("answer").replaceChildren();
  byId("status").textContent = "";
  byId("run").disabled = false;
}

async function run(event) {
  event.preventDefault();
  const task = TASKS[state.task];
  const values = Object.fromEntries(task.fields.map(({ name, kind }) => {
    const input = byId(`field-${name}`);
    return [name, kind === "number" ? Number(input.value) : kind === "check" ? input.checked : input.value];
  }));
  const [route, body] = task.request(values);
  const path = `models/${encodeURIComponent(byId("model").value)}/${route}`;
  clearAnswer();
  byId("run").disabled = true;
  byId("status").textContent = "Running …";
  const started = performance.now();
  try {
    const answer = await call(path, body);
    byId("answer").replaceChildren(...task.show(answer, values));
    byId("answer").hidden = false;
    byId("status").textContent = `${Math.round(performance.now() - started)} ms`;
    byId("run").disabled = false;
  } catch (error) {
    if (error.name === "AbortError") return;
    byId("status").textContent = "";
    byId("run").disabled = false;
    showError(error);
  }
  const shell = `'${JSON.stringify(body).replaceAll("'", "'\\''")}'`;
  byId("command").textContent = `curl ${new URL(path, document.baseURI)} -H 'Content-Type: application/json' -d ${shell}`;
  byId("request").hidden = false;
}

// ---- tabs and fields ----

function field({ name, label, kind, rows, value, insert, optional }) {
  const id = `field-${name}`;
  const input = kind === "area"
    ? element("textarea", { id, rows: rows ?? 3, spellcheck: "false" })
    : element("input", { id, type: { line: "text", number: "number", check: "checkbox" }[kind] });
  if (kind === "number") Object.assign(input, { min: 1, max: 100 });
  if (value !== undefined) input.value = value;
  if (!optional && kind !== "check") input.required = true;
  const named = element("label", { for: id, text: label });
  if (kind === "check") return element("div", { class: "field check" }, input, named);
  const made = element("div", { class: "field" }, named, input);
  if (insert) {
    const button = element("button", { type: "button", class: "plain", text: `Insert ${insert}` });
    button.addEventListener("click", () => {
      input.setRangeText(insert, input.selectionStart, input.selectionEnd, "end");
      input.focus();
    });
    made.append(button);
  }
  return made;
}

function choose(name) {
  state.task = name;
  clearAnswer();
  for (const tab of byId("tabs").children) {
    const chosen = tab.dataset.task === name;
    tab.setAttribute("aria-selected", String(chosen));
    tab.tabIndex = chosen ? 0 : -1;
    if (chosen) byId("task").setAttribute("aria-labelledby", tab.id);
  }
  byId("about").textContent = TASKS[name].about;
  byId("fields").replaceChildren(...TASKS[name].fields.map(field));
}

function moveTab(event) {
  const tabs = [...byId("tabs").children];
  const steps = { ArrowRight: 1, ArrowLeft: -1, Home: -tabs.indexOf(event.target), End: tabs.length - 1 - tabs.indexOf(event.target) };
  if (!(event.key in steps)) return;
  event.preventDefault();
  const next = tabs[(tabs.indexOf(event.target) + steps[event.key] + tabs.length) % tabs.length];
  choose(next.dataset.task);
  next.focus();
}

function tasksOf({ tasks, model_type }) {
  const labels = Object.keys((model_type.reranker ?? model_type.classifier)?.id2label ?? {}).length;
  return [...tasks.filter((task) => task in TASKS), ...(labels === 1 || labels === 2 ? ["rerank"] : []), "tokens"];
}

async function showModel() {
  byId("tabs").replaceChildren();
  state.info = await call(`models/${encodeURIComponent(byId("model").value)}/info`);
  const names = tasksOf(state.info);
  byId("tabs").replaceChildren(...names.map((name) => {
    const tab = element("button", { type: "button", role: "tab", id: `tab-${name}`, "aria-controls": "task", text: TASKS[name].title });
    tab.dataset.task = name;
    tab.addEventListener("click", () => choose(name));
    return tab;
  }));
  choose(names.includes(state.task) ? state.task : names[0]);
}

async function start() {
  try {
    const { data } = await call("v1/models");
    byId("model").replaceChildren(...data.map(({ id }) => element("option", { value: id, text: id })));
    byId("model-field").hidden = false;
    byId("key-form").hidden = true;
    byId("error").hidden = true;
    await showModel();
  } catch (error) {
    showError(error);
  }
}

byId("form").addEventListener("submit", run);
byId("form").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) byId("form").requestSubmit();
});
byId("tabs").addEventListener("keydown", moveTab);
byId("model").addEventListener("change", () => showModel().catch(showError));
byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  state.key = byId("key").value;
  start();
});
start();
