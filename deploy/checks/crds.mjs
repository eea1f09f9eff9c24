// Checks resources of other projects' kinds, from standard input as a JSON array, against those projects' schemas.
// Prints a JSON array of problems. Runs in the folder that has node_modules.
//
// The schemas say what values must look like, and let pass what they do not know; the types made of them name what is
// allowed, so a compiler that meets a misspelt field in a literal refuses it. Both together are strict.

import { readFileSync, writeFileSync } from "node:fs";
import ts from "typescript";

const groups = {
  "gateway.networking.k8s.io/v1": "@kubernetes-models/gateway-api/gateway.networking.k8s.io/v1",
  "networking.gke.io/v1": "@kubernetes-models/gke/networking.gke.io/v1",
  "keda.sh/v1alpha1": "@kubernetes-models/keda/keda.sh/v1alpha1",
  "postgresql.cnpg.io/v1": "@kubernetes-models/cloudnative-pg/postgresql.cnpg.io/v1",
  "monitoring.coreos.com/v1": "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1",
};

const problems = [];
const lines = [];
for (const resource of JSON.parse(readFileSync(0, "utf8"))) {
  const { apiVersion, kind, metadata } = resource;
  const models = groups[apiVersion] && (await import(groups[apiVersion]));
  if (!models?.[kind]) {
    problems.push(`${kind} ${metadata.name}: no schema of ${apiVersion} to check it against`);
    continue;
  }
  try {
    new models[kind](resource).validate();
  } catch (error) {
    problems.push(`${kind} ${metadata.name}: ${error.message}`);
  }
  const type = `import("${groups[apiVersion]}").I${kind}`;
  lines.push(`export const resource${lines.length}: ${type} = ${JSON.stringify(resource)};`);
}

const file = "resources.ts";
writeFileSync(file, lines.join("\n"));
const program = ts.createProgram([file], {
  strict: true,
  noEmit: true,
  skipLibCheck: true,
  module: ts.ModuleKind.NodeNext,
  moduleResolution: ts.ModuleResolutionKind.NodeNext,
  types: [],
});
for (const diagnostic of ts.getPreEmitDiagnostics(program)) {
  problems.push(ts.flattenDiagnosticMessageText(diagnostic.messageText, " "));
}
console.log(JSON.stringify(problems));
