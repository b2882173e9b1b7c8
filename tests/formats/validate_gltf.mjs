// Runs the Khronos glTF validator on the files named after its own folder and prints one JSON report per line.
//   node validate_gltf.mjs <folder of gltf-validator> FILE...
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";

const [packageFolder, ...files] = process.argv.slice(2);
const validator = createRequire(import.meta.url)(packageFolder);
for (const file of files) {
  const report = await validator.validateBytes(new Uint8Array(readFileSync(file)), { maxIssues: 100 });
  console.log(JSON.stringify({ file, issues: report.issues, info: report.info }));
}
