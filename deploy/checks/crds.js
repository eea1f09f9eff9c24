// Checks resources of other projects' kinds, from standard input as a JSON array, against those projects' schemas; what
// a schema does not name is refused. Prints a JSON array of problems. Run in the folder that has node_modules.
"use strict";
const path = require("path");
const from = (name) => require(require.resolve(name, { paths: [process.cwd()] }));

// The models register their schemas as they are loaded: made strict on the way.
const strict = (schema) => {
  if (Array.isArray(schema)) return schema.map(strict);
  if (schema === null || typeof schema !== "object") return schema;
  const copy = Object.fromEntries(Object.entries(schema).map(([key, value]) => [key, strict(value)]));
  if (copy.type === "object" && copy.properties && !("additionalProperties" in copy)
      && !copy["x-kubernetes-preserve-unknown-fields"]) {
    copy.additionalProperties = false;
  }
  return copy;
};

const kinds = {
  "gateway.networking.k8s.io/v1": "@kubernetes-models/gateway-api/gateway.networking.k8s.io/v1",
  "keda.sh/v1alpha1": "@kubernetes-models/keda/keda.sh/v1alpha1",
  "monitoring.coreos.com/v1": "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1",
};
const validators = new Set(Object.values(kinds).map((name) => {
  const packageRoot = name.split("/").slice(0, 2).join("/");
  const base = path.dirname(require.resolve(packageRoot, { paths: [process.cwd()] }));
  return require.resolve("@kubernetes-models/validate", { paths: [base] });
}));
for (const file of validators) {
  const validate = require(file);
  const wrapped = { ...validate, register: (id, schema) => validate.register(id, strict(schema)) };
  require.cache[file].exports = wrapped;
}

const problems = [];
for (const resource of JSON.parse(require("fs").readFileSync(0, "utf8"))) {
  const label = `${resource.kind} ${resource.metadata.name}`;
  const models = kinds[resource.apiVersion] && from(kinds[resource.apiVersion]);
  if (!models || !models[resource.kind]) {
    problems.push(`${label}: no schema of ${resource.apiVersion} to check it against`);
    continue;
  }
  try {
    new models[resource.kind](resource).validate();
  } catch (error) {
    problems.push(`${label}: ${error.message}`);
  }
}
console.log(JSON.stringify(problems));
