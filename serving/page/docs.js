// Shows openapi.json: routes, what their bodies hold, and their answers.

function element(name, { text, ...attributes } = {}, ...children) {
  const made = document.createElement(name);
  for (const [attribute, value] of Object.entries(attributes)) made.setAttribute(attribute, value);
  if (text !== undefined) made.textContent = text;
  made.append(...children);
  return made;
}

const schemas = {};
const named = (schema) => schema.$ref ? schemas[schema.$ref.split("/").at(-1)] : schema;

// A schema as a short word: string, integer[], "right" | "left", {…}.
function typeOf(schema) {
  const whole = named(schema);
  if (whole.enum) return whole.enum.map((value) => JSON.stringify(value)).join(" | ");
  if (whole.anyOf) return [...new Set(whole.anyOf.map(typeOf))].join(" | ");
  if (whole.type === "array") return `(${typeOf(whole.items ?? {})})[]`.replace(/^\((\w+)\)/, "$1");
  if (whole.properties) return `{ ${Object.entries(whole.properties).map(([name, one]) => `${name}: ${typeOf(one)}`).join(", ")} }`;
  return whole.type ?? "any";
}

function fields(schema) {
  const whole = named(schema);
  if (!whole.properties) return element("p", { text: typeOf(whole) });
  const rows = Object.entries(whole.properties).map(([name, one]) => {
    const rest = whole.required?.includes(name) ? "required" : one.default !== undefined && one.default !== null ? `default ${JSON.stringify(one.default)}` : "optional";
    return element("li", {}, element("code", { text: name }), ` ${typeOf(one)}, ${rest}`);
  });
  return element("ul", {}, ...rows);
}

function route(path, method, operation) {
  const shown = element("section", { class: "route" }, element("h2", { text: `${method.toUpperCase()} ${path}` }));
  if (operation.description) shown.append(element("p", { text: operation.description }));
  const body = operation.requestBody?.content["application/json"]?.schema;
  if (body) shown.append(fields(body));
  const answer = operation.responses["200"]?.content?.["application/json"]?.schema;
  if (answer && typeOf(answer) !== "any") shown.append(element("p", { text: `Answer: ${typeOf(answer)}` }));
  const errors = Object.keys(operation.responses).filter((status) => status !== "200");
  if (errors.length) shown.append(element("p", { class: "hint", text: `Errors: ${errors.join(", ")}` }));
  return shown;
}

const description = await (await fetch("openapi.json")).json();
Object.assign(schemas, description.components?.schemas);
for (const [path, methods] of Object.entries(description.paths)) {
  for (const [method, operation] of Object.entries(methods)) {
    document.getElementById("routes").append(route(path, method, operation));
  }
}
