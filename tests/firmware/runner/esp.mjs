// One boot of an ESP32 in real MicroPython: its flash lies on the host, its pins are lines of TCP.
//
//   node esp.mjs MICROPYTHON.mjs   standard input: {place, uart, control, pins, cause, library, program}
//
// With `virtual` ({now_ms, ticks_ms, next_ms}) time jumps (virtual.mjs): the line of the modules and
// what happens outside go over `control`, and time stands until they are answered.
//
// What the firmware closes, renames or removes is on the host at once: killing this process is a cut
// of power. It ends with 3 at machine.reset(), with 4 when the watchdog bites. Bytes cross as hex.
import { randomBytes } from "node:crypto";
import fs from "node:fs";
import path from "node:path";

import { joined, jsnet } from "./net.mjs";

const job = JSON.parse(fs.readFileSync(0, "utf8"));
const virtual = job.virtual ? await import("./virtual.mjs") : null;
const begin = virtual?.install(job.virtual.now_ms, job.virtual.ticks_ms);
const { loadMicroPython } = await import(process.argv[2]);
const mp = await loadMicroPython({
  heapsize: job.heap_bytes ?? 16 * 1024 * 1024,
  linebuffer: true,
  stdout: (line) => console.log(line),
  stderr: (line) => console.error(line),
});
begin?.();
const FS = mp.FS;
const flash = path.join(job.place, "flash");
const WRITES = 3; // O_WRONLY, O_RDWR
const NO_SPACE = 51;
let full = false;

function load(folder) {
  for (const entry of fs.readdirSync(path.join(flash, folder), { withFileTypes: true })) {
    const inner = `${folder}/${entry.name}`;
    if (entry.isDirectory()) {
      FS.mkdirTree(inner);
      load(inner);
    } else {
      FS.writeFile(inner, fs.readFileSync(path.join(flash, inner)));
    }
  }
}
load("");
for (const [name, content] of Object.entries(job.library)) {
  FS.mkdirTree(path.dirname(name));
  FS.writeFile(name, Buffer.from(content, "base64"));
}

// --- the flash ---------------------------------------------------------------------------------
const isKept = (name) => !/^\/(lib|tests-root|tmp|dev|proc|home)(\/|$)/.test(name);
const absolute = (name) => path.resolve("/", name);
const at = (name) => path.join(flash, absolute(name));
function replace(target, content) {
  fs.writeFileSync(`${target}.host`, content);
  fs.renameSync(`${target}.host`, target);
}
const original = { close: FS.close, open: FS.open, rename: FS.rename, unlink: FS.unlink, mkdir: FS.mkdir };
FS.open = (name, flags, mode) => {
  const writes = typeof flags === "number" ? flags & WRITES : /[wa+]/.test(flags ?? "");
  if (full && writes && typeof name === "string" && !fs.existsSync(at(name))) throw new FS.ErrnoError(NO_SPACE);
  return original.open.call(FS, name, flags, mode);
};
FS.close = (stream) => {
  const writes = (stream.flags & WRITES) !== 0 && FS.isFile(stream.node?.mode ?? 0);
  const name = writes ? FS.getPath(stream.node) : "";
  const done = original.close.call(FS, stream);
  if (writes && isKept(name)) replace(at(name), FS.readFile(name));
  return done;
};
FS.rename = (from, to) => {
  original.rename.call(FS, from, to);
  if (isKept(absolute(to))) fs.renameSync(at(from), at(to));
};
FS.unlink = (name) => {
  original.unlink.call(FS, name);
  if (isKept(absolute(name))) fs.rmSync(at(name));
};
FS.mkdir = (name, mode) => {
  const made = original.mkdir.call(FS, name, mode);
  if (isKept(absolute(name))) fs.mkdirSync(at(name), { recursive: true });
  return made;
};

// --- the wires ---------------------------------------------------------------------------------
const uart = virtual ? null : await joined("127.0.0.1", job.uart);
const control = await joined("127.0.0.1", job.control);
let received = Buffer.alloc(0);
uart?.on("data", (piece) => (received = Buffer.concat([received, piece])));
const pins = new Map(Object.entries(job.pins));
let wifi = job.wifi;
let quarters = 0;
let rest = "";
control.on("data", (piece) => {
  rest += piece;
  const lines = rest.split("\n");
  rest = lines.pop();
  for (const line of lines) {
    const order = JSON.parse(line);
    if ("pin" in order) pins.set(String(order.pin), order.level);
    if ("wifi" in order) wifi = order.wifi;
    if (!wifi) virtual?.loseNetwork();
    if ("replies" in order) {
      for (const [delay_ms, hex] of order.replies) {
        setTimeout(() => (received = Buffer.concat([received, Buffer.from(hex, "hex")])), delay_ms);
      }
      virtual.release();
    }
    if ("next_ms" in order) virtual.goOnTo(order.next_ms);
    if ("full" in order) full = order.full;
    if ("quarters" in order) quarters += order.quarters;
  }
});
// The world that started this boot is gone.
control.on("close", () => process.exit(0));

const tell = (told) => control.write(`${JSON.stringify({ ...told, t: Date.now() })}\n`);

const kept = (name) => path.join(job.place, name);
const end = (status) => {
  control.removeAllListeners("close");
  control.end(() => process.exit(status));
};
let watchdog = null;
let fed_ms = 0;
let longest_ms = 0; // between two feedings

mp.registerJsModule("wires", {
  cause: () => job.cause,
  clock_set: () => {}, // nothing here asks the system for the time
  feed: (timeout_ms) => {
    if (virtual && fed_ms) longest_ms = Math.max(longest_ms, Date.now() - fed_ms);
    fed_ms = Date.now();
    clearTimeout(watchdog);
    watchdog = setTimeout(() => end(4), timeout_ms);
  },
  nvs_read: () => (fs.existsSync(kept("nvs.json")) ? fs.readFileSync(kept("nvs.json"), "utf8") : "{}"),
  nvs_write: (text) => replace(kept("nvs.json"), text),
  pin_get: (number) => pins.get(String(number)) ?? 0,
  pin_set: (number, level) => {
    pins.set(String(number), level);
    tell({ pin: number, level });
  },
  quarters: () => {
    const over = quarters;
    quarters = 0;
    return over;
  },
  random: (count) => randomBytes(count).toString("hex"),
  reset: () => end(3),
  rtc_read: () => (fs.existsSync(kept("rtc")) ? fs.readFileSync(kept("rtc"), "utf8") : ""),
  rtc_write: (hex) => replace(kept("rtc"), hex),
  uart_any: () => received.length,
  uart_read: (count) => {
    const taken = received.subarray(0, count).toString("hex");
    received = received.subarray(count);
    return taken;
  },
  sample: (text) => tell({ sample: JSON.parse(text), longest_ms, ...virtual.counts }),
  sample_s: () => job.virtual?.sample_s ?? 0,
  tidy: async () => {
    virtual.hold();
    for (let times = 0; times < 3; times += 1) {
      globalThis.gc();
      await new Promise((done) => setImmediate(done));
    }
    virtual.release();
  },
  uart_write: (hex) => {
    if (!virtual) return uart.write(Buffer.from(hex, "hex"));
    virtual.hold();
    return tell({ uart: hex });
  },
  wifi: () => wifi,
});

mp.registerJsModule("jsnet", virtual ? { connect: async (...to) => (wifi ? virtual.jsnet.connect(...to) : Promise.reject(new Error("no network"))) } : jsnet);

if (virtual) {
  virtual.goOnTo(job.virtual.next_ms);
  virtual.run((at) => tell({ at }));
}
try {
  await mp.runPythonAsync(job.program);
} catch (error) {
  console.error(error.message);
  process.exit(1);
}
