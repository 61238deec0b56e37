// Real MicroPython (its WebAssembly build) as a board on TCP: the raw REPL that mpremote speaks.
//
//   node serve.mjs MICROPYTHON.mjs    standard input: {"files": {path: base64}, "drop": text,
//                                      "stall": text}
//
// Prints its port. Files, NVS and variables outlive connections, as on a board. At a program that
// holds the text `drop` the cable is pulled: the connection is closed and the server ends; at
// `stall` the board prints `stalled` and answers no more.
import { readFileSync } from "node:fs";
import net from "node:net";

const job = JSON.parse(readFileSync(0, "utf8"));
const { loadMicroPython } = await import(process.argv[2]);
let printed = [];
const keep = (data) => printed.push(Buffer.from(data));
const mp = await loadMicroPython({
  heapsize: 8 * 1024 * 1024,
  linebuffer: false,
  stdout: keep,
  stderr: keep,
});
for (const [path, content] of Object.entries(job.files)) {
  mp.FS.mkdirTree(path.slice(0, path.lastIndexOf("/")) || "/");
  mp.FS.writeFile(path, Buffer.from(content, "base64"));
}

const CTRL_A = 1, CTRL_B = 2, CTRL_C = 3, CTRL_D = 4;
const PASTE = Buffer.from([5, 0x41, 1]);

// The build's file errors have emscripten's numbers; a board has the usual ones.
const asOnBoard = (text) => text.replace("OSError: 44", "OSError: [Errno 2] ENOENT");

function answer(program) {
  printed = [];
  let error = "";
  try {
    mp.runPython(program);
  } catch (raised) {
    error = asOnBoard(raised.message).replaceAll("\n", "\r\n");
  }
  const end = Buffer.from([CTRL_D]);
  const shown = Buffer.from(Buffer.concat(printed).toString("latin1").replaceAll("\n", "\r\n"), "latin1");
  return Buffer.concat([Buffer.from("OK"), shown, end, Buffer.from(error), end, Buffer.from(">")]);
}

const server = net.createServer((socket) => {
  let raw = false;
  let pending = [];
  socket.on("error", () => {});
  socket.on("data", (data) => {
    for (const byte of data) {
      if (byte === CTRL_A) {
        if (raw && PASTE.equals(Buffer.from([...pending, byte]))) {
          // Raw paste is understood and not offered.
          socket.write("R\0");
        } else {
          raw = true;
          socket.write("raw REPL; CTRL-B to exit\r\n>");
        }
        pending = [];
      } else if (byte === CTRL_B) {
        raw = false;
        pending = [];
        socket.write("\r\n>>> ");
      } else if (byte === CTRL_C) {
        pending = [];
      } else if (byte === CTRL_D && raw) {
        const program = Buffer.from(pending).toString();
        pending = [];
        if (job.drop && program.includes(job.drop)) {
          socket.destroy();
          process.exit(0);
        }
        if (job.stall && program.includes(job.stall)) console.log("stalled");
        else socket.write(answer(program));
      } else {
        pending.push(byte);
      }
    }
  });
});
server.listen(0, "127.0.0.1", () => console.log(server.address().port));
