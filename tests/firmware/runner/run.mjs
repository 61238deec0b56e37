// Runs one Python program in real MicroPython (its WebAssembly build), with files and sockets.
//
//   node run.mjs MICROPYTHON.mjs     standard input: {"files": {path: base64}, "program": source}
//
// What the program prints goes to standard output; an exception that it raises ends with status 1.
// The module `jsnet` gives it TCP. Bytes cross as hex: a string would end at its first NUL.
import { readFileSync } from "node:fs";
import net from "node:net";

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

// One read waits at a time; the socket is paused while nobody reads, as a real one's buffer fills.
class Connection {
  constructor(socket) {
    this.socket = socket;
    this.received = Buffer.alloc(0);
    this.ended = false;
    this.wake = null;
    socket.pause();
    socket.on("data", (data) => {
      this.received = Buffer.concat([this.received, data]);
      socket.pause();
      this.ring();
    });
    socket.on("close", () => {
      this.ended = true;
      this.ring();
    });
    socket.on("error", () => {});
  }

  ring() {
    this.wake?.();
    this.wake = null;
  }

  async read(most) {
    if (!this.received.length && !this.ended) {
      this.socket.resume();
      await new Promise((wake) => (this.wake = wake));
    }
    const taken = this.received.subarray(0, most);
    this.received = this.received.subarray(taken.length);
    return taken.toString("hex");
  }

  // Resolves once the bytes were handed to the system: a peer that reads nothing holds it up.
  write(hex) {
    return new Promise((done, failed) => {
      if (this.ended || this.socket.destroyed) return failed(new Error("closed"));
      this.socket.write(Buffer.from(hex, "hex"), (error) => (error ? failed(error) : done()));
    });
  }

  close() {
    this.socket.destroy();
  }
}

mp.registerJsModule("jsnet", {
  connect: (host, port) =>
    new Promise((done, failed) => {
      const socket = net.connect({ host, port, noDelay: true });
      socket.once("connect", () => done(new Connection(socket)));
      socket.once("error", failed);
    }),
});

try {
  await mp.runPythonAsync(job.program);
  // What is still on its way into the pipe would be lost with a bare exit.
  process.stdout.write("", () => process.exit(0));
} catch (error) {
  console.error(error.message);
  process.exit(1);
}
