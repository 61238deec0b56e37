// Runs one Python program in real MicroPython (its WebAssembly build), with files and sockets.
//
//   node run.mjs MICROPYTHON.mjs     standard input: {"files": {path: base64}, "program": source}
//
// What the program prints goes to standard output; an exception that it raises ends with status 1.
// The module `jsnet` gives it TCP.
import { readFileSync } from "node:fs";

import { jsnet } from "./net.mjs";

const job = JSON.parse(readFileSync(0, "utf8"));
const { loadMicroPython } = await import(process.argv[2]);
const mp = await loadMicroPython({
  heapsize: 64 * 1024 * 1024,
  linebuffer: true,
  stdout: (line) => console.log(line),
  stderr: (line) => console.error(line),
});

for (const [path, content] of Object.entries(job.files)) {
  mp.FS.mkdirTree(path.slice(0, path.lastIndexOf("/")));
  mp.FS.writeFile(path, Buffer.from(content, "base64"));
}

mp.registerJsModule("jsnet", jsnet);

try {
  await mp.runPythonAsync(job.program);
  // What is still on its way into the pipe would be lost with a bare exit.
  process.stdout.write("", () => process.exit(0));
} catch (error) {
  console.error(error.message);
  process.exit(1);
}
